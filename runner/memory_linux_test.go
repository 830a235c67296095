package runner_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/ort/orttest"
	"github.com/qwenrt/qwenrt/runner"
)

// TestMemoryFollowsTokens holds that memory is used for the tokens there are, not for those that there
// may be: room for 131,072 tokens would be 2 GB here. The bound is a loose one, for huge pages and for
// what else a process does.
func TestMemoryFollowsTokens(t *testing.T) {
	m := toy{layers: 4, heads: 8, kvHeads: 8, headDim: 64, files: map[string]string{"config.json": `{"max_position_embeddings": 131072}`}}
	r := m.open(t, runner.Options{})
	s := sequence(t, r)
	_, err := s.Prefill(t.Context(), m.prompt(1))
	require.NoError(t, err)
	before := orttest.ResidentAnonymous(t)
	require.NoError(t, s.Reserve(131072))
	for range 300 {
		_, err := s.Decode(t.Context(), 1)
		require.NoError(t, err)
	}
	require.Equal(t, 131072, s.Capacity())
	require.EqualValues(t, 2<<30, r.Info().KVBytes(s.Capacity()))
	require.Less(t, orttest.ResidentAnonymous(t)-before, 512<<20)
}

// TestGenerateFreesItsCache holds that no cache stays behind: twenty of them would be 160 MB.
func TestGenerateFreesItsCache(t *testing.T) {
	m := toy{layers: 16, heads: 2, kvHeads: 2, headDim: 64}
	r := m.open(t, runner.Options{})
	generate := func() {
		for _, err := range r.Generate(t.Context(), runner.Request{Tokens: m.prompt(512)}) {
			require.NoError(t, err)
			break
		}
	}
	generate() // what the session keeps for its runs is there from now on
	before := orttest.ResidentAnonymous(t)
	for range 20 {
		generate()
	}
	require.Less(t, orttest.ResidentAnonymous(t)-before, 80<<20)
}
