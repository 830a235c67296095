package ort

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	binding "github.com/yalue/onnxruntime_go"

	"github.com/qwenrt/qwenrt/ort/internal/capi"
)

// put makes an empty library in folder, which may be new.
func put(t *testing.T, folder, name string) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(folder, 0o755))
	path := filepath.Join(folder, name)
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	return path
}

func TestFindGiven(t *testing.T) {
	dir := t.TempDir()
	names := libraryNames()
	want := put(t, dir, names[0])
	other := put(t, dir, "my-own-build")

	found, err := Find(other)
	require.NoError(t, err)
	require.Equal(t, other, found, "a file may have any name")
	found, err = Find(dir)
	require.NoError(t, err)
	require.Equal(t, want, found, "a folder is looked through")

	t.Setenv(libraryVariable, want)
	found, err = Find("")
	require.NoError(t, err)
	require.Equal(t, want, found)
	found, err = Find(other)
	require.NoError(t, err)
	require.Equal(t, other, found, "what the caller says goes before the environment")

	t.Chdir(dir)
	found, err = Find("my-own-build")
	require.NoError(t, err)
	require.True(t, filepath.IsAbs(found), "found stays right when the process changes its folder")
}

func TestFindMissing(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	_, err := Find(none)
	requireMissing(t, err, none)
	t.Setenv(libraryVariable, none)
	_, err = Find("")
	requireMissing(t, err, libraryVariable+" says "+none)
	empty := t.TempDir()
	_, err = Find(empty)
	requireMissing(t, err, empty)
	_, err = findIn([]string{empty, none})
	requireMissing(t, err, empty+", "+none)
}

func requireMissing(t *testing.T, err error, says string) {
	t.Helper()
	require.ErrorIs(t, err, ErrLibraryNotFound)
	require.ErrorContains(t, err, says)
	require.ErrorContains(t, err, "make native")
	require.ErrorContains(t, err, `eval "$(go run github.com/qwenrt/qwenrt/scripts/native env)"`)
	require.ErrorContains(t, err, libraryVariable)
	require.NotContains(t, err.Error(), "\n")
}

func TestFindOrder(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	put(t, second, libraryNames()[0])
	path, err := findIn([]string{filepath.Join(first, "none"), first, second})
	require.NoError(t, err)
	require.Equal(t, second, filepath.Dir(path))
	names := libraryNames()
	other := strings.ReplaceAll(names[len(names)-1], "*", "1.31.1")
	put(t, first, other)
	path, err = findIn([]string{first, second})
	require.NoError(t, err)
	require.Equal(t, filepath.Join(first, other), path, "another release, in a folder that comes before")
	put(t, second, other)
	path, err = findIn([]string{second, first})
	require.NoError(t, err)
	require.Equal(t, filepath.Join(second, names[0]), path, "the pinned release comes before others")
}

func TestSearchFolders(t *testing.T) {
	t.Setenv(nativeVariable, filepath.Join("some", "root"))
	t.Setenv(loaderVariable(), strings.Join([]string{"a", "", "b"}, string(os.PathListSeparator)))
	folders := searchFolders()
	executable, err := os.Executable()
	require.NoError(t, err)
	dir := filepath.Dir(executable)
	require.Equal(t, []string{
		dir,
		filepath.Join(dir, "lib"),
		filepath.Join(filepath.Dir(dir), "lib"),
		filepath.Join("some", "root", "onnxruntime-"+release+"-"+runtime.GOOS+"-"+runtime.GOARCH),
		"a", "b",
	}, folders[:6])

	t.Setenv(nativeVariable, "")
	cache, err := os.UserCacheDir()
	require.NoError(t, err)
	require.True(t, slices.ContainsFunc(searchFolders(), func(folder string) bool {
		return strings.HasPrefix(folder, filepath.Join(cache, "qwenrt", "native"))
	}))
}

func TestLoadRefuses(t *testing.T) {
	garbage := filepath.Join(t.TempDir(), "garbage.so")
	require.NoError(t, os.WriteFile(garbage, []byte("no library"), 0o600))
	stranger := filepath.Join(t.TempDir(), "stranger.c")
	require.NoError(t, os.WriteFile(stranger, []byte("int qwenrt_test;\n"), 0o600))
	for name, test := range map[string]struct {
		path string
		want error
		says string
	}{
		"a file that is no library":            {garbage, ErrRuntime, "garbage.so"},
		"a library that is no ONNX Runtime":    {compile(t, stranger), ErrRuntime, "not an ONNX Runtime library"},
		"an ONNX Runtime from before this API": {compile(t, "testdata/old_library.c"), ErrVersion, "is release 1.19.2, needed is 1.24 or newer"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(test.path, LogNothing)
			require.ErrorIs(t, err, test.want)
			require.ErrorContains(t, err, test.says)
		})
	}
	_, err := load(garbage, LogLevel(9))
	require.ErrorIs(t, err, ErrInvalidArgument)
}

// Memory that a device shares with the host is the device's, and can be read.
func TestSharedLocation(t *testing.T) {
	at := Location{capi.Memory{Name: "CudaPinned", Kind: 1, ID: 2, Host: true}}
	require.True(t, at.OnCPU())
	require.Equal(t, "CudaPinned:2", at.String())
	require.NotEqual(t, Location{}, at)
}

// CUDA's library is loaded where ONNX Runtime was built for it and all that it needs
// is there: what it would do otherwise is crash.
func TestRegisterCUDA(t *testing.T) {
	require.NoError(t, Init(Environment{}))
	dir := t.TempDir()
	lib := &runtimeLibrary{path: filepath.Join(dir, "libonnxruntime.so"), version: "1.27.9", providers: []string{"CPUExecutionProvider"}}
	require.ErrorContains(t, lib.registerCUDA(), "release 1.27.9, has no plug-in for it")
	lib.providers = append(lib.providers, cudaProvider)
	require.ErrorContains(t, lib.registerCUDA(), "release 1.27.9, has no plug-in for it")
	lib.version = "1.28.0"
	require.ErrorContains(t, lib.registerCUDA(), lib.bundled("onnxruntime_providers_shared"))
	put(t, dir, filepath.Base(lib.bundled("onnxruntime_providers_shared")))
	require.ErrorContains(t, lib.registerCUDA(), lib.bundled("onnxruntime_providers_cuda"))
	put(t, dir, filepath.Base(lib.bundled("onnxruntime_providers_cuda")))
	require.ErrorIs(t, lib.registerCUDA(), ErrProvider, "an empty file is no library")
}

// compile makes a shared library of one C file, with the compiler that cgo needs
// anyway.
func compile(t *testing.T, source string) string {
	t.Helper()
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "cc"
	}
	out := filepath.Join(t.TempDir(), "library.so")
	text, err := exec.Command(cc, "-shared", "-fPIC", "-o", out, source).CombinedOutput()
	require.NoError(t, err, "%s", text)
	return out
}

func TestNewEnough(t *testing.T) {
	for version, want := range map[string]bool{
		"1.24.0": true, "1.32.0": true, "1.100.0-dev": true, "2.0.0": true,
		"1.23.2": false, "1.9.1": false, "": false, "1": false, "one.thirty": false,
	} {
		require.Equal(t, want, newEnough(version), version)
	}
}

// A process that runs a model leaves no trace of ONNX Runtime's telemetry in the user's folders: with Environment.Telemetry
// the one below writes Microsoft/DeveloperTools into the cache.
func TestTelemetry(t *testing.T) {
	if os.Getenv("QWENRT_TEST_TELEMETRY") != "" { // the process
		require.NoError(t, Init(Environment{}))
		s, err := NewSession(filepath.Join("testdata", "add.onnx"), SessionConfig{})
		require.NoError(t, err)
		s.Close()
		return
	}
	library, err := Find("")
	require.NoError(t, err)
	home := t.TempDir()
	c := exec.Command(os.Args[0], "-test.run=^TestTelemetry$")
	c.Env = []string{"HOME=" + home, "QWENRT_ORT_LIB=" + library, "QWENRT_TEST_TELEMETRY=1"} // without what may tell it that it is tested
	text, err := c.CombinedOutput()
	require.NoError(t, err, string(text))
	found, err := os.ReadDir(home)
	require.NoError(t, err)
	require.Empty(t, found)
}

func TestInit(t *testing.T) {
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			if err := Init(Environment{}); err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	if t.Failed() {
		t.FailNow()
	}
	require.True(t, newEnough(Version()), Version())
	require.FileExists(t, LibraryPath())
	require.NoError(t, Init(Environment{LibraryPath: LibraryPath()}), "the same library again")
	link := filepath.Join(t.TempDir(), libraryNames()[0])
	require.NoError(t, os.Symlink(LibraryPath(), link))
	require.NoError(t, Init(Environment{LibraryPath: link}), "the same by another name")
	err := Init(Environment{LibraryPath: put(t, t.TempDir(), libraryNames()[0])})
	require.ErrorIs(t, err, ErrInitialized)
	require.ErrorContains(t, err, LibraryPath())
	require.ErrorIs(t, Init(Environment{LibraryPath: filepath.Join(t.TempDir(), "none")}), ErrLibraryNotFound)
}

// The one thing that is taken from inside the Go binding is where it was in the
// version in go.mod.
func TestBindingLayout(t *testing.T) {
	_, err := current()
	require.NoError(t, err)
	o, err := binding.NewSessionOptions()
	require.NoError(t, err)
	raw, err := rawOptions(o)
	require.NoError(t, err)
	require.NotNil(t, raw)
	require.NoError(t, o.Destroy())
	_, err = rawOptions(o)
	require.ErrorIs(t, err, ErrRuntime, "destroyed options have no handle")

	type some_OrtSessionOptions int
	for why, owner := range map[string]any{
		"no such field":    &struct{ p *some_OrtSessionOptions }{},
		"not a pointer":    &struct{ o uintptr }{1},
		"another pointer":  &struct{ o *int }{new(int)},
		"a nil pointer":    &struct{ o *some_OrtSessionOptions }{},
		"another C handle": &struct{ o *testing.T }{t},
	} {
		_, err := handleIn(owner, "o", "OrtSessionOptions")
		require.ErrorIs(t, err, ErrRuntime, why)
		require.ErrorContains(t, err, "in its field o", why)
	}
}
