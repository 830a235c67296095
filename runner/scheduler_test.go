package runner_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/internal/reftest"
	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/sample"
)

// batches are models whose graph serves several rows at once.
var batches = map[string]toy{
	"attention looks back at a window": {layers: 2, heads: 4, kvHeads: 2, headDim: 16, vocab: 64, rotary: toyContext, window: 20},
	"rotary embedding":                 {layers: 2, heads: 4, kvHeads: 2, headDim: 16, vocab: 64, rotary: toyContext},
	"positions, all rows of logits":    {layers: 2, heads: 4, kvHeads: 2, headDim: 16, vocab: 64, positions: true, noKeep: true},
	"a cache of 8 bits":                {layers: 2, heads: 4, kvHeads: 2, headDim: 16, vocab: 64, rotary: toyContext, kvBits: 8},
	"a cache of 4 bits":                {layers: 2, heads: 4, kvHeads: 2, headDim: 16, vocab: 64, kvBits: 4},
}

// answerOf gives the answer's tokens as one generation on its own makes them.
func answerOf(t testing.TB, r *runner.Runner, q runner.Request) ([]int32, error) {
	var answer []int32
	for ev, err := range r.Generate(t.Context(), q) {
		if err != nil {
			return answer, err
		}
		if ev.Result == nil {
			answer = append(answer, ev.Token)
		}
	}
	return answer, nil
}

func plain(prompt []int32, n int) runner.Request {
	return runner.Request{Tokens: prompt, MaxTokens: n, Sampling: &sample.Params{}, IgnoreEOS: true}
}

// TestBatch holds that generations that share runs give the answers that they give alone, whatever their
// lengths, and however they come and go: the cache grows, places fall empty and are taken again.
func TestBatch(t *testing.T) {
	// Steps of microseconds leave nobody else a turn on a single processor, real ones do.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(max(4, runtime.GOMAXPROCS(0))))
	for name, m := range batches {
		t.Run(name, func(t *testing.T) {
			alone := m.open(t, runner.Options{})
			r := open(t, alone.Info().Dir, runner.Options{Slots: 3, PrefillChunk: 50})
			var requests []runner.Request
			var want [][]int32
			for i := range 12 {
				q := plain(m.prompt(3+41*i), 10+17*(i%5))
				answer, err := answerOf(t, alone, q)
				require.NoError(t, err)
				requests, want = append(requests, q), append(want, answer)
			}
			// How many generations meet is up to the system: they are sent again until some have.
			const waves = 100
			for wave := 0; ; wave++ {
				var all sync.WaitGroup
				for i, q := range requests {
					all.Go(func() {
						got, err := answerOf(t, r, q)
						if err != nil || !slices.Equal(want[i], got) {
							t.Errorf("generation %d: %v, %v, want %v", i, got, err, want[i])
						}
					})
				}
				all.Wait()
				stats := r.BatchStats()
				if t.Failed() || stats.Tokens > stats.Steps {
					break
				}
				require.Less(t, wave, waves, "%+v: nothing was shared", stats)
			}
		})
	}
}

// A generation may end at any moment: while it waits for a place, in its prompt, in a common step.
func TestBatchCancel(t *testing.T) {
	m := batches["rotary embedding"]
	alone := m.open(t, runner.Options{})
	r := open(t, alone.Info().Dir, runner.Options{Slots: 2, PrefillChunk: 8})
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			q := plain(m.prompt(5+i), 30)
			if i%4 == 0 {
				want, err := answerOf(t, alone, q)
				if err != nil {
					t.Error(err)
				}
				if got, err := answerOf(t, r, q); err != nil || !slices.Equal(want, got) {
					t.Errorf("generation %d: %v, %v, want %v", i, got, err, want)
				}
				return
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if i%4 == 1 {
				go cancel()
			}
			tokens := 0
			for ev, err := range r.Generate(ctx, q) {
				if err != nil && !errors.Is(err, context.Canceled) {
					t.Errorf("generation %d: %v", i, err)
				}
				if tokens++; ev.Result == nil && tokens > i%7 {
					if i%4 == 2 {
						break
					}
					cancel()
				}
			}
		})
	}
	all.Wait()
}

func TestBatchQueue(t *testing.T) {
	m := batches["rotary embedding"]
	r := m.open(t, runner.Options{Slots: 1, Queue: 1})
	first, last := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		held := false
		for ev := range r.Generate(t.Context(), plain(m.prompt(3), 2)) {
			if !held && ev.Result == nil {
				held = true
				first <- struct{}{}
				<-last
			}
		}
	})
	<-first
	ctx, cancel := context.WithCancel(t.Context())
	waits := make(chan error)
	all.Go(func() {
		err := runner.ErrBusy
		for errors.Is(err, runner.ErrBusy) { // while one of those below has the place
			_, _, err = r.Text(ctx, plain(m.prompt(3), 2))
		}
		waits <- err
	})
	var err error
	for err == nil { // until the one before is in the queue
		short, stop := context.WithCancel(t.Context())
		stop()
		_, _, err = r.Text(short, plain(m.prompt(3), 2))
		if errors.Is(err, context.Canceled) {
			err = nil
		}
	}
	requireError(t, err, runner.ErrBusy, "1 generations are under way and 1 wait")
	cancel()
	requireError(t, <-waits, context.Canceled, "cancel")
	close(last)
	all.Wait()
}

// A prompt of many chunks does not hold up who guesses, whose runs are short and come between.
func TestBatchGuessesBetweenChunks(t *testing.T) {
	m := toy{layers: 2, heads: 4, kvHeads: 2, headDim: 16, vocab: 64, rotary: toyContext, loud: 5}
	r := m.open(t, runner.Options{Slots: 2, PrefillChunk: 8})
	var tokens atomic.Int64
	first := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		q := plain(m.prompt(10), 1<<20)
		q.Speculate, q.Shift = 4, true
		for ev := range r.Generate(ctx, q) {
			if ev.Result == nil && tokens.Add(1) == 50 {
				close(first)
			}
		}
	})
	<-first
	before := tokens.Load()
	_, err := answerOf(t, r, plain(m.prompt(1600), 1)) // 200 chunks
	require.NoError(t, err)
	after := tokens.Load()
	cancel()
	all.Wait()
	require.Greater(t, after-before, int64(20))
}

// A caller that takes its time with a token is not waited for, until it is quick again.
func TestBatchSlowCaller(t *testing.T) {
	m := batches["rotary embedding"]
	r := m.open(t, runner.Options{Slots: 1})
	d := decoderOf(t, r, m.prompt(5))
	for _, c := range []struct {
		took     time.Duration
		expected bool
	}{{0, true}, {2 * time.Hour, false}, {0, true}} {
		runner.Took(d, c.took)
		_, err := d.Decode(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, c.expected, runner.Expected(d), c.took)
	}
}

func decoderOf(t *testing.T, r *runner.Runner, prompt []int32) runner.Decoder {
	t.Helper()
	d, err := runner.NewDecoder(t.Context(), r)
	require.NoError(t, err)
	t.Cleanup(d.Close)
	_, err = d.Prefill(t.Context(), prompt)
	require.NoError(t, err)
	return d
}

func requireNext(t *testing.T, r *runner.Runner, d runner.Decoder, tokens ...int32) {
	t.Helper()
	got, err := d.Decode(t.Context(), tokens[len(tokens)-1])
	require.NoError(t, err)
	want := fresh(t, r, tokens)
	require.LessOrEqual(t, reftest.MaxError(t, got, want, len(want)), 1e-4)
}

// A cache that could not grow has lost nothing, whoever asks for room next, and however little.
func TestCacheAfterFailedGrowth(t *testing.T) {
	m := batches["rotary embedding"]
	r := m.open(t, runner.Options{Slots: 2})
	long, short := m.prompt(700), m.prompt(5)
	a, b := decoderOf(t, r, long), decoderOf(t, r, short)
	runner.LoseRoom(a)
	requireNext(t, r, b, append(short, 1)...)
	requireNext(t, r, a, append(long, 2)...)

	s := sequence(t, r)
	_, err := s.Prefill(t.Context(), long)
	require.NoError(t, err)
	runner.LoseRoom(s)
	require.NoError(t, s.Reserve(10))
	requireNext(t, r, s, append(long, 2)...)
}

// Who needs more than there is memory for fails alone.
func TestBatchWithoutMemory(t *testing.T) {
	m := batches["a cache of 4 bits"]
	m.files = map[string]string{"config.json": fmt.Sprintf(`{"max_position_embeddings": %d}`, 1<<46)}
	r := m.open(t, runner.Options{Slots: 2})
	greedy, modest := decoderOf(t, r, m.prompt(5)), decoderOf(t, r, m.prompt(9))
	ends := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-ends:
				return
			default:
			}
			if _, err := modest.Decode(t.Context(), 1); err != nil {
				t.Errorf("step %d: %v", i, err)
				return
			}
			if i%100 == 99 {
				if err := modest.Truncate(9); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for range 20 {
		require.NoError(t, greedy.Reserve(1<<46))
		_, err := greedy.Decode(t.Context(), 1)
		require.ErrorContains(t, err, "make the KV cache of 2 generations")
	}
	require.NoError(t, greedy.Reserve(0))
	_, err := greedy.Decode(t.Context(), 1)
	require.NoError(t, err)
	close(ends)
	all.Wait()
}

// The memory of a long generation goes with it, while others stay.
func TestBatchGivesMemoryBack(t *testing.T) {
	m := batches["rotary embedding"]
	r := m.open(t, runner.Options{Slots: 2})
	stays := m.prompt(5)
	d := decoderOf(t, r, stays)
	_, err := answerOf(t, r, plain(m.prompt(1900), 2))
	require.NoError(t, err)
	requireNext(t, r, d, append(stays, 1)...)
	require.Less(t, runner.Capacity(r), 1900/2)
}

func TestSlotsNeedABatch(t *testing.T) {
	m := shapes["unshared cache"]
	_, err := runner.Open(t.Context(), m.folder(t), runner.Options{Slots: 2})
	requireError(t, err, runner.ErrNotModel, "Options.Slots is 2")
}

func BenchmarkBatch(b *testing.B) {
	m := batches["rotary embedding"]
	for _, n := range []int{1, 8} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r := m.open(b, runner.Options{Slots: n})
			for b.Loop() {
				var all sync.WaitGroup
				for range n {
					all.Go(func() {
						if _, err := answerOf(b, r, plain(m.prompt(20), 50)); err != nil {
							b.Error(err)
						}
					})
				}
				all.Wait()
			}
		})
	}
}
