package runner_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/ort/orttest"
	"github.com/qwenrt/qwenrt/runner"
)

// TestSoak sends 10,000 requests of all kinds, those that fail, are cancelled or are left among them, and holds that
// neither memory nor goroutines are left behind: 20 bytes a request in the heaps of Go or C would be seen, and of caches, which
// are 64 kB at least and are mapped, one in a hundred.
func TestSoak(t *testing.T) {
	m := toy{layers: 1, heads: 2, kvHeads: 2, headDim: 16}
	r := m.open(t, runner.Options{Threads: 1})
	prompt := m.prompt(5)
	request := func(i int) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		q := runner.Request{Tokens: prompt, MaxTokens: 3, IgnoreEOS: true}
		switch i % 10 {
		case 7:
			q.Tokens = []int32{-1}
		case 8:
			q.MaxTokens = 100
		case 9:
			cancel()
		}
		events := 0
		for _, err := range r.Generate(ctx, q) {
			if events++; i%10 == 8 && events == 2 {
				break
			}
			if i%10 == 7 {
				require.ErrorIs(t, err, runner.ErrToken)
			} else if i%10 == 9 {
				require.ErrorIs(t, err, context.Canceled)
			} else {
				require.NoError(t, err)
			}
		}
	}
	const warmup, requests = 500, 10_000
	for i := range warmup {
		request(i)
	}
	memory, held, goroutines := orttest.ResidentAnonymous(t), allocated(t), runtime.NumGoroutine()
	for i := range requests {
		request(i)
	}
	require.Less(t, allocated(t)-held, 20*requests)
	if !racing {
		require.Less(t, orttest.ResidentAnonymous(t)-memory, 6<<20)
	}
	require.LessOrEqual(t, runtime.NumGoroutine(), goroutines+2)
}

// TestSoakSlots is TestSoak for generations that share runs, prompts that begin alike and guesses: requests come and go
// beside one that stays, so that the cache of all is never given back as a whole.
func TestSoakSlots(t *testing.T) {
	m := toy{layers: 1, heads: 2, kvHeads: 2, headDim: 16, vocab: 64}
	r := m.open(t, runner.Options{Threads: 1, Slots: 4, Queue: 1, PrefixCache: 1 << 18})
	ctx, cancel := context.WithCancel(t.Context())
	stays := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		q := plain(m.prompt(9), 1<<30)
		q.Shift = true
		first := true
		for range r.Generate(ctx, q) {
			if first {
				close(stays)
			}
			first = false
		}
	})
	<-stays
	request := func(i int) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		q := plain(m.prompt(5+i*37%150), 3)
		switch i % 5 {
		case 0:
			q.Speculate = 3
		case 1:
			q.N = 3
		case 2:
			q.MaxTokens = 100
		case 3:
			go cancel()
		}
		events := 0
		for _, err := range r.Generate(ctx, q) {
			if events++; i%5 == 2 && events == 2 {
				break
			}
			if err != nil && !errors.Is(err, runner.ErrBusy) && !errors.Is(err, context.Canceled) {
				t.Errorf("request %d: %v", i, err)
			}
		}
	}
	requests := func(n int) {
		var group sync.WaitGroup
		for lane := range 5 { // with the one that stays, two more than there are places
			group.Go(func() {
				for i := range n {
					request(5*i + (lane+i)%5)
				}
			})
		}
		group.Wait()
		runtime.GC()
	}
	requests(150)
	memory, goroutines := orttest.ResidentAnonymous(t), runtime.NumGoroutine()
	requests(600)
	if !racing {
		require.Less(t, orttest.ResidentAnonymous(t)-memory, 6<<20)
	}
	require.LessOrEqual(t, runtime.NumGoroutine(), goroutines+2)
	require.LessOrEqual(t, r.PrefixStats().Bytes, int64(1<<18))
	cancel()
	all.Wait()
}

// allocated is what Go's heap and C's hold, in bytes.
func allocated(t *testing.T) int {
	t.Helper()
	runtime.GC()
	runtime.GC() // what has a finalizer or was in a pool goes with the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc) + orttest.Allocated(t)
}
