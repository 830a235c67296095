package runner_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/internal/reftest"
	"github.com/qwenrt/qwenrt/runner"
)

// Folders that other programs make, of a checkpoint of which transformers' logits are known.
const (
	foreign   = "../graphopt/testdata/foreign/"
	foreignOf = "../models/testdata/checkpoints/small-bf16/"
	tinyModel = "../models/tiny/qwen3-tiny/"
)

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Dir(to), 0o777))
	require.NoError(t, os.WriteFile(to, b, 0o666))
}

// community is a folder in the layout of the onnx-community repositories: two graphs in a folder of their own,
// configuration and tokenizer above.
func community(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"model.onnx", "model.onnx.data"} {
		copyFile(t, foreign+"optimum/"+name, filepath.Join(dir, "onnx", name))
	}
	require.NoError(t, os.CopyFS(dir, os.DirFS(foreign+"community")))
	copyFile(t, foreignOf+"config.json", filepath.Join(dir, "config.json"))
	for _, name := range []string{"tokenizer.json", "tokenizer_config.json"} {
		copyFile(t, tinyModel+name, filepath.Join(dir, name))
	}
	return dir
}

// Folders of other programs open without any conversion, and give what the model gives.
func TestForeignFolders(t *testing.T) {
	both := community(t)
	const coarse = 0 // four bits of 32 random weights are too few to compare
	for _, c := range []struct {
		why, path string
		within    float64 // of transformers' logits
		shared    bool
		context   int
	}{
		{"onnxruntime-genai, whose caches leave the head size open", foreign + "genai-fp32", reftest.Tolerance, true, 512},
		{"the same, quantised", foreign + "genai-int4", coarse, true, 512},
		{"torch, dynamo", foreign + "dynamo-18", reftest.Tolerance, false, 4096},
		{"torch, one row", foreign + "dynamo-18-batch1", reftest.Tolerance, false, 4096},
		{"torch, standard operators of opset 23", foreign + "dynamo-23-standard", reftest.Tolerance, false, 4096},
		{"torch, traced", foreign + "torchscript-17", reftest.Tolerance, false, 4096},
		{"onnx-community: the folder", both, reftest.Tolerance, false, 512},
		{"onnx-community: its folder of graphs", filepath.Join(both, "onnx"), reftest.Tolerance, false, 512},
		{"onnx-community: one of its graphs", filepath.Join(both, "onnx", "model_q4.onnx"), coarse, false, 512},
	} {
		t.Run(c.why, func(t *testing.T) {
			whole, chunks := open(t, c.path, runner.Options{}), open(t, c.path, runner.Options{PrefillChunk: 5})
			info := whole.Info()
			require.Equal(t, c.shared, info.SharedKV)
			require.Equal(t, []int{2, 2, 16, 128}, []int{info.Layers, info.KVHeads, info.HeadDim, info.Vocabulary})
			require.Equal(t, c.context, info.ContextLength)
			for i, p := range reftest.Load(t, foreignOf+"reference.safetensors") {
				tokens := make([]int32, len(p.IDs))
				for j, id := range p.IDs {
					tokens[j] = int32(id)
				}
				var got [2][]float32
				for j, r := range []*runner.Runner{whole, chunks} {
					require.NoError(t, sequence(t, r).Score(t.Context(), tokens, func(_ int, logits []float32) error {
						got[j] = append(got[j], logits...)
						return nil
					}))
				}
				require.LessOrEqual(t, reftest.MaxError(t, got[1], got[0], p.Vocab), reftest.Tolerance, "prompt %d in chunks", i)
				if c.within != coarse {
					require.LessOrEqual(t, reftest.MaxError(t, got[0], p.Logits, p.Vocab), c.within, "prompt %d", i)
				}
			}
		})
	}
}

// Configuration and tokenizer are found above a folder of graphs, unless that has its own.
func TestConfigAboveGraphs(t *testing.T) {
	dir := community(t)
	r := open(t, filepath.Join(dir, "onnx", "model_q4.onnx"), runner.Options{})
	require.Equal(t, dir, r.Info().Dir)
	_, err := r.Tokenizer()
	require.NoError(t, err)

	t.Chdir(filepath.Join(dir, "onnx"))
	require.Equal(t, 512, open(t, "model_q4.onnx", runner.Options{}).Info().ContextLength, "a path without folders")

	require.NoError(t, os.WriteFile("config.json", []byte(`{"max_position_embeddings": 99}`), 0o666))
	require.Equal(t, 99, open(t, ".", runner.Options{}).Info().ContextLength)

	require.NoError(t, os.Remove("model.onnx"))
	require.NoError(t, os.WriteFile("model_fp16.onnx", nil, 0o666))
	_, err = runner.Open(t.Context(), dir, runner.Options{})
	requireError(t, err, runner.ErrNotModel, "model_fp16.onnx, model_q4.onnx: name one of them")
}

// Names that an exporter made up are unknown; qwenrt optimize gives the right ones.
func TestForeignNames(t *testing.T) {
	_, err := runner.Open(t.Context(), foreign+"dynamo-18-names", runner.Options{})
	requireError(t, err, runner.ErrNotModel, "past_key_values_0_0")
	_, err = runner.Open(t.Context(), foreign+"dynamo-18-static", runner.Options{})
	requireError(t, err, runner.ErrNotModel, "input_ids")
}
