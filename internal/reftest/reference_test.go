package reftest

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMaxError(t *testing.T) {
	want := []float32{1, -4, 2, 100, 0, 0}
	require.Zero(t, MaxError(t, want, want, 3))
	got := []float32{1, -4, 2.5, 101, 0, 0}
	require.Equal(t, 0.125, MaxError(t, got, want, 3), "each position by its own largest logit")
	got[5] = float32(math.NaN())
	require.Equal(t, math.Inf(1), MaxError(t, got, want, 3))
	got[5] = float32(math.Inf(1))
	require.Equal(t, math.Inf(1), MaxError(t, got, want, 3))
}

func TestWindow(t *testing.T) {
	rows := [][]int64{{11, 12, 13, 14}, {21, 22}}
	require.Equal(t, step{
		batch: 2, from: 1, to: 3,
		ids:       []int64{12, 13, 0, 21},
		positions: []int64{1, 2, 0, 0},
		mask:      []int64{1, 1, 1, 0, 0, 1},
	}, window(rows, 4, 1, 3))
}

func TestLoad(t *testing.T) {
	prompts := Load(t, "../../models/testdata/checkpoints/untied-f32/reference.safetensors")
	require.Len(t, prompts, 2)
	p := prompts[0]
	require.Len(t, p.IDs, 24)
	require.Equal(t, 256, p.Vocab)
	require.Len(t, p.Logits, 24*256)
	require.Equal(t, p.Greedy[0], argmax(p.Logits[23*256:]), "the last row predicts the first token")
}
