package tune

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/runner/accelerate"
)

func ownCache(t *testing.T) {
	t.Helper()
	home := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", home)
	t.Setenv("HOME", home)
}

// A search is interrupted, goes on where it was, keeps to the bound, and says why each value was passed over.
func TestSearch(t *testing.T) {
	ownCache(t)
	m, err := ReadModel("../../models/tiny/qwen3-tiny")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var before []Trial
	s := Search{
		From: accelerate.Source{Dir: "../../models/tiny/qwen3-tiny"}, Context: 32, MaxKLD: 0.01, Text: sentences(80),
		Budget: 20 * time.Millisecond, Dimensions: []string{"weights", "spin"}, State: filepath.Join(t.TempDir(), "state", "tune.json"),
		Tried: func(trial Trial) {
			if before = append(before, trial); len(before) == 2 {
				cancel()
			}
		},
	}
	_, err = s.Run(ctx, m)
	require.ErrorIs(t, err, context.Canceled)
	require.Len(t, before, 2)

	var built int
	s.Events.Step = func(string) { built++ }
	s.Tried = nil
	found, err := s.Run(t.Context(), m)
	require.NoError(t, err)
	require.Equal(t, before, found.Trials[:2], "what was known is not done again")
	require.Equal(t, len(found.Trials)-2, built)
	names := map[string]Trial{}
	for _, trial := range found.Trials {
		names[trial.Dimension+" "+trial.Value] = trial
		require.Equal(t, trial.Kept, trial.Reason == "", trial.Value)
	}
	require.Equal(t, "loses too much", names["weights int4, blocks of 128"].Reason)
	require.Contains(t, names, "spin off")
	require.NotEmpty(t, found.Frontier)
	for _, trial := range found.Trials {
		if trial.Kept {
			require.LessOrEqual(t, trial.KLD, 0.01)
		}
	}
	require.NoError(t, found.Best.Validate())
}

func TestSearchFaults(t *testing.T) {
	_, err := Search{Goal: Quality, Context: -1, Dimensions: []string{"colour"}}.Run(t.Context(), small)
	for _, want := range []string{`goal "quality"`, "context -1", `dimension "colour" is unknown`} {
		require.ErrorContains(t, err, want)
	}
	ownCache(t)
	s := Search{From: accelerate.Source{Dir: "../../models/tiny/qwen3-tiny"}, State: "search_test.go"}
	_, err = s.Run(t.Context(), small)
	require.ErrorContains(t, err, "not the state of a search")
	_, err = Search{From: accelerate.Source{Dir: t.TempDir()}}.Run(t.Context(), small)
	require.Error(t, err)
}

// What can be made is changed by each value of each dimension, and is a valid configuration.
func TestDimensions(t *testing.T) {
	for _, d := range Dimensions() {
		require.NotEmpty(t, d.Doc, d.Name)
		base := accelerate.Config{Precision: accelerate.Int8}
		values := d.values(base, small, 8)
		require.NotEmpty(t, values, d.Name)
		for _, v := range values {
			c := base
			v.apply(&c)
			require.NoError(t, c.Validate(), "%s: %s", d.Name, v.name)
			require.NotEqual(t, key(base), key(c), "%s: %s", d.Name, v.name)
		}
	}
	require.Empty(t, affinities(accelerate.Config{Threads: 1}, small, 8), "one thread is the caller's")
}

func TestFrontier(t *testing.T) {
	all := []Trial{
		{Value: "slow and exact", Decode: 10, Memory: 100, KLD: 0.001},
		{Value: "fast and coarse", Decode: 20, Memory: 50, KLD: 0.02},
		{Value: "slow and coarse", Decode: 10, Memory: 50, KLD: 0.02},
		{Value: "never ran"},
	}
	front := frontier(all)
	require.Len(t, front, 2)
	require.Equal(t, "fast and coarse", front[0].Value)
	require.Equal(t, "slow and exact", front[1].Value)
}
