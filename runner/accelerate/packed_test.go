package accelerate_test

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/internal/reftest"
	"github.com/qwenrt/qwenrt/models/folder"
	"github.com/qwenrt/qwenrt/models/packed/packedtest"
	"github.com/qwenrt/qwenrt/models/safetensors"
	"github.com/qwenrt/qwenrt/quantize"
	"github.com/qwenrt/qwenrt/runner/accelerate"
)

// packedCheckpoint writes two checkpoints of the shape of untied-f32: one whose products have quantised weights,
// in the format that layer gives for each, and one with the same weights in float32.
func packedCheckpoint(t *testing.T, config map[string]any, layer func(module string) (packedtest.Format, bool)) (quantised, float string) {
	t.Helper()
	from := checkpoints + "untied-f32"
	source, err := safetensors.Open(from)
	require.NoError(t, err)
	defer source.Close()
	var left, right []packedtest.Tensor
	for i, name := range source.Names() {
		x, _ := source.Tensor(name)
		plain := packedtest.Tensor{Entry: safetensors.Entry{Name: name, DType: x.DType, Shape: x.Shape}, Data: append([]byte(nil), x.Bytes()...)}
		module := strings.TrimSuffix(name, ".weight")
		f, ok := layer(module)
		if !ok || !strings.HasSuffix(name, "_proj.weight") && name != "lm_head.weight" {
			left, right = append(left, plain), append(right, plain)
			continue
		}
		l := packedtest.Random(f, int(x.Shape[0]), int(x.Shape[1]), uint64(i))
		left, right = append(left, l.Tensors(module)...), append(right, l.Dense(name))
	}
	data, err := os.ReadFile(filepath.Join(from, "config.json"))
	require.NoError(t, err)
	var members map[string]any
	require.NoError(t, json.Unmarshal(data, &members))
	float = writeCheckpoint(t, members, right)
	members["quantization_config"] = config
	return writeCheckpoint(t, members, left), float
}

func writeCheckpoint(t *testing.T, config map[string]any, tensors []packedtest.Tensor) string {
	t.Helper()
	dir := t.TempDir()
	data, err := json.Marshal(config)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), data, 0o666))
	content := map[string][]byte{}
	var entries []safetensors.Entry
	for _, x := range tensors {
		entries, content[x.Name] = append(entries, x.Entry), x.Data
	}
	require.NoError(t, safetensors.Create(filepath.Join(dir, "model.safetensors"), entries, func(name string, w io.Writer) error {
		_, err := w.Write(content[name])
		return err
	}))
	return dir
}

// countGraph counts the operators of a folder's graph.
func countGraph(t *testing.T, dir string) map[string]int {
	t.Helper()
	m, err := ir.Load(filepath.Join(dir, "model.onnx"))
	require.NoError(t, err)
	defer m.Close()
	counts := map[string]int{}
	for _, n := range m.Graph.Nodes() {
		counts[n.OpType]++
	}
	return counts
}

// TestPackedCheckpoint builds checkpoints that are quantised already: logits are those of the same weights in fp32, and
// products with the same inputs are joined where the order of these agrees.
func TestPackedCheckpoint(t *testing.T) {
	gptq := map[string]any{"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": false}
	all := func(f packedtest.Format) func(string) (packedtest.Format, bool) {
		return func(string) (packedtest.Format, bool) { return f, true }
	}
	for _, c := range []struct {
		why      string
		config   map[string]any
		layer    func(module string) (packedtest.Format, bool)
		products int // in the optimised graph: QKV, o, gate and up, down for each of two layers, and the head
		gathers  int // beside the embedding and the rotary tables' none: orders of inputs
	}{
		{"GPTQ", gptq, all(packedtest.Format{Bits: 4, Group: 32}), 9, 0},
		{"AWQ", map[string]any{"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}, all(packedtest.Format{AWQ: true, Bits: 4, Group: 32}), 9, 0},
		{"8 bits", map[string]any{"quant_method": "gptq", "bits": 8, "group_size": 32, "sym": true}, all(packedtest.Format{Bits: 8, Group: 32, Symmetric: true}), 9, 0},
		{"act-order: one order for Q, K and V, one for o, one for gate and up; that of down is folded; one for the head", gptq,
			all(packedtest.Format{Bits: 4, Group: 32, ActOrder: 7}), 9, 7},
		{"act-order, another one for K", gptq, func(module string) (packedtest.Format, bool) {
			f := packedtest.Format{Bits: 4, Group: 32, ActOrder: 7}
			if strings.HasSuffix(module, "k_proj") {
				f.ActOrder = 8
			}
			return f, true
		}, 11, 9},
		{"up in fp32, so that the order of down's inputs cannot be folded; the head in fp32", gptq, func(module string) (packedtest.Format, bool) {
			return packedtest.Format{Bits: 4, Group: 32, ActOrder: 7}, !strings.HasSuffix(module, "up_proj") && module != "lm_head"
		}, 8, 8},
	} {
		t.Run(c.why, func(t *testing.T) {
			quantised, float := packedCheckpoint(t, c.config, c.layer)
			want, got := out(t, "want"), out(t, "got")
			_, err := accelerate.Build(t.Context(), accelerate.Source{Dir: float}, want, accelerate.Config{Precision: accelerate.None}, accelerate.Events{})
			require.NoError(t, err)
			keep := accelerate.Config{AccuracyLevel: 1, Rules: []quantize.Rule{{Match: "*", Keep: true}}} // products in fp32
			report, err := accelerate.Build(t.Context(), accelerate.Source{Dir: quantised}, got, keep, accelerate.Events{})
			require.NoError(t, err)
			require.Positive(t, report.BitsPerWeight)

			counts := countGraph(t, got.Dir)
			require.Equal(t, c.products, counts["MatMulNBits"], counts)
			require.Equal(t, c.gathers, counts["Gather"]-countGraph(t, want.Dir)["Gather"], counts)
			tokens := []int32{3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4}
			reference := openFolder(t, want.Dir, 0)
			vocab := reference.Info().Vocabulary
			require.LessOrEqual(t, reftest.MaxError(t, score(t, openFolder(t, got.Dir, 0), tokens), score(t, reference, tokens), vocab), reftest.Tolerance)
			m, err := folder.ReadManifest(got.Dir)
			require.NoError(t, err)
			require.Equal(t, c.config["quant_method"], m.Steps[0].Options["packed"])
			require.NotEmpty(t, m.Quantization)
			for _, q := range m.Quantization {
				require.Equal(t, c.config["quant_method"], q.Method, q.Name)
			}
		})
	}
}

// What a packed checkpoint has in floating point is quantised as any other, in one step or in three.
func TestPackedRest(t *testing.T) {
	gptq := map[string]any{"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": true}
	quantised, _ := packedCheckpoint(t, gptq, func(module string) (packedtest.Format, bool) {
		return packedtest.Format{Bits: 4, Group: 32, Symmetric: true}, module != "lm_head"
	})
	one, plain, fused, three, none := out(t, "one"), out(t, "plain"), out(t, "fused"), out(t, "three"), out(t, "none")
	source := accelerate.Source{Dir: quantised}
	_, err := accelerate.Build(t.Context(), source, one, accelerate.Config{}, accelerate.Events{})
	require.NoError(t, err)
	_, err = accelerate.Export(t.Context(), source, plain, accelerate.Config{}, accelerate.Events{})
	require.NoError(t, err)
	_, err = accelerate.Optimize(t.Context(), plain.Dir, fused, accelerate.Config{}, accelerate.Events{})
	require.NoError(t, err)
	_, err = accelerate.Quantize(t.Context(), fused.Dir, three, accelerate.Config{}, accelerate.Events{})
	require.NoError(t, err)
	for _, dir := range []string{one.Dir, three.Dir} {
		counts := countGraph(t, dir)
		require.Equal(t, 9, counts["MatMulNBits"])
		require.Equal(t, 1, counts["GatherBlockQuantized"])
	}
	tokens := []int32{3, 1, 4, 1, 5, 9}
	require.Equal(t, score(t, openFolder(t, one.Dir, 0), tokens), score(t, openFolder(t, three.Dir, 0), tokens))

	_, err = accelerate.Build(t.Context(), source, none, accelerate.Config{Precision: accelerate.None}, accelerate.Events{})
	require.NoError(t, err)
	require.Zero(t, countGraph(t, none.Dir)["GatherBlockQuantized"])
	require.Equal(t, 8, countGraph(t, none.Dir)["MatMulNBits"])
	to := out(t, "refused")
	_, err = accelerate.Build(t.Context(), source, to, accelerate.Config{TargetBits: 4.5}, accelerate.Events{})
	require.ErrorContains(t, err, "leave target bits out")
	_, err = accelerate.Build(t.Context(), source, to, accelerate.Config{Precision: accelerate.DynamicInt8, SmoothQuant: accelerate.SmoothOff}, accelerate.Events{})
	require.ErrorContains(t, err, "what is left can be int4, int8 or none")
	require.NoDirExists(t, to.Dir)
}
