package accelerate

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/runner"
)

func TestMeans(t *testing.T) {
	require.Equal(t, &BenchmarkResult{
		Iterations: 2, PromptTokens: 7, Tokens: 32, Latency: 3 * time.Second, TTFT: 20 * time.Millisecond,
		PromptPerSecond: 300, TokensPerSecond: 15,
	}, means([]runner.Result{
		{PromptTokens: 7, GeneratedTokens: 32, Total: 2 * time.Second, TTFT: 10 * time.Millisecond, PromptPerSecond: 400, TokensPerSecond: 20},
		{PromptTokens: 7, GeneratedTokens: 32, Total: 4 * time.Second, TTFT: 30 * time.Millisecond, PromptPerSecond: 200, TokensPerSecond: 10},
	}))
}
