package runner_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/internal/reftest"
	"github.com/qwenrt/qwenrt/runner"
)

// graphs are the forms in which a model may come.
var graphs = []struct {
	why   string
	model toy
	exact bool // the cache is of the type that is computed in
}{
	{"an optimised export", toy{layers: 2, heads: 4, kvHeads: 2, headDim: 16, vocab: 64, rotary: toyContext}, true},
	{"a past that is not written in place", toy{layers: 2, heads: 4, kvHeads: 2, headDim: 16, vocab: 64, unshared: true}, true},
	{"positions are an input", toy{layers: 2, kvHeads: 1, heads: 2, headDim: 8, positions: true}, true},
	{"positions are an input, and the past is not written in place", toy{layers: 2, positions: true, unshared: true, noKeep: true}, true},
	{"all rows of logits are computed", toy{layers: 2, noKeep: true}, true},
	{"a head size that is no power of two", toy{layers: 2, heads: 3, kvHeads: 3, headDim: 48, rotary: toyContext}, true},
	{"a head size that is no multiple of 16", toy{layers: 2, heads: 3, kvHeads: 1, headDim: 24}, true},
	{"a head size beyond 128", toy{heads: 2, kvHeads: 1, headDim: 136}, true},
	{"one head", toy{}, true},
	{"attention looks back at a window", toy{layers: 2, headDim: 16, rotary: toyContext, window: 4}, true},
	{"float16 logits", toy{layers: 2, logits: ir.Float16}, true},
	{"bfloat16 logits of all rows", toy{layers: 2, logits: ir.BFloat16, noKeep: true}, true},
	{"a float16 cache", toy{layers: 2, heads: 2, kvHeads: 1, headDim: 16, kv: ir.Float16}, false},
	{"a cache of 8 bits", toy{layers: 2, heads: 4, kvHeads: 2, headDim: 16, vocab: 64, kvBits: 8, rotary: toyContext}, false},
	{"a cache of 4 bits, two numbers in a byte", toy{layers: 2, heads: 4, kvHeads: 2, headDim: 16, kvBits: 4}, false},
	{"a cache of 4 bits that is not written in place", toy{layers: 2, heads: 2, kvHeads: 1, headDim: 24, kvBits: 4, unshared: true}, false},
}

// TestChunks holds that logits do not depend on how tokens are cut into runs.
func TestChunks(t *testing.T) {
	const chunk = 5
	for _, g := range graphs {
		t.Run(g.why, func(t *testing.T) {
			r := g.model.open(t, runner.Options{PrefillChunk: chunk})
			whole := open(t, r.Info().Dir, runner.Options{})
			tolerance := 1e-4
			switch {
			case g.model.kvBits == 4: // a number at the border of two levels may go either way
				tolerance = 5e-2
			case g.model.logits == ir.BFloat16 || g.model.kvBits == 8:
				tolerance = 1e-2
			case g.model.logits == ir.Float16 || !g.exact:
				tolerance = 2e-3
			}
			for _, n := range []int{1, 2, chunk - 1, chunk, chunk + 1, 2 * chunk, 2*chunk + 3} {
				tokens, vocab := g.model.prompt(n), r.Info().Vocabulary
				want := scores(t, whole, tokens)
				require.LessOrEqual(t, reftest.MaxError(t, scores(t, r, tokens), want, vocab), tolerance, "%d tokens scored in chunks", n)
				require.LessOrEqual(t, reftest.MaxError(t, decoded(t, r, tokens), want, vocab), tolerance, "%d tokens one by one", n)
				last, err := sequence(t, r).Prefill(t.Context(), tokens)
				require.NoError(t, err)
				require.LessOrEqual(t, reftest.MaxError(t, last, want[(n-1)*vocab:], vocab), tolerance, "%d tokens prefilled", n)
			}
		})
	}
}

// TestScoresBytes holds that chunks of a prompt shrink as the tokens before them grow, so that scores stay below their bound.
func TestScoresBytes(t *testing.T) {
	const heads, tokens = 4, 100
	for _, c := range []struct {
		why   string
		bytes int64
		runs  []int // tokens in each
	}{
		{"no bound", 0, []int{40, 40, 20}},
		{"n*(past+n) is at most 400", 4 * heads * 400, []int{20, 12, 9, 8, 7, 6, 5, 5, 5, 4, 4, 4, 4, 4, 3}},
		{"one token always runs", 1, slices.Repeat([]int{1}, tokens)},
	} {
		m := toy{heads: heads, files: map[string]string{"config.json": fmt.Sprintf(`{"max_position_embeddings": %d, "num_attention_heads": %d}`, toyContext, heads)}}
		r := m.open(t, runner.Options{PrefillChunk: 40, ScoresBytes: c.bytes})
		s := sequence(t, r)
		var runs []int
		before := 0
		require.NoError(t, s.Score(t.Context(), m.prompt(tokens), func(i int, _ []float32) error {
			if i+1 == s.Len() { // the last of a run
				runs, before = append(runs, s.Len()-before), s.Len()
			}
			return nil
		}))
		require.Equal(t, c.runs, runs, c.why)
	}
}

// scores gives the logits of all tokens.
func scores(t *testing.T, r *runner.Runner, tokens []int32) []float32 {
	t.Helper()
	var all []float32
	s := sequence(t, r)
	next := 0
	require.NoError(t, s.Score(t.Context(), tokens, func(i int, logits []float32) error {
		require.Equal(t, next, i)
		next++
		require.Len(t, logits, r.Info().Vocabulary)
		all = append(all, logits...)
		return nil
	}))
	require.Equal(t, len(tokens), next)
	require.Equal(t, len(tokens), s.Len())
	return all
}

func decoded(t *testing.T, r *runner.Runner, tokens []int32) []float32 {
	t.Helper()
	var all []float32
	s := sequence(t, r)
	for i, id := range tokens {
		logits, err := s.Decode(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, i+1, s.Len())
		all = append(all, logits...)
	}
	return all
}

// requireFresh holds that a sequence of these tokens goes on as one that never was anything else.
func requireFresh(t *testing.T, r *runner.Runner, s *runner.Sequence, tokens []int32) {
	t.Helper()
	require.Equal(t, len(tokens), s.Len())
	next := tokens[len(tokens)/2]
	got, err := s.Decode(context.Background(), next)
	require.NoError(t, err)
	want := fresh(t, r, append(slices.Clone(tokens), next))
	require.LessOrEqual(t, reftest.MaxError(t, got, want, len(want)), 1e-4)
	require.NoError(t, s.Truncate(len(tokens)))
}

var shapes = map[string]toy{
	"shared cache":   {layers: 2, heads: 4, kvHeads: 2, headDim: 8},
	"unshared cache": {layers: 2, heads: 4, kvHeads: 2, headDim: 8, unshared: true},
}

func TestCacheGrows(t *testing.T) {
	m := shapes["shared cache"]
	r := m.open(t, runner.Options{MaxContext: 1500})
	require.True(t, r.Info().SharedKV)
	require.EqualValues(t, 2*2*2*8*4*100, r.Info().KVBytes(100), "layers, keys and values, heads, head size, bytes")
	s := sequence(t, r)
	require.Zero(t, s.Capacity())
	tokens := m.prompt(1500)
	var seen []int
	for i := 0; i < 1500; i += 50 {
		_, err := s.Prefill(t.Context(), tokens[i:i+50])
		require.NoError(t, err)
		if c := s.Capacity(); !slices.Contains(seen, c) {
			seen = append(seen, c)
		}
		require.GreaterOrEqual(t, s.Capacity(), s.Len())
	}
	require.Equal(t, []int{256, 512, 768, 1280, 1500}, seen, "in whole steps, by a half once that is more, and to the context")
	require.NoError(t, s.Truncate(1300))
	requireFresh(t, r, s, tokens[:1300])
}

func TestCacheFollowsLength(t *testing.T) {
	m := shapes["unshared cache"]
	r := m.open(t, runner.Options{})
	require.False(t, r.Info().SharedKV)
	s := sequence(t, r)
	_, err := s.Prefill(t.Context(), m.prompt(300))
	require.NoError(t, err)
	require.Equal(t, 300, s.Capacity())
}

func TestReserve(t *testing.T) {
	m := shapes["shared cache"]
	r := m.open(t, runner.Options{MaxContext: 700})
	s := sequence(t, r)
	require.NoError(t, s.Reserve(300))
	require.Equal(t, 512, s.Capacity())
	require.NoError(t, s.Reserve(10))
	require.Equal(t, 512, s.Capacity(), "it does not shrink")
	require.NoError(t, s.Reserve(5000))
	require.Equal(t, 700, s.Capacity(), "no more than the context")
}

// A cache that cannot grow leaves the sequence as it was.
func TestReserveFails(t *testing.T) {
	for name, m := range shapes {
		t.Run(name, func(t *testing.T) {
			m.files = map[string]string{"config.json": fmt.Sprintf(`{"max_position_embeddings": %d}`, int64(1)<<55)}
			r := m.open(t, runner.Options{})
			s := sequence(t, r)
			tokens := m.prompt(300)
			_, err := s.Prefill(t.Context(), tokens)
			require.NoError(t, err)
			require.ErrorContains(t, s.Reserve(1<<55), "runner: grow the KV cache to 36028797018963968 tokens")
			requireFresh(t, r, s, tokens)
		})
	}
}

func TestTruncate(t *testing.T) {
	for name, m := range shapes {
		t.Run(name, func(t *testing.T) {
			r := m.open(t, runner.Options{PrefillChunk: 16})
			s := sequence(t, r)
			tokens := m.prompt(40)
			_, err := s.Prefill(t.Context(), tokens)
			require.NoError(t, err)
			for _, n := range []int{40, 33, 16, 1} {
				require.NoError(t, s.Truncate(n))
				requireFresh(t, r, s, tokens[:n])
			}
			require.NoError(t, s.Truncate(0))
			other := m.prompt(7)
			_, err = s.Prefill(t.Context(), other)
			require.NoError(t, err)
			requireFresh(t, r, s, other)
			for _, n := range []int{-1, 8} {
				requireError(t, s.Truncate(n), runner.ErrRequest, "truncate a sequence of 7 tokens")
			}
			require.Equal(t, 7, s.Len())
		})
	}
}

// A fork goes on as its origin would, and neither sees what the other does.
func TestFork(t *testing.T) {
	for name, m := range shapes {
		t.Run(name, func(t *testing.T) {
			r := m.open(t, runner.Options{})
			s := sequence(t, r)
			empty, err := s.Fork()
			require.NoError(t, err)
			defer empty.Close()
			require.Zero(t, empty.Len())
			tokens := m.prompt(300)
			_, err = s.Prefill(t.Context(), tokens)
			require.NoError(t, err)
			f, err := s.Fork()
			require.NoError(t, err)
			defer f.Close()
			requireFresh(t, r, f, tokens)

			require.NoError(t, s.Truncate(200))
			_, err = s.Prefill(t.Context(), tokens[:50])
			require.NoError(t, err)
			requireFresh(t, r, f, tokens)
			_, err = f.Prefill(t.Context(), tokens[:9])
			require.NoError(t, err)
			requireFresh(t, r, s, slices.Concat(tokens[:200], tokens[:50]))
			s.Close()
			requireFresh(t, r, f, slices.Concat(tokens, tokens[:9]))
			requireError(t, second(s.Fork()), runner.ErrClosed, "closed")
		})
	}
}

// TestCancelPrefill ends the context in the middle of a prompt: the length is rolled back, and nothing
// of the cancellation stays.
func TestCancelPrefill(t *testing.T) {
	for name, m := range shapes {
		t.Run(name, func(t *testing.T) {
			r := m.open(t, runner.Options{PrefillChunk: 8})
			s := sequence(t, r)
			before := m.prompt(20)
			_, err := s.Prefill(t.Context(), before)
			require.NoError(t, err)

			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			middle := make(chan struct{})
			go func() {
				<-middle
				cancel()
			}()
			rows := 0
			err = s.Score(ctx, m.prompt(400), func(i int, _ []float32) error {
				rows++
				if i == 79 { // the last of the tenth chunk
					close(middle)
					<-ctx.Done()
				}
				return nil
			})
			requireError(t, err, context.Canceled, "cancel")
			require.Equal(t, 80, rows)
			requireFresh(t, r, s, before)
		})
	}
}

// looked is a context that ends behind the nth look at it.
type looked struct {
	context.Context
	end   context.CancelFunc
	looks atomic.Int32
	n     int32
}

func (c *looked) Err() error {
	err := c.Context.Err()
	if c.looks.Add(1) == c.n {
		c.end()
	}
	return err
}

// TestCancelRun ends the context between the last look at it before a run and the end of that run, which is that of the
// whole prompt: it must be stopped, and nothing stays, of what a prefix cache has given neither.
func TestCancelRun(t *testing.T) {
	m := toy{layers: 2, heads: 4, kvHeads: 2, headDim: 16, rotary: toyContext}
	for why, o := range map[string]runner.Options{
		"alone":             {PrefillChunk: 1000},
		"with known tokens": {PrefillChunk: 1000, PrefixCache: 1 << 20},
		"in a slot":         {PrefillChunk: 1000, PrefixCache: 1 << 20, Slots: 2},
	} {
		t.Run(why, func(t *testing.T) {
			r := m.open(t, o)
			prompt := m.prompt(1000)
			_, known := generated(t, r, prompt[:100], 1)
			require.Zero(t, known)
			d := decoderOf(t, r, prompt[:1])
			for _, look := range []int32{1, 2} { // Watch looks first
				var err error
				for try := 0; err == nil && try < 100; try++ { // a run may be over before the request has come to it
					require.NoError(t, d.Truncate(0))
					ctx, end := context.WithCancel(t.Context())
					_, err = d.Prefill(&looked{Context: ctx, end: end, n: look}, prompt)
					end()
				}
				requireError(t, err, context.Canceled, "cancel")
				require.Zero(t, d.Len())
			}
			got, err := d.Prefill(t.Context(), prompt)
			require.NoError(t, err)
			want, err := sequence(t, r).Prefill(t.Context(), prompt)
			require.NoError(t, err)
			require.LessOrEqual(t, reftest.MaxError(t, got, want, len(want)), 1e-4)
		})
	}
}

func TestCancelledContext(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, m := range shapes {
		t.Run(name, func(t *testing.T) {
			r := m.open(t, runner.Options{})
			s := sequence(t, r)
			tokens := m.prompt(9)
			_, err := s.Prefill(t.Context(), tokens)
			require.NoError(t, err)
			for call, err := range map[string]error{
				"decode":  second(s.Decode(ended, 1)),
				"prefill": second(s.Prefill(ended, tokens)),
				"score":   s.Score(ended, tokens, func(int, []float32) error { panic("nothing is run") }),
			} {
				requireError(t, err, context.Canceled, "cancel")
				require.Equal(t, 9, s.Len(), call)
			}
			requireFresh(t, r, s, tokens)
		})
	}
}

func second[T any](_ T, err error) error { return err }

// One Watch serves calls whose own context never ends, until it is stopped.
func TestWatch(t *testing.T) {
	m := shapes["shared cache"]
	r := m.open(t, runner.Options{})
	s := sequence(t, r)
	ctx, cancel := context.WithCancel(t.Context())
	stop := s.Watch(ctx)
	_, err := s.Decode(context.Background(), 1)
	require.NoError(t, err)
	cancel()
	for err == nil { // the request comes from another goroutine
		require.NoError(t, s.Truncate(1))
		_, err = s.Decode(context.Background(), 2)
	}
	requireError(t, err, context.Canceled, "cancel")
	_, err = s.Decode(context.Background(), 2)
	requireError(t, err, context.Canceled, "cancel")
	stop()
	requireFresh(t, r, s, []int32{1})
	s.Watch(context.Background())()
}

func TestScoreEnds(t *testing.T) {
	m := shapes["shared cache"]
	r := m.open(t, runner.Options{PrefillChunk: 4})
	s := sequence(t, r)
	tokens := m.prompt(10)
	_, err := s.Prefill(t.Context(), tokens)
	require.NoError(t, err)
	mine := errors.New("mine")
	require.Equal(t, mine, s.Score(t.Context(), tokens, func(i int, _ []float32) error {
		if i == 6 {
			return mine
		}
		return nil
	}))
	requireFresh(t, r, s, tokens)
}

func TestContextEnds(t *testing.T) {
	for name, m := range shapes {
		t.Run(name, func(t *testing.T) {
			r := m.open(t, runner.Options{MaxContext: 10})
			s := sequence(t, r)
			require.Equal(t, 10, s.Left())
			requireError(t, second(s.Prefill(t.Context(), m.prompt(11))), runner.ErrContext, "0 tokens in the sequence and 11 more do not fit 10")
			_, err := s.Prefill(t.Context(), m.prompt(10))
			require.NoError(t, err, "exactly")
			require.Zero(t, s.Left())
			requireError(t, second(s.Decode(t.Context(), 1)), runner.ErrContext, "10 tokens in the sequence and 1 more do not fit 10")
			require.Equal(t, 10, s.Len())
		})
	}
}

func TestBadTokens(t *testing.T) {
	m := shapes["shared cache"]
	r := m.open(t, runner.Options{PrefillChunk: 2})
	s := sequence(t, r)
	none := func(int, []float32) error { panic("nothing is run") }
	for _, bad := range []int32{-1, 16, math.MaxInt32, math.MinInt32} {
		for _, err := range []error{
			second(s.Decode(t.Context(), bad)),
			second(s.Prefill(t.Context(), []int32{1, 2, 3, bad})),
			s.Score(t.Context(), []int32{1, 2, 3, bad}, none),
		} {
			requireError(t, err, runner.ErrToken, fmt.Sprintf("%d is not one of 0 to 15", bad))
		}
	}
	requireError(t, second(s.Prefill(t.Context(), nil)), runner.ErrRequest, "no tokens")
	requireError(t, s.Score(t.Context(), nil, none), runner.ErrRequest, "no tokens")
	require.Zero(t, s.Len())
}

// requireClosed holds that nothing can be done with s any more.
func requireClosed(t *testing.T, s *runner.Sequence) {
	t.Helper()
	requireError(t, second(s.Decode(t.Context(), 1)), runner.ErrClosed, "closed")
	requireError(t, second(s.Prefill(t.Context(), []int32{1})), runner.ErrClosed, "closed")
	requireError(t, s.Score(t.Context(), []int32{1}, nil), runner.ErrClosed, "closed")
}

func TestClosedSequence(t *testing.T) {
	m := shapes["shared cache"]
	s := sequence(t, m.open(t, runner.Options{}))
	_, err := s.Prefill(t.Context(), m.prompt(3))
	require.NoError(t, err)
	s.Close()
	s.Close()
	requireClosed(t, s)
	requireError(t, s.Truncate(0), runner.ErrClosed, "closed")
	requireError(t, s.Reserve(5), runner.ErrClosed, "closed")
	require.Zero(t, s.Capacity())
	require.Zero(t, s.Left())
	s.Watch(t.Context())()
}

// A sequence that is left open does not keep its runner from closing, and is safe to use and to close.
func TestClosedRunner(t *testing.T) {
	for name, m := range shapes {
		t.Run(name, func(t *testing.T) {
			r, err := runner.Open(t.Context(), m.folder(t), runner.Options{})
			require.NoError(t, err)
			s := sequence(t, r)
			empty := sequence(t, r)
			_, err = s.Prefill(t.Context(), m.prompt(3))
			require.NoError(t, err)
			require.NoError(t, r.Close())
			require.NoError(t, r.Close())
			requireClosed(t, s)
			requireClosed(t, empty)
			requireError(t, second(r.NewSequence()), runner.ErrClosed, "closed")
			requireError(t, second2(r.Text(t.Context(), runner.Request{Tokens: []int32{1}})), runner.ErrClosed, "closed")
			s.Close()
		})
	}
}

func second2[T, U any](_ T, _ U, err error) error { return err }

// TestDecodeAllocates nothing on Go's heap.
func TestDecodeAllocates(t *testing.T) {
	for _, g := range graphs {
		if g.model.unshared {
			continue
		}
		t.Run(g.why, func(t *testing.T) {
			r := g.model.open(t, runner.Options{})
			s := sequence(t, r)
			require.NoError(t, s.Reserve(1000))
			_, err := s.Prefill(t.Context(), g.model.prompt(3))
			require.NoError(t, err)
			allocs := testing.AllocsPerRun(100, func() {
				if _, err := s.Decode(context.Background(), 1); err != nil {
					t.Fatal(err)
				}
			})
			require.Zero(t, allocs)
		})
	}
}

// requireError checks that err is one line of this package, of a kind, and says something.
func requireError(t *testing.T, err, kind error, says string) {
	t.Helper()
	require.ErrorIs(t, err, kind)
	require.Regexp(t, "^runner: [^\n]*$", err.Error())
	require.ErrorContains(t, err, says)
}
