//go:build unix

package safetensors_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/qwenrt/qwenrt/models/safetensors"
)

// Opening a named pipe would wait for a writer for ever.
func TestNamedPipeIsRefused(t *testing.T) {
	for _, name := range []string{"model.safetensors", "model.safetensors.index.json"} {
		dir := t.TempDir()
		require.NoError(t, unix.Mkfifo(filepath.Join(dir, name), 0o644))
		_, err := safetensors.Open(dir)
		require.ErrorContains(t, err, "not a regular file")
	}
}
