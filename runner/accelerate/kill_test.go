package accelerate_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/runner/accelerate"
)

// Variables of a process that TestKilled starts: it builds into a folder, or else into a cache below another.
const (
	killedOutput = "QWENRT_TEST_KILLED_OUTPUT"
	killedCache  = "QWENRT_TEST_KILLED_CACHE"
)

// TestKilled holds that a process that is killed while it writes a model leaves nothing under a name, and that what it does leave
// goes with the next build of the same folder, or when the cache is pruned; not while it lives.
func TestKilled(t *testing.T) {
	if dir, cache := os.Getenv(killedOutput), os.Getenv(killedCache); dir != "" || cache != "" {
		buildAndStop(t, dir, cache)
		return
	}
	t.Run("build", func(t *testing.T) {
		dir := t.TempDir()
		out := accelerate.Output{Dir: filepath.Join(dir, "out"), Replace: true}
		build := func() {
			_, err := accelerate.Build(t.Context(), quick, out, accelerate.Config{}, accelerate.Events{})
			require.NoError(t, err)
		}
		kill := halfBuilt(t, killedOutput+"="+out.Dir)
		require.NoDirExists(t, out.Dir)
		stage := stages(t, dir)
		require.Len(t, stage, 1)
		files, err := os.ReadDir(stage[0])
		require.NoError(t, err)
		require.NotEmpty(t, files, "it has begun to write")
		build()
		require.Equal(t, stage, stages(t, dir), "the other process is still at it")
		kill()
		require.Equal(t, stage, stages(t, dir))
		build()
		require.Empty(t, stages(t, dir))
		require.DirExists(t, out.Dir)
	})
	t.Run("cache", func(t *testing.T) {
		root := ownCache(t)
		models := filepath.Join(root, "models")
		prune := func() int {
			removed, err := accelerate.Prune(t.Context(), 0)
			require.NoError(t, err)
			return len(removed)
		}
		kill := halfBuilt(t, killedCache+"="+os.Getenv("XDG_CACHE_HOME"))
		require.Zero(t, prune(), "it is being made")
		require.Len(t, stages(t, models), 1)
		kill()
		entries, err := accelerate.CacheEntries()
		require.NoError(t, err)
		require.Len(t, entries, 1)
		require.Equal(t, accelerate.KindLeftOver, entries[0].Kind)
		require.Positive(t, entries[0].Bytes)
		require.Equal(t, 1, prune())
		require.Empty(t, stages(t, models))
	})
}

// buildAndStop is what the process does: it stops where weights are half written, and says so.
func buildAndStop(t *testing.T, dir, cache string) {
	events := accelerate.Events{Progress: func(int64, int64) {
		fmt.Println("writing")
		_, _ = io.Copy(io.Discard, os.Stdin) // until the end
	}}
	from := accelerate.Source{Dir: carried}
	var err error
	if dir != "" {
		_, err = accelerate.Build(context.Background(), from, accelerate.Output{Dir: dir}, accelerate.Config{}, events)
	} else {
		for _, name := range []string{"HOME", "XDG_CACHE_HOME", "LocalAppData"} {
			t.Setenv(name, cache)
		}
		_, _, err = accelerate.Cached(context.Background(), from, accelerate.Config{}, events)
	}
	t.Fatalf("the build went on: %v", err)
}

// halfBuilt starts the process, and gives what kills it.
func halfBuilt(t *testing.T, variable string) (kill func()) {
	t.Helper()
	c := exec.Command(os.Args[0], "-test.run=^TestKilled$")
	c.Env = append(os.Environ(), variable, "TMPDIR="+t.TempDir())
	c.Stderr = os.Stderr
	stdin, err := c.StdinPipe()
	require.NoError(t, err)
	stdout, err := c.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	kill = func() {
		_ = c.Process.Kill()
		_ = c.Wait()
		_ = stdin.Close()
	}
	t.Cleanup(kill)
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "writing\n", line)
	return kill
}

// stages are the folders in the making in dir.
func stages(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		if strings.Contains(e.Name(), ".qwenrt-") {
			all = append(all, filepath.Join(dir, e.Name()))
		}
	}
	return all
}
