package runner_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/runner"
)

// BenchmarkFirstToken opens the model in QWENRT_BENCH_MODEL, which QWENRT_BENCH_GRAPH may give an optimised graph for,
// and generates the first token of a short prompt. QWENRT_BENCH_SMALL_PAGES sets Options.SmallPages.
func BenchmarkFirstToken(b *testing.B) {
	model := os.Getenv("QWENRT_BENCH_MODEL")
	if model == "" {
		b.Skip("QWENRT_BENCH_MODEL names no model")
	}
	o := runner.Options{OptimizedModel: os.Getenv("QWENRT_BENCH_GRAPH"), SmallPages: os.Getenv("QWENRT_BENCH_SMALL_PAGES") != ""}
	for b.Loop() {
		r, err := runner.Open(b.Context(), model, o)
		require.NoError(b, err)
		_, result, err := r.Text(b.Context(), runner.Request{Prompt: "Why is the sky blue?", MaxTokens: 1})
		require.NoError(b, err)
		b.ReportMetric(result.TTFT.Seconds(), "first-token-s")
		require.NoError(b, r.Close())
	}
}
