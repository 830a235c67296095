package eval

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/runner"
)

func TestGraphs(t *testing.T) {
	dir := exported(t, carried)
	same, err := Graphs(t.Context(), dir, filepath.Join(dir, "model.onnx"), GraphOptions{Runner: quiet})
	require.NoError(t, err)
	require.Equal(t, GraphReport{Positions: DefaultGraphTokens, Top1: 1, Bound: DefaultBound, Passed: true,
		MeanKLD: same.MeanKLD, MaxKLD: same.MaxKLD}, *same)
	require.Less(t, same.MaxKLD, 1e-9)
	require.NoError(t, same.Err())

	other, err := Graphs(t.Context(), dir, noisy(t, dir, 0.02), GraphOptions{Text: graphText, MaxTokens: 60, Runner: quiet})
	require.NoError(t, err)
	require.Equal(t, 60, other.Positions)
	require.False(t, other.Passed)
	require.Greater(t, other.MaxAbsolute, other.MaxRelative)
	require.Greater(t, other.MaxRelative, DefaultBound)
	require.Greater(t, other.MaxKLD, other.MeanKLD)
	require.ErrorIs(t, other.Err(), ErrGraphsDiffer)
	require.ErrorContains(t, other.Err(), "the bound is 0.0002")
}

func TestGraphsWithoutTokenizer(t *testing.T) {
	dir := exported(t, small)
	_, err := Graphs(t.Context(), dir, dir, GraphOptions{Runner: quiet})
	require.ErrorIs(t, err, os.ErrNotExist, "a text needs one")
	tokens := randomTokens(40)
	r, err := Graphs(t.Context(), dir, noisy(t, dir, 0.001), GraphOptions{Tokens: tokens, Bound: 0.1, Runner: quiet})
	require.NoError(t, err)
	require.True(t, r.Passed, "within the bound that was asked for")
	require.Positive(t, r.MaxRelative)

	for _, c := range []struct {
		why    string
		before string
		o      GraphOptions
		want   error
	}{
		{"too little to run", dir, GraphOptions{Tokens: tokens[:3]}, ErrText},
		{"a token that the model does not have", dir, GraphOptions{Tokens: []int32{1, 2, 3, 4, vocab}}, runner.ErrToken},
		{"another vocabulary", exported(t, carried), GraphOptions{Tokens: tokens}, ErrReference},
		{"a bound that nothing passes", dir, GraphOptions{Tokens: tokens, Bound: -1}, nil},
		{"no model", t.TempDir(), GraphOptions{Tokens: tokens}, runner.ErrNotModel},
	} {
		c.o.Runner = quiet
		_, err := Graphs(t.Context(), c.before, dir, c.o)
		require.Error(t, err, c.why)
		require.ErrorContains(t, err, "eval: ", c.why)
		if c.want != nil {
			require.ErrorIs(t, err, c.want, c.why)
		}
	}
}

func TestDefaultBound(t *testing.T) {
	for kvType, want := range map[string]float64{"float32": 2e-4, "float16": 1e-2, "bfloat16": 8e-2, "int8": 2e-4} {
		require.Equal(t, want, defaultBound(kvType), kvType)
	}
}
