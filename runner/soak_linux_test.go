package runner_test

import (
	"context"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/runner"
)

// TestSoak sends 10,000 requests of all kinds, those that fail, are cancelled or are left among them, and holds that
// neither memory nor goroutines are left behind. A request's cache is 64 kB at least, so that one in a hundred that stayed
// would be seen.
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
	runtime.GC()
	memory, goroutines := residentAnonymous(t), runtime.NumGoroutine()
	for i := range requests {
		request(i)
	}
	runtime.GC()
	require.Less(t, residentAnonymous(t)-memory, 6<<20)
	require.LessOrEqual(t, runtime.NumGoroutine(), goroutines+2)
}
