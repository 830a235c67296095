// Package atomicfile writes files that appear under their names when they are complete: whoever reads one sees the
// old content or the new, and after an error or a kill the old is still there.
//
//	err := atomicfile.Write("report.json", 0o666, func(w io.Writer) error { return json.NewEncoder(w).Encode(report) })
//
// It never makes folders, and it never locks: of two that write the same file at once, the last wins.
package atomicfile

import (
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Write puts what write writes at path, in place of a file that is there. The temporary file lies beside it, with a
// name that starts with a dot; after an error it is gone. perm is for a new file, before the umask, as in os.OpenFile.
// Devices and pipes, as /dev/null, are not replaced but written to.
//
// Errors: those of write and of the file system.
func Write(path string, perm fs.FileMode, write func(io.Writer) error) error {
	return replace(path, perm, write, func(*os.File) error { return nil })
}

// WriteBytes is Write for content that is there already.
func WriteBytes(path string, perm fs.FileMode, content []byte) error {
	return Write(path, perm, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
}

// WriteDurable is Write for files that are to outlast a power cut: content and name are on the disk when it returns.
func WriteDurable(path string, perm fs.FileMode, write func(io.Writer) error) error {
	if err := replace(path, perm, write, (*os.File).Sync); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func replace(path string, perm fs.FileMode, write func(io.Writer) error, finish func(*os.File) error) error {
	if st, err := os.Stat(path); err == nil && st.Mode()&(fs.ModeDevice|fs.ModeNamedPipe) != 0 {
		return writeThrough(path, write)
	}
	dir, base := filepath.Split(path)
	temp := filepath.Join(dir, "."+base+"."+rand.Text()+".tmp")
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	if err = write(f); err == nil {
		err = finish(f)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return nil
}

func writeThrough(path string, write func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}
