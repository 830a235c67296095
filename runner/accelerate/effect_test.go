package accelerate

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/models/folder"
	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/quantize"
)

// Of the carried model, three tensors are left open: bits go to the one whose rounding changes predictions most,
// no more than there are, and no trace of the probes is left.
func TestTargetBits(t *testing.T) {
	to := Output{Dir: filepath.Join(t.TempDir(), "mixed")}
	var probed []string
	conf := Config{TargetBits: 5, Rules: rules(t, "*=b32:sym", "*layers.0.*=float", "*layers.0.*=int4")}
	_, err := Build(t.Context(), Source{Dir: "../../models/tiny/qwen3-tiny"}, to, conf, Events{})
	require.ErrorContains(t, err, "nothing to spend bits on")

	conf.Rules = rules(t, "model.layers.*=b128:sym", "*lm_head*=level4")
	r, err := Build(t.Context(), Source{Dir: "../../models/tiny/qwen3-tiny"}, to, conf, Events{Tensor: func(p TensorProgress) {
		require.Equal(t, PhaseProbe, p.Phase)
		probed = append(probed, p.Tensor)
	}})
	require.NoError(t, err)
	require.Equal(t, []string{"model.embed_tokens.weight"}, probed)
	require.LessOrEqual(t, r.BitsPerWeight, 5.0)
	require.Greater(t, r.BitsPerWeight, 4.4, "bits are there to be spent")
	require.InDelta(t, r.Allocation.Bits, r.BitsPerWeight, 1e-9)
	require.Greater(t, r.Allocation.Weights[0].Effect, 0.0)
	entries, err := os.ReadDir(to.Dir)
	require.NoError(t, err)
	for _, e := range entries {
		require.False(t, e.IsDir(), "%s: temporary files are gone", e.Name())
	}
	m, err := ir.Load(filepath.Join(to.Dir, folder.ModelName))
	require.NoError(t, err)
	defer m.Close()
	for _, v := range m.Graph.Inputs() {
		require.NotContains(t, v.Name, "probe")
	}
	manifest, err := folder.ReadManifest(to.Dir)
	require.NoError(t, err)
	require.InDelta(t, r.BitsPerWeight, manifest.Weights.BitsPerWeight, 1e-3)
	require.Equal(t, "5", manifest.Steps[len(manifest.Steps)-1].Options["target_bits"])
}

func rules(t *testing.T, texts ...string) []quantize.Rule {
	t.Helper()
	var all []quantize.Rule
	for _, s := range texts {
		r, err := quantize.ParseRule(s)
		require.NoError(t, err)
		all = append(all, r)
	}
	return all
}

// A probed model is as it was: the same names, readers and inputs.
func TestSaveOpenRestores(t *testing.T) {
	m := ir.NewModel("m", 10, 21)
	g := m.Graph
	x := g.AddInput("x", ir.TensorType(ir.Float32, ir.Sym("n"), ir.Fixed(2)))
	w := g.AddInitializer("w", ir.Float32Tensor([]float32{1, 2, 3, 4}, 2, 2))
	y := g.Op("MatMul", "", []*ir.Value{g.Op("MatMul", "", []*ir.Value{x, w}), w})
	y.Name, y.Type = "y", ir.TensorType(ir.Float32, ir.Sym("n"), ir.Fixed(2))
	g.AddOutput(y)
	path := filepath.Join(t.TempDir(), "model.onnx")
	probe := quantize.Probe{Tensor: "w"}
	names, err := saveOpen(context.Background(), m, path, []quantize.Probe{probe, probe})
	require.NoError(t, err)
	require.Len(t, names, 1)
	require.Len(t, g.Inputs(), 1)
	require.Equal(t, []*ir.Value{w}, g.Initializers())
	require.Equal(t, 2, w.NumUses())

	saved, err := ir.Load(path)
	require.NoError(t, err)
	defer saved.Close()
	require.Len(t, saved.Graph.Inputs(), 2)

	require.NoError(t, ort.Init(ort.Environment{}))
	s, err := ort.NewSession(path, ort.SessionConfig{Threads: 1})
	require.NoError(t, err)
	defer s.Close()
	in, err := ort.NewTensor(ort.Float32, 1, 2)
	require.NoError(t, err)
	defer in.Close()
	copy(ort.Data[float32](in), []float32{1, 1})
	unit, err := ort.NewTensor(ort.Float32, 2, 2)
	require.NoError(t, err)
	defer unit.Close()
	copy(ort.Data[float32](unit), []float32{1, 0, 0, 1})
	for _, c := range []struct {
		inputs map[string]*ort.Tensor
		want   []float32
	}{
		{map[string]*ort.Tensor{"x": in}, []float32{22, 32}},
		{map[string]*ort.Tensor{"x": in, names["w"]: unit}, []float32{1, 1}},
	} {
		out, err := s.Run(context.Background(), c.inputs, nil)
		require.NoError(t, err)
		require.Equal(t, c.want, ort.Data[float32](out["y"]))
		out["y"].Close()
	}

	_, err = saveOpen(context.Background(), m, path, []quantize.Probe{{Tensor: "gone"}})
	require.ErrorContains(t, err, "gone is no initializer")
	require.Len(t, g.Inputs(), 1)
}

func TestDivergence(t *testing.T) {
	require.Zero(t, divergence([]float32{1, 2, 3}, []float32{1, 2, 3}))
	require.InDelta(t, 0, divergence([]float32{1, 2, 3}, []float32{101, 102, 103}), 1e-12, "logits have no origin")
	// p = (1/2, 1/2), q = (1/4, 3/4)
	want := 0.5*math.Log(0.5/0.25) + 0.5*math.Log(0.5/0.75)
	require.InDelta(t, want, divergence([]float32{0, 0}, []float32{0, float32(math.Log(3))}), 1e-7)
	require.False(t, math.IsNaN(divergence([]float32{0, 1000}, []float32{1000, 0})), "far apart")
}

func TestTargetBitsConfig(t *testing.T) {
	for _, c := range []struct {
		conf Config
		text string
	}{
		{Config{TargetBits: -1}, "target bits -1"},
		{Config{TargetBits: math.NaN()}, "target bits NaN"},
		{Config{TargetBits: 5, BlockSize: 32}, "target bits choose precision and block size"},
		{Config{TargetBits: 5, Precision: Int8}, "target bits choose precision and block size"},
		{Config{Precision: None, Rules: rules(t, "*=int8")}, "precision none quantises nothing"},
		{Config{AccuracyLevel: 7, Method: "best", Scale: "big"}, `accuracy level 7: it must be 1 to 4; method "best"`},
		{Config{Calibration: Calibration{Samples: -1}}, "-1 calibration samples"},
	} {
		err := c.conf.Validate()
		require.ErrorContains(t, err, c.text)
		require.NotContains(t, err.Error(), "\n")
		require.Equal(t, 1, strings.Count(err.Error(), "accelerate: "))
	}
}
