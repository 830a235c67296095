package runner_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/internal/reftest"
	"github.com/qwenrt/qwenrt/runner"
)

// A quantised cache is allocated in the type and width that the graph has, and told as what it is.
func TestQuantizedCacheInfo(t *testing.T) {
	for _, c := range []struct {
		why   string
		model toy
		kv    string
		bytes int64 // of a token: layers, keys and values, heads, head size
	}{
		{"8 bits", toy{layers: 3, heads: 4, kvHeads: 2, headDim: 16, kvBits: 8}, "int8", 3 * 2 * 2 * 16},
		{"4 bits, two numbers in a byte", toy{layers: 3, heads: 4, kvHeads: 2, headDim: 16, kvBits: 4}, "int4", 3 * 2 * 2 * 16 / 2},
		{"4 bits behind other nodes", toy{layers: 3, heads: 4, kvHeads: 2, headDim: 16, kvBits: 4, unshared: true}, "int4", 3 * 2 * 2 * 16 / 2},
	} {
		info := c.model.open(t, runner.Options{}).Info()
		require.Equal(t, c.kv, info.KVType, c.why)
		require.Equal(t, 16, info.HeadDim, c.why)
		require.EqualValues(t, 100*c.bytes, info.KVBytes(100), c.why)
		require.Equal(t, !c.model.unshared, info.SharedKV, c.why)
	}
}

// What a quantised cache holds survives growing, forking and cutting back: logits are those of a sequence that
// has been nothing else, but for numbers at the border of two levels, which may go either way.
func TestQuantizedCacheKeeps(t *testing.T) {
	for _, bits := range []int{8, 4} {
		m := toy{layers: 2, heads: 4, kvHeads: 2, headDim: 16, vocab: 64, kvBits: bits, rotary: toyContext}
		r := m.open(t, runner.Options{PrefillChunk: 100})
		tokens := m.prompt(600)
		s := sequence(t, r)
		_, err := s.Prefill(t.Context(), tokens[:200])
		require.NoError(t, err)
		_, err = s.Prefill(t.Context(), tokens[200:]) // grows twice
		require.NoError(t, err)
		for _, n := range []int{600, 400, 255, 3} {
			require.NoError(t, s.Truncate(n))
			fork, err := s.Fork()
			require.NoError(t, err)
			defer fork.Close()
			want := fresh(t, r, append(append([]int32(nil), tokens[:n]...), 7))
			for _, s := range []*runner.Sequence{s, fork} {
				got, err := s.Decode(t.Context(), 7)
				require.NoError(t, err)
				require.LessOrEqual(t, reftest.MaxError(t, got, want, len(want)), 5e-2, "%d bits, %d tokens", bits, n)
			}
		}
	}
}
