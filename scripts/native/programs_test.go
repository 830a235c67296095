package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// programs puts shell scripts on PATH, before what is there, and returns a function that lists the calls so far, one
// line each: name and arguments.
func programs(t *testing.T, scripts map[string]string) (calls func() []string) {
	t.Helper()
	dir := t.TempDir()
	log := filepath.Join(dir, "calls")
	for name, body := range scripts {
		script := "#!/bin/sh\necho \"" + name + " $*\" >> '" + log + "'\n" + body
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755))
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	return func() []string {
		data, err := os.ReadFile(log)
		if os.IsNotExist(err) {
			return nil
		}
		require.NoError(t, err)
		return strings.Split(strings.TrimSpace(string(data)), "\n")
	}
}

// noPrograms empties PATH.
func noPrograms(t *testing.T) { t.Setenv("PATH", t.TempDir()) }
