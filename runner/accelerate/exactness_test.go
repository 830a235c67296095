package accelerate_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/internal/reftest"
	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/accelerate"
	"github.com/qwenrt/qwenrt/runner/sample"
)

// TestExactness compares models with the reference through the runner, as they are exported and as
// they are optimised: logits of every position within reftest.Tolerance, the whole prompt at once, in
// chunks, and token by token, and the greedy tokens the same.
func TestExactness(t *testing.T) {
	found, err := filepath.Glob(checkpoints + "*/reference.safetensors")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(found), 8)
	for _, reference := range append(found, "../../models/testdata/reference/logits.safetensors") {
		source := accelerate.Source{Dir: filepath.Dir(reference)}
		if filepath.Base(reference) == "logits.safetensors" {
			source.Dir = carried
		}
		prompts := reftest.Load(t, reference)
		t.Run(filepath.Base(source.Dir)+" exported", func(t *testing.T) {
			plain := out(t, "plain")
			_, err := accelerate.Export(t.Context(), source, plain, accelerate.Config{}, accelerate.Events{})
			require.NoError(t, err)
			requireExact(t, plain.Dir, false, prompts)
		})
		t.Run(filepath.Base(source.Dir)+" optimised", func(t *testing.T) {
			fused := out(t, "fused")
			_, err := accelerate.Build(t.Context(), source, fused, accelerate.Config{Precision: accelerate.None}, accelerate.Events{})
			require.NoError(t, err)
			requireExact(t, fused.Dir, true, prompts)
		})
	}
}

func requireExact(t *testing.T, dir string, shared bool, prompts []reftest.Prompt) {
	t.Helper()
	open := func(chunk int) *runner.Runner {
		r, err := runner.Open(t.Context(), dir, runner.Options{PrefillChunk: chunk})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, r.Close()) })
		return r
	}
	whole, chunks := open(0), open(5)
	require.Equal(t, shared, whole.Info().SharedKV)
	require.Equal(t, shared, whole.Info().LastLogits)
	for i, p := range prompts {
		tokens := make([]int32, len(p.IDs))
		for j, id := range p.IDs {
			tokens[j] = int32(id)
		}
		exact := func(how string, got, want []float32) {
			t.Helper()
			require.LessOrEqual(t, reftest.MaxError(t, got, want, p.Vocab), reftest.Tolerance, "prompt %d %s", i, how)
		}
		exact("at once", score(t, whole, tokens), p.Logits)
		exact("in chunks", score(t, chunks, tokens), p.Logits)
		exact("token by token", decode(t, chunks, tokens), p.Logits)
		exact("the last row alone", prefill(t, chunks, tokens), p.Logits[len(p.Logits)-p.Vocab:])
		require.Equal(t, p.Greedy, greedy(t, whole, tokens, len(p.Greedy)), "prompt %d", i)
	}
}

func sequence(t *testing.T, r *runner.Runner) *runner.Sequence {
	t.Helper()
	s, err := r.NewSequence()
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

func score(t *testing.T, r *runner.Runner, tokens []int32) (all []float32) {
	t.Helper()
	require.NoError(t, sequence(t, r).Score(t.Context(), tokens, func(_ int, logits []float32) error {
		all = append(all, logits...)
		return nil
	}))
	return all
}

func decode(t *testing.T, r *runner.Runner, tokens []int32) (all []float32) {
	t.Helper()
	s := sequence(t, r)
	for _, id := range tokens {
		logits, err := s.Decode(t.Context(), id)
		require.NoError(t, err)
		all = append(all, logits...)
	}
	return all
}

func prefill(t *testing.T, r *runner.Runner, tokens []int32) []float32 {
	t.Helper()
	logits, err := sequence(t, r).Prefill(t.Context(), tokens)
	require.NoError(t, err)
	return logits
}

func greedy(t *testing.T, r *runner.Runner, tokens []int32, n int) (ids []int64) {
	t.Helper()
	q := runner.Request{Tokens: tokens, MaxTokens: n, Sampling: &sample.Params{}, IgnoreEOS: true}
	for ev, err := range r.Generate(t.Context(), q) {
		require.NoError(t, err)
		if ev.Result == nil {
			ids = append(ids, int64(ev.Token))
		}
	}
	return ids
}
