package runner_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/runner"
)

// BenchmarkCacheTypes decodes 8 tokens behind 2,048 with each of the models in QWENRT_BENCH_MODELS, two names with a comma
// between, in turn: such as one with a KV cache in float32 and one in INT8. It reports the median time of a token, and that of
// the ratios of neighbours; of one name, the time alone. With QWENRT_BENCH_SNAPSHOTS, a folder, the prompt is run only once.
func BenchmarkCacheTypes(b *testing.B) {
	const context, step = 2048, 8
	models := strings.Split(os.Getenv("QWENRT_BENCH_MODELS"), ",")
	if models[0] == "" || len(models) > 2 {
		b.Skip("QWENRT_BENCH_MODELS does not name one model or two, A,B: build them with qwenrt build, one with --kv int8")
	}
	sequences := make([]*runner.Sequence, len(models))
	for i, model := range models {
		r, err := runner.Open(b.Context(), model, runner.Options{Threads: 2})
		require.NoError(b, err)
		defer r.Close()
		s := behind(b, r, context, filepath.Base(model))
		defer s.Close()
		sequences[i] = s
	}
	times := make([][]float64, len(models)) // ms for a token
	var ratios []float64
	for b.Loop() {
		for i, s := range sequences {
			time.Sleep(20 * time.Millisecond) // until the other session's threads have stopped waiting in a loop
			start := time.Now()
			for range step {
				_, err := s.Decode(b.Context(), 5)
				require.NoError(b, err)
			}
			times[i] = append(times[i], time.Since(start).Seconds()*1000/step)
			require.NoError(b, s.Truncate(context))
		}
		if last := len(times[0]) - 1; len(models) == 2 {
			ratios = append(ratios, times[0][last]/times[1][last])
		}
	}
	for i, all := range times {
		slices.Sort(all)
		b.ReportMetric(all[len(all)/2], string(rune('A'+i))+"-ms")
	}
	if len(models) == 1 {
		return
	}
	slices.Sort(ratios)
	b.ReportMetric(ratios[len(ratios)/2], "A/B")
	b.ReportMetric(ratios[len(ratios)/4], "quarter-A/B")
	b.ReportMetric(ratios[len(ratios)*3/4], "three-quarters-A/B")
}

// behind is a sequence of n tokens.
func behind(b *testing.B, r *runner.Runner, n int, name string) *runner.Sequence {
	folder := os.Getenv("QWENRT_BENCH_SNAPSHOTS")
	path := filepath.Join(folder, name)
	if folder != "" {
		if s, err := r.Restore(path); err == nil {
			require.NoError(b, s.Reserve(n+64))
			return s
		}
	}
	s, err := r.NewSequence()
	require.NoError(b, err)
	require.NoError(b, s.Reserve(n+64))
	tokens := make([]int32, n)
	for i := range tokens {
		tokens[i] = int32(i % 1000)
	}
	_, err = s.Prefill(b.Context(), tokens)
	require.NoError(b, err)
	if folder != "" {
		require.NoError(b, s.Snapshot(path))
	}
	return s
}
