package atomicfile

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

var writers = map[string]func(string, fs.FileMode, func(io.Writer) error) error{"write": Write, "durable": WriteDurable}

func TestWriteBytes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, WriteBytes(path, 0o600, []byte("text")))
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "text", string(b))
}

func put(text string) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	}
}

func names(t *testing.T, dir string) (out []string) {
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestReplaces(t *testing.T) {
	for name, writer := range writers {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "file")
			require.NoError(t, writer(path, 0o600, put("old, and longer")))
			require.NoError(t, writer(path, 0o600, put("new")))
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, "new", string(b))
			st, err := os.Stat(path)
			require.NoError(t, err)
			require.Equal(t, fs.FileMode(0o600), st.Mode().Perm())
			require.Equal(t, []string{"file"}, names(t, dir))
		})
	}
}

// The old file is whole while the new one is written, and stays when that fails.
func TestFailureKeepsTheOld(t *testing.T) {
	broken := errors.New("broken")
	for name, writer := range writers {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "file")
			require.NoError(t, writer(path, 0o666, put("old")))
			err := writer(path, 0o666, func(w io.Writer) error {
				require.NoError(t, put("half of the n")(w))
				b, err := os.ReadFile(path)
				require.NoError(t, err)
				require.Equal(t, "old", string(b))
				return broken
			})
			require.ErrorIs(t, err, broken)
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, "old", string(b))
			require.Equal(t, []string{"file"}, names(t, dir))
		})
	}
}

func TestCannot(t *testing.T) {
	dir := t.TempDir()
	for name, writer := range writers {
		t.Run(name, func(t *testing.T) {
			require.ErrorIs(t, writer(filepath.Join(dir, "absent", "file"), 0o666, put("text")), fs.ErrNotExist)
			taken := filepath.Join(dir, "folder")
			require.NoError(t, os.MkdirAll(filepath.Join(taken, "with"), 0o777))
			require.Error(t, writer(taken, 0o666, put("text")), "a folder is not replaced")
			require.Equal(t, []string{"folder"}, names(t, dir))
		})
	}
}
