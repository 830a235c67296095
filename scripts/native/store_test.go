package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// counted is a recipe that writes one file and a link to it, and counts how often it ran.
func counted(runs *int, mu *sync.Mutex) recipe {
	return recipe{
		name: "lib", version: "1.0", platform: "linux-amd64", pin: "sha256:aa",
		make: func(_ context.Context, dir, _ string, _ steps) error {
			mu.Lock()
			*runs++
			mu.Unlock()
			return errors.Join(
				os.WriteFile(filepath.Join(dir, "lib.so.1"), []byte("contents"), 0o644),
				os.Symlink("lib.so.1", filepath.Join(dir, "lib.so")),
			)
		},
	}
}

func TestInstallRunsOnce(t *testing.T) {
	st, runs := store{t.TempDir()}, 0
	r := counted(&runs, new(sync.Mutex))
	require.ErrorIs(t, st.check(r), errMissing)
	for range 3 {
		require.NoError(t, st.install(t.Context(), r, steps{t.Output()}))
	}
	require.Equal(t, 1, runs)
	require.NoError(t, st.verify(r))
	requireOnly(t, st.root, "lib-1.0-linux-amd64")
}

func TestInstallMendsWhatChanged(t *testing.T) {
	tests := []struct {
		name   string
		quick  bool // noticed by install, not only by status
		change func(t *testing.T, dir string)
	}{
		{"library deleted", true, func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, "lib.so.1")))
		}},
		{"library cut short, as by a full disk", true, func(t *testing.T, dir string) {
			require.NoError(t, os.Truncate(filepath.Join(dir, "lib.so.1"), 3))
		}},
		{"link points elsewhere", true, func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, "lib.so")))
			require.NoError(t, os.Symlink("other", filepath.Join(dir, "lib.so")))
		}},
		{"library replaced by a link", true, func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, "lib.so.1")))
			require.NoError(t, os.Symlink("lib.so", filepath.Join(dir, "lib.so.1")))
		}},
		{"manifest is no JSON", true, func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, manifestName), []byte("{"), 0o644))
		}},
		{"manifest lists nothing, so every check of files would pass", true, func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, manifestName),
				[]byte(`{"name":"lib","version":"1.0","platform":"linux-amd64","pin":"sha256:aa"}`), 0o644))
		}},
		{"manifest names a file outside", true, func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, manifestName),
				[]byte(`{"name":"lib","version":"1.0","platform":"linux-amd64","pin":"sha256:aa","files":[{"name":"../x"}]}`), 0o644))
		}},
		{"same size, other contents: only hashing sees it", false, func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "lib.so.1"), []byte("CONTENTS"), 0o644))
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			st, runs := store{t.TempDir()}, 0
			r := counted(&runs, new(sync.Mutex))
			require.NoError(t, st.install(t.Context(), r, steps{t.Output()}))
			test.change(t, st.dir(r))
			require.Error(t, st.verify(r))
			require.NoError(t, st.install(t.Context(), r, steps{t.Output()}))
			if !test.quick {
				require.Equal(t, 1, runs)
				return
			}
			require.Equal(t, 2, runs)
			require.NoError(t, st.verify(r))
			requireOnly(t, st.root, "lib-1.0-linux-amd64")
		})
	}
}

func TestInstallReplacesAnotherPin(t *testing.T) {
	st, runs := store{t.TempDir()}, 0
	r := counted(&runs, new(sync.Mutex))
	require.NoError(t, st.install(t.Context(), r, steps{t.Output()}))
	r.pin = "sha256:bb"
	require.NoError(t, st.install(t.Context(), r, steps{t.Output()}))
	require.Equal(t, 2, runs)
	require.NoError(t, st.verify(r))
}

func TestFailedInstallLeavesNothing(t *testing.T) {
	st, broken := store{t.TempDir()}, errors.New("broken")
	r := recipe{name: "lib", version: "1.0", platform: "linux-amd64",
		make: func(_ context.Context, dir, _ string, _ steps) error {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "half"), nil, 0o644))
			return broken
		}}
	require.ErrorIs(t, st.install(t.Context(), r, steps{t.Output()}), broken)
	requireOnly(t, st.root)
}

// All installers begin before any ends, so that every one but the first finds a finished folder in its way.
func TestConcurrentInstalls(t *testing.T) {
	const installers = 8
	st, runs := store{t.TempDir()}, 0
	inner := counted(&runs, new(sync.Mutex))
	r := inner
	var begun sync.WaitGroup
	begun.Add(installers)
	r.make = func(ctx context.Context, dir, scratch string, log steps) error {
		begun.Done()
		begun.Wait()
		return inner.make(ctx, dir, scratch, log)
	}
	errs := make(chan error, installers)
	for range installers {
		go func() { errs <- st.install(context.Background(), r, steps{t.Output()}) }()
	}
	for range installers {
		require.NoError(t, <-errs)
	}
	require.Equal(t, installers, runs)
	require.NoError(t, st.verify(r))
	requireOnly(t, st.root, "lib-1.0-linux-amd64")
}

func TestInstallSweepsOldScratch(t *testing.T) {
	st, runs := store{t.TempDir()}, 0
	old, young := filepath.Join(st.root, ".installing-1"), filepath.Join(st.root, ".installing-2")
	require.NoError(t, os.Mkdir(old, 0o755))
	require.NoError(t, os.Mkdir(young, 0o755))
	long := time.Now().Add(-2 * scratchLife)
	require.NoError(t, os.Chtimes(old, long, long))
	require.NoError(t, st.install(t.Context(), counted(&runs, new(sync.Mutex)), steps{t.Output()}))
	requireOnly(t, st.root, ".installing-2", "lib-1.0-linux-amd64")
}

func TestOpenStore(t *testing.T) {
	t.Setenv("QWENRT_NATIVE_DIR", "")
	t.Setenv("HOME", filepath.FromSlash("/home/u"))
	t.Setenv("XDG_CACHE_HOME", "")
	cache, err := os.UserCacheDir()
	require.NoError(t, err)
	st, err := openStore()
	require.NoError(t, err)
	require.Equal(t, filepath.Join(cache, "qwenrt", "native"), st.root)

	t.Setenv("QWENRT_NATIVE_DIR", "relative")
	st, err = openStore()
	require.NoError(t, err)
	require.True(t, filepath.IsAbs(st.root), "linker flags must hold wherever the build runs")
}

func TestContains(t *testing.T) {
	st := store{filepath.FromSlash("/cache/native")}
	require.True(t, st.contains(filepath.FromSlash("/cache/native/lib-1/lib.so")))
	require.False(t, st.contains(filepath.FromSlash("/cache/native-other/lib.so")), "shared prefix of a name is no folder")
	require.False(t, st.contains(filepath.FromSlash("/cache/native/../lib.so")))
	require.False(t, st.contains("lib.so"))
}

// requireOnly fails unless dir holds exactly the names, which must be sorted.
func requireOnly(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var got []string
	for _, entry := range entries {
		got = append(got, entry.Name())
	}
	require.Equal(t, names, got)
}
