package bench

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/runner"
)

func TestMeasureLoad(t *testing.T) {
	s := open(t, runner.Options{Threads: 1})
	levels, err := MeasureLoad(t.Context(), s, LoadConfig{Concurrency: []int{1, 3}, Prompt: 7, Gen: 5, Repetitions: 2})
	require.NoError(t, err)
	require.Len(t, levels, 2)
	for i, l := range levels {
		require.Equal(t, []int{1, 3}[i], l.Concurrency)
		require.Equal(t, 2*l.Concurrency, l.Requests)
		require.Len(t, l.SamplesTTFT, l.Requests)
		require.InEpsilon(t, 12.0/5, l.TotalTS/l.OutputTS, 1e-9, "prompts counted")
		for _, p := range []Percentiles{l.TTFT, l.TPOT} {
			require.Positive(t, p.P50)
			require.LessOrEqual(t, p.P50, p.P90)
			require.LessOrEqual(t, p.P90, p.P99)
		}
	}
	_, err = MeasureLoad(t.Context(), s, LoadConfig{Concurrency: []int{0}})
	for _, want := range []string{"concurrency is 0", "prompt is 0", "generation is 0", "repetitions is 0"} {
		require.ErrorContains(t, err, want)
	}
	_, err = MeasureLoad(t.Context(), s, LoadConfig{Concurrency: []int{1}, Prompt: contextLength, Gen: 1, Repetitions: 1})
	require.ErrorIs(t, err, runner.ErrContext)
	_, err = MeasureLoad(t.Context(), s, LoadConfig{Concurrency: []int{1}, Text: "no tokenizer", Gen: 1, Repetitions: 1})
	require.Error(t, err)
}
