//go:build unix

package atomicfile

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// What cannot be replaced is written to: with the rights to, a rename would put a file in the place of /dev/null.
func TestPipe(t *testing.T) {
	for name, writer := range writers {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "pipe")
			require.NoError(t, syscall.Mkfifo(path, 0o600))
			r, err := os.OpenFile(path, os.O_RDWR, 0) // a reader alone would wait for the writer
			require.NoError(t, err)
			defer r.Close()
			require.NoError(t, writer(path, 0o666, put("text")))
			b := make([]byte, 4)
			st, err := os.Stat(path)
			require.NoError(t, err)
			require.Equal(t, fs.ModeNamedPipe, st.Mode().Type())
			_, err = r.Read(b)
			require.NoError(t, err)
			require.Equal(t, "text", string(b))
			require.Equal(t, []string{"pipe"}, names(t, dir))
		})
	}
}
