package reftest

import (
	"encoding/binary"
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/models/safetensors"
)

// Prompt is what the reference implementation computes on one prompt, in float32.
type Prompt struct {
	IDs    []int64   // the prompt, S tokens
	Logits []float32 // [S, Vocab]
	Vocab  int
	Greedy []int64 // the most likely tokens after it
}

// Load reads a reference file: input_ids.N [S], logits.N [S, V] and greedy.N, from N = 0 on.
func Load(tb testing.TB, path string) []Prompt {
	tb.Helper()
	file, err := safetensors.OpenFile(path)
	require.NoError(tb, err)
	defer file.Close()
	tensor := func(name string, n int) (*safetensors.Tensor, bool) {
		return file.Tensor(fmt.Sprintf("%s.%d", name, n))
	}
	var prompts []Prompt
	for {
		ids, ok := tensor("input_ids", len(prompts))
		if !ok {
			break
		}
		logits, ok := tensor("logits", len(prompts))
		require.True(tb, ok, "%s: logits are missing", path)
		greedy, ok := tensor("greedy", len(prompts))
		require.True(tb, ok, "%s: greedy tokens are missing", path)
		prompts = append(prompts, Prompt{IDs: int64s(ids), Logits: float32s(logits),
			Vocab: int(logits.Shape[1]), Greedy: int64s(greedy)})
	}
	require.NotEmpty(tb, prompts, "%s holds no prompt", path)
	return prompts
}

func int64s(t *safetensors.Tensor) []int64 {
	v := make([]int64, t.Size()/8)
	for i := range v {
		v[i] = int64(binary.LittleEndian.Uint64(t.Bytes()[8*i:]))
	}
	return v
}

func float32s(t *safetensors.Tensor) []float32 {
	v := make([]float32, t.Size()/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(t.Bytes()[4*i:]))
	}
	return v
}

// MaxError is the largest difference between two tables of logits [S, vocab], each position's
// relative to the largest logit that the position has in want. NaN counts as infinite.
func MaxError(tb testing.TB, got, want []float32, vocab int) float64 {
	tb.Helper()
	require.Len(tb, got, len(want), "logits")
	worst := 0.0
	for at := 0; at < len(want); at += vocab {
		var diff, largest float64
		for i := at; i < at+vocab; i++ {
			d := math.Abs(float64(got[i]) - float64(want[i]))
			if math.IsNaN(d) {
				return math.Inf(1)
			}
			diff, largest = max(diff, d), max(largest, math.Abs(float64(want[i])))
		}
		worst = max(worst, diff/largest)
	}
	return worst
}
