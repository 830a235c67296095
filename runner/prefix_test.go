package runner_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/runner"
)

// generated gives an answer and how many tokens of the prompt were known.
func generated(t testing.TB, r *runner.Runner, prompt []int32, n int) (answer []int32, cached int) {
	for ev, err := range r.Generate(t.Context(), plain(prompt, n)) {
		if err != nil {
			t.Error(err)
			return nil, 0
		}
		if ev.Result != nil {
			return answer, ev.Result.CachedTokens
		}
		answer = append(answer, ev.Token)
	}
	return answer, 0
}

// TestPrefixCache holds that answers are those without it, and which prompts find what.
func TestPrefixCache(t *testing.T) {
	for name, m := range map[string]toy{"shared": batches["rotary embedding"], "unshared": shapes["unshared cache"]} {
		for _, slots := range []int{0, 2} {
			if m.unshared && slots > 0 {
				continue
			}
			t.Run(fmt.Sprint(name, slots), func(t *testing.T) {
				without := m.open(t, runner.Options{})
				r := open(t, without.Info().Dir, runner.Options{PrefixCache: 1 << 20, Slots: slots, PrefillChunk: 40})
				base := m.prompt(100)
				answer, _ := generated(t, without, base, 40)
				for _, c := range []struct {
					why    string
					prompt []int32
					cached int
				}{
					{"nothing is known", base, 0},
					{"all but a last token, for its logits: the first answer went on in the same block", base, 99},
					{"a whole block but a last token", base[:96], 95},
					{"less than a block", base[:15], 14},
					{"a conversation goes on behind the answer, of which whole blocks are kept", slices.Concat(base, answer, base[:9]), 128},
					{"another ending, within a block", slices.Concat(base[:50], base), 50},
					{"another beginning", slices.Concat([]int32{base[0] ^ 1}, base[1:]), 0},
				} {
					want, _ := generated(t, without, c.prompt, 40)
					got, cached := generated(t, r, c.prompt, 40)
					require.Equal(t, want, got, c.why)
					require.Equal(t, c.cached, cached, c.why)
				}
				stats := r.PrefixStats()
				require.EqualValues(t, 99+95+14+128+50, stats.CachedTokens)
				require.Zero(t, stats.Evicted)
			})
		}
	}
}

// Answers to one prompt share what it had from the cache, also where there is no place in the batch for all of them.
func TestPrefixCacheOfSeveralAnswers(t *testing.T) {
	m := batches["rotary embedding"]
	for _, slots := range []int{0, 2, 3} {
		r := m.open(t, runner.Options{Slots: slots, PrefixCache: 1 << 20})
		decoderOf(t, r, m.prompt(3)) // takes a place
		q := plain(m.prompt(41), 3)
		q.N = 2
		for _, cached := range []int{0, 32} { // whole blocks of 16
			for _, a := range answersOf(t, r, q) {
				require.Equal(t, cached, a.Result.CachedTokens, "%d slots", slots)
			}
		}
	}
}

// A cache that is full drops what was used longest ago, and a path's end before its beginning.
func TestPrefixCacheEvicts(t *testing.T) {
	m := batches["rotary embedding"]
	dir := m.folder(t)
	const tokens = 64 + 1 // four blocks
	plainInfo := open(t, dir, runner.Options{}).Info()
	r := open(t, dir, runner.Options{PrefixCache: plainInfo.KVBytes(2 * 64)})
	a, b, c := m.prompt(tokens), m.prompt(tokens + 1)[:tokens], m.prompt(tokens + 2)[:tokens]
	for i, step := range []struct {
		prompt []int32
		cached int
	}{{a, 0}, {b, 0}, {a, 64}, {c, 0}, {a, 64}, {b, 0}, {a[:33], 32}, {b, 64}, {c[:17], 0}, {b, 64}, {a, 48}} {
		_, cached := generated(t, r, step.prompt, 1)
		require.Equal(t, step.cached, cached, "step %d", i)
		require.LessOrEqual(t, r.PrefixStats().Bytes, plainInfo.KVBytes(2*64))
	}
	require.Positive(t, r.PrefixStats().Evicted)

	small := open(t, dir, runner.Options{PrefixCache: plainInfo.KVBytes(32)})
	generated(t, small, a, 1)
	_, cached := generated(t, small, a, 1)
	require.Equal(t, 32, cached, "a prompt larger than the cache leaves its beginning")
	tiny := open(t, dir, runner.Options{PrefixCache: 1})
	generated(t, tiny, a, 1)
	_, cached = generated(t, tiny, a, 1)
	require.Zero(t, cached)
}

// Many generations at once share and evict.
func TestPrefixCacheConcurrent(t *testing.T) {
	m := batches["rotary embedding"]
	alone := m.open(t, runner.Options{})
	for _, slots := range []int{0, 3} {
		r := open(t, alone.Info().Dir, runner.Options{Slots: slots, PrefixCache: alone.Info().KVBytes(300)})
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				random := rand.New(rand.NewPCG(3, uint64(i)))
				prompt := slices.Concat(m.prompt(200)[:random.IntN(200)], m.prompt(random.IntN(50)+1))
				want, _ := generated(t, alone, prompt, 10)
				if got, _ := generated(t, r, prompt, 10); !slices.Equal(want, got) {
					t.Errorf("generation %d: %v, want %v", i, got, want)
				}
			})
		}
		all.Wait()
		require.Positive(t, r.PrefixStats().CachedTokens)
	}
}
