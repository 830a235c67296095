package main

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/passes"
	"github.com/qwenrt/qwenrt/models/qwen3"
	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/bench"
)

// TestLoop holds that the loop does what the runner does: their logits are the same.
func TestLoop(t *testing.T) {
	const checkpoint = "../../models/tiny/qwen3-tiny"
	source, err := qwen3.Open(checkpoint)
	require.NoError(t, err)
	defer source.Close()
	model, err := source.Model(qwen3.Options{})
	require.NoError(t, err)
	_, err = graphopt.Run(t.Context(), model, passes.All(), graphopt.Options{Target: graphopt.CPU, MaxPositions: int64(source.Facts().ContextLength)})
	require.NoError(t, err)
	dir := t.TempDir()
	path := filepath.Join(dir, "model.onnx")
	require.NoError(t, ir.Save(t.Context(), model, path, ir.SaveOptions{}))
	config, err := os.ReadFile(filepath.Join(checkpoint, "config.json"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), config, 0o666))

	l, err := open(path, 1, 64)
	require.NoError(t, err)
	defer l.Close()
	for _, test := range []bench.Test{{Prompt: 5, Gen: 2, Depth: 3}, {Gen: 1, Depth: 10}} {
		took, err := l.Run(t.Context(), test)
		require.NoError(t, err)
		require.Positive(t, took)
	}

	r, err := runner.Open(t.Context(), dir, runner.Options{Threads: 1})
	require.NoError(t, err)
	defer r.Close()
	s, err := r.NewSequence()
	require.NoError(t, err)
	defer s.Close()
	random := rand.New(rand.NewPCG(0, 0)) // the loop's own
	tokens := make([]int32, 11)
	for i := range tokens {
		tokens[i] = int32(random.Int64N(int64(r.Info().Vocabulary)))
	}
	for _, n := range []int{3, 5, 1, 1, 1} {
		want, err := s.Prefill(t.Context(), tokens[:n])
		require.NoError(t, err)
		tokens = tokens[n:]
		if len(tokens) == 0 {
			require.InDeltaSlice(t, want, ort.Data[float32](l.logits), 1e-4)
		}
	}
	_, err = l.Run(t.Context(), bench.Test{Prompt: 65})
	require.ErrorContains(t, err, "room for 64")
}
