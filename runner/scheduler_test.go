package runner_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

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
	for name, m := range batches {
		t.Run(name, func(t *testing.T) {
			alone := m.open(t, runner.Options{})
			r := open(t, alone.Info().Dir, runner.Options{Slots: 3, PrefillChunk: 50})
			var all sync.WaitGroup
			for i := range 12 {
				all.Go(func() {
					q := plain(m.prompt(3+41*i), 10+17*(i%5))
					want, err := answerOf(t, alone, q)
					if err != nil {
						t.Error(err)
						return
					}
					got, err := answerOf(t, r, q)
					if err != nil || !slices.Equal(want, got) {
						t.Errorf("generation %d: %v, %v, want %v", i, got, err, want)
					}
				})
			}
			all.Wait()
			stats := r.BatchStats()
			if stats.Tokens <= stats.Steps {
				t.Errorf("%+v: nothing was shared", stats)
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
		_, _, err := r.Text(ctx, plain(m.prompt(3), 2))
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
