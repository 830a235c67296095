package accelerate

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/sample"
)

// Benchmark says what a model does to be measured by itself. Package runner/bench measures with more care; this is the
// answer to "what does this configuration give me".
type Benchmark struct {
	// Text to continue. Default: a sentence.
	Text string
	// Tokens that are generated in each iteration. Default: 32.
	Tokens int
	// Iterations behind one that is not counted. Default: 3.
	Iterations int
}

const benchmarkText = "A language model reads some words and says what may come next. It does so by"

// BenchmarkResult has means over the iterations.
type BenchmarkResult struct {
	Iterations   int           `json:"iterations"`
	PromptTokens int           `json:"prompt_tokens"`
	Tokens       int           `json:"tokens"`
	Latency      time.Duration `json:"latency_ns"` // from the request to the last token
	TTFT         time.Duration `json:"ttft_ns"`    // from the request to the first token
	// PromptPerSecond and TokensPerSecond are as in runner.Result.
	PromptPerSecond float64 `json:"prompt_tokens_per_second"`
	TokensPerSecond float64 `json:"tokens_per_second"`
	// Applied has the options as they are applied, "key=value".
	Applied []string `json:"applied"`
}

// Benchmark measures the model as it is set up now. The answers are greedy, and do not end early.
//
// Errors are those of runner.Generate.
func (m *Model) Benchmark(ctx context.Context, b Benchmark) (*BenchmarkResult, error) {
	if b.Tokens < 0 || b.Iterations < 0 {
		return nil, fmt.Errorf("accelerate: benchmark of %d iterations with %d tokens: want positive numbers, or 0 for the default", b.Iterations, b.Tokens)
	}
	s, release, err := m.use()
	if err != nil {
		return nil, err
	}
	defer release()
	q := runner.Request{
		Prompt: cmp.Or(b.Text, benchmarkText), MaxTokens: cmp.Or(b.Tokens, 32), IgnoreEOS: true, Sampling: &sample.Params{},
	}
	var all []runner.Result
	for range cmp.Or(b.Iterations, 3) + 1 {
		_, one, err := s.runner.Text(ctx, q)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	result := means(all[1:]) // the first run touches memory that the others find touched
	for _, o := range s.info().Options {
		result.Applied = append(result.Applied, o.Option+"="+o.Applied)
	}
	return result, nil
}

// means are those over some results of one request.
func means(all []runner.Result) *BenchmarkResult {
	m := &BenchmarkResult{Iterations: len(all)}
	n := float64(len(all))
	for _, one := range all {
		m.PromptTokens, m.Tokens = one.PromptTokens, one.GeneratedTokens
		m.Latency += one.Total
		m.TTFT += one.TTFT
		m.PromptPerSecond += one.PromptPerSecond / n
		m.TokensPerSecond += one.TokensPerSecond / n
	}
	m.Latency /= time.Duration(len(all))
	m.TTFT /= time.Duration(len(all))
	return m
}
