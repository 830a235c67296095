package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/models/tiny"
	"github.com/qwenrt/qwenrt/runner/bench"
)

func TestBenchLoad(t *testing.T) {
	need(t)
	ownHome(t)
	file := filepath.Join(t.TempDir(), "prompt.txt")
	require.NoError(t, os.WriteFile(file, []byte("Once upon a time there was a fox."), 0o666))
	r := qwenrt(t, "bench", tiny.Name, "--concurrency", "1,3", "-p", "5", "-n", "4", "-r", "2", "-t", "1", "-o", "json")
	require.Equal(t, exitOK, r.code, r.stderr)
	var levels []bench.Load
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &levels))
	require.Len(t, levels, 2)
	require.Equal(t, []int{3, 3, 6, 5, 4}, []int{levels[1].Slots, levels[1].Concurrency, levels[1].Requests, levels[1].Prompt, levels[1].Gen})

	r = qwenrt(t, "bench", tiny.Name, "--concurrency", "2", "-p", "5,3", "-n", "2,1", "-b", "4,8", "-r", "1", "-t", "1", "-o", "json")
	require.Equal(t, exitOK, r.code, r.stderr)
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &levels))
	var product [][]int
	for _, l := range levels {
		product = append(product, []int{l.Batch, l.Prompt, l.Gen})
	}
	require.Equal(t, [][]int{{4, 5, 2}, {4, 5, 1}, {4, 3, 2}, {4, 3, 1}, {8, 5, 2}, {8, 5, 1}, {8, 3, 2}, {8, 3, 1}}, product)

	r = qwenrt(t, "bench", tiny.Name, "--prompt-file", file, "-n", "3", "-r", "2", "-t", "1")
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Equal(t, 3, strings.Count(r.stdout, "\n"), r.stdout)
	require.Contains(t, r.stdout, "\n| 1 | 512 | 1 | 2 | ")

	empty := filepath.Join(t.TempDir(), "empty.txt")
	require.NoError(t, os.WriteFile(empty, nil, 0o666))
	for want, args := range map[string][]string{
		"want 1 or more":      {"--concurrency", "1,0"},
		"md or json":          {"--concurrency", "1", "-o", "csv"},
		"a prompt of 0 bytes": {"--prompt-file", empty},
		"not both":            {"--concurrency", "1", "--overhead"},
		"no --n-depth":        {"--concurrency", "1", "-d", "0,8"},
		"no --pg":             {"--prompt-file", file, "-pg", "4,4"},
		"or --n-prompt":       {"--prompt-file", file, "-p", "4"},
		"no --output-err":     {"--concurrency", "1", "-oe", "json"},
		"no such file or":     {"--prompt-file", empty + "x"},
	} {
		r := qwenrt(t, append([]string{"bench", tiny.Name}, args...)...)
		require.NotEqual(t, exitOK, r.code, want)
		require.Contains(t, r.stderr, want)
	}
}
