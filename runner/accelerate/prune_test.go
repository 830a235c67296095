package accelerate_test

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/accelerate"
)

func TestPrune(t *testing.T) {
	root := ownCache(t)
	entries, err := accelerate.CacheEntries()
	require.NoError(t, err)
	require.Empty(t, entries, "a cache that is not there is empty")

	m := open(t, quick, accelerate.Config{})
	open(t, quick, accelerate.Config{BlockSize: 64})
	crashed := filepath.Join(root, "sessions", ".abc-123")
	require.NoError(t, os.MkdirAll(crashed, 0o777))
	entries, err = accelerate.CacheEntries()
	require.NoError(t, err)
	kinds := map[accelerate.Kind]int{}
	for _, e := range entries {
		kinds[e.Kind]++
		if e.Kind == accelerate.KindModel {
			require.Equal(t, "small-bf16", e.Source)
			require.Equal(t, "int4", e.Precision)
			require.Positive(t, e.Bytes)
		}
	}
	require.Equal(t, map[accelerate.Kind]int{accelerate.KindModel: 2, accelerate.KindSession: 2, accelerate.KindLeftOver: 1}, kinds)

	making := flock.New(filepath.Join(root, "sessions", "abc.lock"))
	require.NoError(t, making.Lock())
	removed, err := accelerate.Prune(t.Context(), time.Hour)
	require.NoError(t, err)
	require.Empty(t, removed, "all was just used, and somebody is making the rest")
	require.NoError(t, making.Close())
	strange := filepath.Join(root, "sessions", ".git")
	require.NoError(t, os.MkdirAll(strange, 0o777))
	removed, err = accelerate.Prune(t.Context(), time.Hour)
	require.NoError(t, err)
	require.Len(t, removed, 1, "nobody is making it any more")
	require.NoDirExists(t, crashed)
	require.DirExists(t, strange, "it is none of ours")
	require.NoError(t, os.Remove(strange))

	old := time.Now().Add(-48 * time.Hour)
	dir := filepath.Dir(m.Info().Model.File)
	require.NoError(t, os.Chtimes(dir, old, old))
	l := flock.New(dir + ".lock")
	require.NoError(t, l.Lock())
	removed, err = accelerate.Prune(t.Context(), time.Hour)
	require.NoError(t, err)
	require.Empty(t, removed, "who holds the lock is making it")
	require.NoError(t, l.Close())
	removed, err = accelerate.Prune(t.Context(), time.Hour)
	require.NoError(t, err)
	require.Len(t, removed, 1)
	require.NoDirExists(t, dir)

	require.NoError(t, m.Close())
	open(t, quick, accelerate.Config{}) // it is made again
	require.DirExists(t, dir)
	_, err = accelerate.Prune(t.Context(), 0)
	require.NoError(t, err)
	entries, err = accelerate.CacheEntries()
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestBenchmark(t *testing.T) {
	ownCache(t)
	m := open(t, accelerate.Source{Dir: carried}, accelerate.Config{Threads: 1})
	if runtime.GOOS == "linux" {
		measured := m.Info().Memory.Measured
		require.Positive(t, measured.Anonymous)
		require.Greater(t, measured.Peak, measured.Anonymous, "mapped weights and the library too")
	}
	b, err := m.Benchmark(t.Context(), accelerate.Benchmark{Text: "A harbor is", Tokens: 3, Iterations: 2})
	require.NoError(t, err)
	require.Equal(t, 2, b.Iterations)
	require.Equal(t, 3, b.Tokens)
	require.Positive(t, b.PromptTokens)
	require.Positive(t, b.Latency)
	require.Positive(t, b.TTFT)
	require.LessOrEqual(t, b.TTFT, b.Latency)
	require.Positive(t, b.PromptPerSecond)
	require.Positive(t, b.TokensPerSecond)
	require.Contains(t, b.Applied, "precision=int4")
	require.Contains(t, b.Applied, "threads=1")
	_, err = m.Benchmark(t.Context(), accelerate.Benchmark{Tokens: -1})
	require.Error(t, err)
}

// TestEstimate holds the estimate of weights against sizes worked out by hand for the carried model, and what is saved
// against fp32.
func TestEstimate(t *testing.T) {
	ownCache(t)
	estimate := func(c accelerate.Config) accelerate.Estimate {
		p, err := accelerate.Prepare(t.Context(), accelerate.Source{Dir: carried}, c, accelerate.Events{})
		require.NoError(t, err)
		e, err := p.Estimate()
		require.NoError(t, err)
		r, err := runner.Open(t.Context(), p.File, p.Options)
		require.NoError(t, err)
		require.Equal(t, r.Info().KVBytes(e.Context), e.KV, "what the runner takes for that many tokens")
		require.NoError(t, r.Close())
		return e
	}
	full, small := estimate(accelerate.Config{Precision: accelerate.None}), estimate(accelerate.Config{BlockSize: 32})
	for _, p := range []accelerate.Precision{accelerate.Int8, accelerate.DynamicInt8, accelerate.StaticInt8} {
		e := estimate(accelerate.Config{Precision: p, Calibration: few})
		require.Equal(t, full.FP32, e.FP32, "%s: the model is the same", p)
		require.InEpsilon(t, full.FP32/4, e.Packed, 0.3, "%s: 8 bits a weight, and its scales", p)
		require.Equal(t, full.Activations, e.Activations, p)
	}
	require.Equal(t, full.FP32, small.FP32, "the model is the same")
	require.Equal(t, full.FP32, full.Packed, "products in fp32 are packed at their size")
	// 4 bits a weight, and for each block of 32 a scale and a sum in fp32; rows that end within a block have a little more.
	require.InEpsilon(t, full.FP32/4*(4+2)/8, small.Packed, 0.02)
	require.Equal(t, small.FP32-small.Packed-small.Mapped, small.Saved)
	require.InDelta(t, 100*float64(small.Saved)/float64(small.FP32), small.SavedPercent(), 0.01)
	require.Positive(t, small.Mapped)
	half := estimate(accelerate.Config{PrefillChunk: 64, MaxContext: 128})
	require.Less(t, half.Activations, small.Activations)
	require.Equal(t, 128, half.Context)
}
