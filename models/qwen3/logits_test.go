package qwen3

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/internal/reftest"
)

// export saves a checkpoint's graph and gives its path.
func export(t *testing.T, dir string, d ir.DType) string {
	t.Helper()
	s, err := Open(dir)
	require.NoError(t, err)
	defer s.Close()
	m, err := s.Model(Options{DType: d})
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "model.onnx")
	require.NoError(t, ir.Save(t.Context(), m, path, ir.SaveOptions{}))
	return path
}

const tinyReference = "../testdata/reference/logits.safetensors"

func TestLogitsOfTrainedModel(t *testing.T) {
	reftest.Open(t, export(t, tinyModel, ir.Float32)).Check(t, reftest.Load(t, tinyReference))
}

// What each checkpoint is there for stands in its README.
func TestLogitsOfEveryShape(t *testing.T) {
	folders, err := os.ReadDir(checkpoints)
	require.NoError(t, err)
	tested := 0
	for _, f := range folders {
		if !f.IsDir() {
			continue
		}
		tested++
		t.Run(f.Name(), func(t *testing.T) {
			dir := filepath.Join(checkpoints, f.Name())
			model := reftest.Open(t, export(t, dir, ir.Float32))
			model.Check(t, reftest.Load(t, filepath.Join(dir, "reference.safetensors")))
		})
	}
	require.GreaterOrEqual(t, tested, 8)
}

// float16 has 11 bits: an error of 2^-11 a rounding, some tens of roundings along the residual.
func TestLogitsInFloat16(t *testing.T) {
	model := reftest.Open(t, export(t, tinyModel, ir.Float16))
	for _, p := range reftest.Load(t, tinyReference) {
		require.Less(t, reftest.MaxError(t, model.Logits(t, p.IDs, 0), p.Logits, p.Vocab), 0.02)
	}
}

// Rows that are padded on the left, to one length, get the logits that each has alone.
func TestLogitsOfPaddedBatch(t *testing.T) {
	for _, d := range []struct {
		dtype     ir.DType
		tolerance float64
	}{
		{ir.Float32, reftest.Tolerance},
		{ir.Float16, 0.02}, // hides with a number of its own
	} {
		dir := filepath.Join(checkpoints, "untied-f32")
		model := reftest.Open(t, export(t, dir, d.dtype))
		prompts := reftest.Load(t, filepath.Join(dir, "reference.safetensors"))
		for _, chunk := range []int{0, 7, 1} {
			got := model.BatchLogits(t, [][]int64{prompts[0].IDs, prompts[1].IDs}, chunk)
			for i, p := range prompts {
				worst := reftest.MaxError(t, got[i], p.Logits, p.Vocab)
				require.LessOrEqual(t, worst, d.tolerance, "%v, row %d, chunks of %d", d.dtype, i, chunk)
			}
		}
	}
}
