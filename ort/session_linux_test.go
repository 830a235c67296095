package ort_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/ort/orttest"
)

// A session has as many threads as it is given, the caller's among them. Go starts some of its own meanwhile, so that ONNX
// Runtime's must be many to be told apart.
func TestThreads(t *testing.T) {
	const many, gos = 33, 16
	for why, c := range map[string]struct {
		config ort.SessionConfig
		least  int
	}{
		"the caller's alone": {ort.SessionConfig{Threads: 1}, 0},
		"for one node":       {ort.SessionConfig{Threads: many}, many - 1},
		"for several nodes":  {ort.SessionConfig{Threads: 1, InterOpThreads: many}, many - 1},
	} {
		t.Run(why, func(t *testing.T) {
			before := threads(t)
			open(t, "add", c.config)
			started := threads(t) - before
			require.GreaterOrEqual(t, started, c.least)
			require.Less(t, started, c.least+gos)
		})
	}
}

// threads is how many this process has.
func threads(t *testing.T) int {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	require.NoError(t, err)
	return len(tasks)
}

// An arena keeps the memory of what was computed; without one the system has it back.
func TestNoArena(t *testing.T) {
	const bytes = 64 << 20
	x, err := ort.NewTensor(ort.Float32, bytes/4/4, 4)
	require.NoError(t, err)
	defer x.Close()
	clear(x.Bytes()) // so that it is in memory before anything is measured
	for _, noArena := range []bool{false, true} {
		s := open(t, "add", ort.SessionConfig{Threads: 1, NoArena: noArena})
		before := orttest.ResidentAnonymous(t)
		out, err := s.Run(t.Context(), map[string]*ort.Tensor{"x": x, "y": x}, nil)
		require.NoError(t, err)
		require.Greater(t, orttest.ResidentAnonymous(t)-before, bytes/2)
		out["z"].Close()
		require.Equal(t, !noArena, orttest.ResidentAnonymous(t)-before > bytes/2)
		s.Close()
		require.Less(t, orttest.ResidentAnonymous(t)-before, bytes/2)
	}
}
