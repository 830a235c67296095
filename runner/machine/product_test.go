package machine

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each kind of weights runs on its kernel. How fast is another question: no test depends on a clock.
func TestMeasureProduct(t *testing.T) {
	for _, w := range []Weights{Float32, Int8, Int4, DynamicInt8} {
		r, err := MeasureProduct(t.Context(), w, 32, 0)
		require.NoError(t, err, w)
		require.Positive(t, r.Decode, w)
		require.Positive(t, r.Prefill, w)
		t.Logf("%s: decode %.1f, prefill %.1f billion weights a second", w, r.Decode/1e9, r.Prefill/1e9)
	}
}

func TestMeasureProductErrors(t *testing.T) {
	_, err := MeasureProduct(t.Context(), "int3", 32, 1)
	require.ErrorContains(t, err, `"int3" are not measured`)
	_, err = MeasureProduct(t.Context(), Int4, 48, 1)
	require.ErrorContains(t, err, "block size 48")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = MeasureProduct(ctx, DynamicInt8, 0, 1)
	require.ErrorIs(t, err, context.Canceled)
}

// The shape of Qwen3-0.6B.
func TestMeasureRest(t *testing.T) {
	s := Shape{Hidden: 1024, Heads: 16, KVHeads: 8, HeadDim: 128, Intermediate: 3072}
	r, err := MeasureRest(t.Context(), s, 0)
	require.NoError(t, err)
	require.Positive(t, r.Decode)
	require.Positive(t, r.Prefill)
	t.Logf("a layer: %v a token, %v more for each cached token; %v a token of a prompt", r.Decode, r.DecodeKV, r.Prefill)
	s.KVHeads = 3
	_, err = MeasureRest(t.Context(), s, 0)
	require.ErrorContains(t, err, "heads a multiple of KV heads")
}
