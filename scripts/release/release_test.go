package main

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func write(t *testing.T, dir, name, text string, mode os.FileMode) string {
	t.Helper()
	file := filepath.Join(dir, name)
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o777))
	require.NoError(t, os.WriteFile(file, []byte(text), mode))
	return file
}

// The same files give the same bytes, whatever their times, owners and the umask say.
func TestArchive(t *testing.T) {
	dir := t.TempDir()
	files := map[string]string{
		"bin/qwenrt": write(t, dir, "p", "program", 0o700),
		"README.md":  write(t, dir, "r", "text", 0o600),
	}
	made := time.Unix(1_700_000_000, 0).UTC()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	require.NoError(t, writeArchive(a, "root", files, made))
	require.NoError(t, os.Chtimes(files["README.md"], made, made))
	require.NoError(t, os.Chmod(files["README.md"], 0o644))
	require.NoError(t, writeArchive(b, "root", files, made))
	first, err := os.ReadFile(a)
	require.NoError(t, err)
	second, err := os.ReadFile(b)
	require.NoError(t, err)
	require.Equal(t, first, second)

	in, err := os.Open(a)
	require.NoError(t, err)
	defer in.Close()
	gz, err := gzip.NewReader(in)
	require.NoError(t, err)
	var names []string
	for tr := tar.NewReader(gz); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		names = append(names, h.Name)
		require.True(t, h.ModTime.Equal(made))
		require.Equal(t, map[bool]int64{true: 0o755, false: 0o644}[h.Name == "root/bin/qwenrt"], h.Mode)
	}
	require.Equal(t, []string{"root/README.md", "root/bin/qwenrt"}, names)
	require.Error(t, writeArchive(b, "root", map[string]string{"x": dir}, made), "a folder is no file")
}

// The library is found whether the variable names a link or a file; its notices travel with it.
func TestRuntime(t *testing.T) {
	dir := t.TempDir()
	library := write(t, dir, "libonnxruntime.so.1.2.3", "lib", 0o755)
	write(t, dir, "libonnxruntime_providers_shared.so", "lib", 0o755)
	link := filepath.Join(dir, "libonnxruntime.so")
	require.NoError(t, os.Symlink(filepath.Base(library), link))
	require.ErrorContains(t, addRuntime(map[string]string{}, link), "no licence file")
	write(t, dir, "ThirdPartyNotices.txt", "n", 0o644)
	files := map[string]string{}
	require.NoError(t, addRuntime(files, link))
	require.Len(t, files, 3)
	require.Contains(t, files, "lib/libonnxruntime.so.1.2.3")
	require.Contains(t, files, "lib/libonnxruntime_providers_shared.so")
	require.Contains(t, files, "licenses/onnxruntime/ThirdPartyNotices.txt")
	require.ErrorContains(t, addRuntime(files, ""), "QWENRT_ORT_LIB is not set")
}

func TestCrates(t *testing.T) {
	dir := t.TempDir()
	lock := write(t, dir, "Cargo.lock", "[[package]]\nname = \"own\"\nversion = \"1.0.0\"\n\n"+
		"[[package]]\nname = \"a\"\nversion = \"1.2.3\"\nsource = \"registry\"\n\n"+
		"[[package]]\nname = \"windows-only\"\nversion = \"1.2.3\"\nsource = \"registry\"\n", 0o644)
	require.ErrorContains(t, addCrates(map[string]string{}, lock, dir), "no crate")
	write(t, dir, "registry/src/index/a-1.2.3/LICENSE-MIT", "MIT", 0o644)
	write(t, dir, "registry/src/index/a-1.2.3/lib.rs", "code", 0o644)
	files := map[string]string{}
	require.NoError(t, addCrates(files, lock, dir))
	require.Len(t, files, 1)
	require.Contains(t, files, "licenses/crates/a-1.2.3/LICENSE-MIT")
}
