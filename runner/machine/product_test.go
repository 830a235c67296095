package machine

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// small is the shape of Qwen3-0.6B.
var small = Shape{Hidden: 1024, Heads: 16, KVHeads: 8, HeadDim: 128, Intermediate: 3072}

// Each kind of weights runs on its kernel. How fast is another question: no test depends on a clock.
func TestMeasureProducts(t *testing.T) {
	for _, w := range []Weights{Float32, Int8, Int4, DynamicInt8, StaticInt8} {
		r, err := MeasureProducts(t.Context(), small, w, 32, 0)
		require.NoError(t, err, w)
		require.Positive(t, r.Decode, w)
		require.Positive(t, r.Prefill, w)
		t.Logf("%s: decode %.1f, prefill %.1f billion weights a second", w, r.Decode/1e9, r.Prefill/1e9)
	}
}

func TestMeasureProductsErrors(t *testing.T) {
	_, err := MeasureProducts(t.Context(), small, "int3", 32, 1)
	require.ErrorContains(t, err, "int3: not measured")
	_, err = MeasureProducts(t.Context(), small, Int4, 48, 1)
	require.ErrorContains(t, err, "block size 48")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = MeasureProducts(ctx, small, DynamicInt8, 0, 1)
	require.ErrorIs(t, err, context.Canceled)
}

func TestMeasureRest(t *testing.T) {
	for _, c := range []Cache{CacheFloat32, CacheInt8} {
		r, err := MeasureRest(t.Context(), small, c, 0)
		require.NoError(t, err, c)
		require.Positive(t, r.Decode)
		require.Positive(t, r.Prefill)
		t.Logf("a layer, cache in %s: %v a token, %v more for each cached token; %v a token of a prompt", c, r.Decode, r.DecodeKV, r.Prefill)
	}
	_, err := MeasureRest(t.Context(), small, CacheFloat16, 0)
	require.ErrorContains(t, err, "a cache in fp16: not measured")
	s := small
	s.KVHeads = 3
	_, err = MeasureRest(t.Context(), s, CacheFloat32, 0)
	require.ErrorContains(t, err, "heads must be a multiple of KV heads")
	s.Hidden = -1
	_, err = MeasureProducts(t.Context(), s, Int4, 32, 0)
	require.ErrorContains(t, err, "sizes must be positive")
}
