package tune

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/runner/machine"
)

// Qwen3-0.6B's weights, as its model card counts them: 0.6 billion, 0.44 of them not embeddings.
func TestModel(t *testing.T) {
	m := Model{Layers: 28, Vocab: 151936, Tied: true, Layer: machine.Shape{Hidden: 1024, Heads: 16, KVHeads: 8, HeadDim: 128, Intermediate: 3072}}
	require.InDelta(t, 0.44e9, float64(m.LayerWeights()), 0.005e9)
	require.InDelta(t, 0.6e9, float64(m.Weights()), 0.005e9)
	m.Tied = false
	require.Equal(t, m.LayerWeights()+2*m.HeadWeights(), m.Weights())
}

func TestReadModel(t *testing.T) {
	m, err := ReadModel("../../models/tiny/qwen3-tiny")
	require.NoError(t, err)
	require.Equal(t, 8, m.Layers)
	require.Equal(t, int64(8192), m.Vocab)
	require.True(t, m.Tied)
	_, err = ReadModel(t.TempDir())
	require.ErrorContains(t, err, "config.json")
}

// The sums of the package's documentation, with round numbers.
func TestSpeed(t *testing.T) {
	m := Model{Layers: 10, Vocab: 1000, Layer: machine.Shape{Hidden: 100, Heads: 1, KVHeads: 1, HeadDim: 100, Intermediate: 200}}
	require.Equal(t, int64(1_000_000), m.LayerWeights())
	require.Equal(t, int64(100_000), m.HeadWeights())
	k := Kernel{machine.Int4, 32}
	r := Rates{
		Products: map[Kernel]machine.Rate{k: {Decode: 1e8, Prefill: 1e9}},
		Rest: map[machine.Cache]machine.Rest{
			machine.CacheFloat32: {Decode: 100 * time.Microsecond, DecodeKV: time.Microsecond, Prefill: 10 * time.Microsecond},
			machine.CacheInt8:    {Decode: 100 * time.Microsecond, DecodeKV: 300, Prefill: 20 * time.Microsecond},
		},
	}
	s := r.Speed(m, k, 100, machine.CacheFloat32)
	require.InEpsilon(t, 1/(11e-3+1e-3+1e-3), s.Decode, 1e-9, "products, rest, cache")
	require.InEpsilon(t, 100/(100*(1e-3+0.1e-3)+1e-3), s.Prefill, 1e-9, "layers, rest, head once")
	s = r.Speed(m, k, 100, machine.CacheInt8)
	require.InEpsilon(t, 1/(11e-3+1e-3+0.3e-3), s.Decode, 1e-9, "each type of cache has its own times")
	require.InEpsilon(t, 100/(100*(1e-3+0.2e-3)+1e-3), s.Prefill, 1e-9)
}
