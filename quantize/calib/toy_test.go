package calib

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/ort"
)

// The toy is a decoder of two layers in the form that the optimiser gives to Qwen3, with random weights of low
// rank beside noise, so that its activations are correlated.
const (
	toyVocabulary = 96
	toyWidth      = 64
	toyHeads      = 4
	toyKV         = 2
	toyHead       = 32
	toyInner      = 96
	toyLayers     = 2
	microsoft     = "com.microsoft"
)

type toy struct {
	g      *ir.Graph
	random *rand.Rand
}

func newToy() *ir.Model {
	m := ir.NewModel("toy", 10, 21)
	m.RequireOpset(microsoft, 1)
	t := &toy{m.Graph, rand.New(rand.NewPCG(3, 4))}
	g := m.Graph
	ids := g.AddInput("input_ids", ir.TensorType(ir.Int64, ir.Sym("batch"), ir.Sym("sequence")))
	mask := g.AddInput("attention_mask", ir.TensorType(ir.Int64, ir.Sym("batch"), ir.Sym("total")))
	table := t.matrix("embedding", toyVocabulary, toyWidth)
	x := g.Op("Gather", "embed", []*ir.Value{table, ids})
	seqlens := g.Op("Cast", "seqlens", []*ir.Value{g.Op("Sub", "last", []*ir.Value{
		g.Op("ReduceSum", "tokens", []*ir.Value{mask, t.ints("axis", 1)}, ir.Int("keepdims", 0)), t.ints("one", 1),
	})}, ir.Int("to", int64(ir.Int32)))
	total := g.Op("Cast", "total", []*ir.Value{g.Op("Gather", "length", []*ir.Value{
		g.Op("Shape", "shape", []*ir.Value{mask}), g.AddInitializer("second", ir.Int64Scalar(1)),
	})}, ir.Int("to", int64(ir.Int32)))
	for l := range toyLayers {
		x = t.layer(fmt.Sprintf("layers.%d.", l), x, seqlens, total)
	}
	out := t.norm("final", x)
	logits := g.Op("FusedMatMul", "head", []*ir.Value{out, table}, ir.Int("transB", 1))
	logits.Producer().Domain = microsoft
	logits.Name, logits.Type = "logits", ir.TensorType(ir.Float32, ir.Sym("batch"), ir.Sym("sequence"), ir.Fixed(toyVocabulary))
	g.AddOutput(logits)
	if err := g.Sort(); err != nil {
		panic(err)
	}
	return m
}

func (t *toy) ints(name string, v ...int64) *ir.Value {
	return t.g.AddInitializer(t.g.Fresh(name), ir.Int64Tensor(v))
}

// matrix is a constant [rows, cols].
func (t *toy) matrix(name string, rows, cols int) *ir.Value {
	const rank = 4
	a, b := make([]float64, rows*rank), make([]float64, rank*cols)
	for i := range a {
		a[i] = t.random.NormFloat64()
	}
	for i := range b {
		b[i] = t.random.NormFloat64()
	}
	w := make([]float32, rows*cols)
	for r := range rows {
		for c := range cols {
			sum := 0.7 * t.random.NormFloat64()
			for i := range rank {
				sum += 0.4 * a[r*rank+i] * b[i*cols+c]
			}
			w[r*cols+c] = float32(sum / math.Sqrt(float64(rows)))
		}
	}
	return t.g.AddInitializer(name, ir.Float32Tensor(w, int64(rows), int64(cols)))
}

func (t *toy) norm(name string, x *ir.Value) *ir.Value {
	gamma := make([]float32, toyWidth)
	for i := range gamma {
		gamma[i] = float32(0.5 + t.random.Float64())
	}
	gamma[5] *= 40 // an outlier channel
	w := t.g.AddInitializer(name+".weight", ir.Float32Tensor(gamma))
	return t.g.Op("SimplifiedLayerNormalization", name, []*ir.Value{x, w}, ir.Int("axis", -1), ir.Float("epsilon", 1e-6))
}

func (t *toy) product(name string, x *ir.Value, k, n int) *ir.Value {
	return t.g.Op("MatMul", name, []*ir.Value{x, t.matrix(name+".weight", k, n)})
}

func (t *toy) layer(name string, x, seqlens, total *ir.Value) *ir.Value {
	g := t.g
	const q, kv = toyHeads * toyHead, toyKV * toyHead
	qkv := t.product(name+"qkv", t.norm(name+"input_norm", x), toyWidth, q+2*kv)
	parts := g.Add(ir.NodeSpec{Op: "Split", Name: name + "split", Inputs: []*ir.Value{qkv, t.ints(name+"sizes", q, kv, kv)},
		Outputs: []string{name + "q", name + "k", name + "v"}, Attrs: []*ir.Attr{ir.Int("axis", -1)}}).Outputs()
	attention := g.Add(ir.NodeSpec{
		Op: "GroupQueryAttention", Domain: microsoft, Name: name + "attention",
		Inputs:  []*ir.Value{parts[0], parts[1], parts[2], nil, nil, seqlens, total},
		Outputs: []string{name + "attended", name + "key", name + "value"},
		Attrs:   []*ir.Attr{ir.Int("num_heads", toyHeads), ir.Int("kv_num_heads", toyKV)},
	}).Output(0)
	x = g.Op("Add", name+"add", []*ir.Value{x, t.product(name+"o", attention, q, toyWidth)})
	both := t.product(name+"gate_up", t.norm(name+"post_norm", x), toyWidth, 2*toyInner)
	halves := g.Add(ir.NodeSpec{Op: "Split", Name: name + "halve", Inputs: []*ir.Value{both, t.ints(name+"halves", toyInner, toyInner)},
		Outputs: []string{name + "gate", name + "up"}, Attrs: []*ir.Attr{ir.Int("axis", -1)}}).Outputs()
	act := g.Add(ir.NodeSpec{Op: "QuickGelu", Domain: microsoft, Name: name + "act", Inputs: []*ir.Value{halves[0]},
		Attrs: []*ir.Attr{ir.Float("alpha", 1)}}).Output(0)
	inner := g.Op("Mul", name+"mul", []*ir.Value{act, halves[1]})
	return g.Op("Add", name+"add2", []*ir.Value{x, t.product(name+"down", inner, toyInner, toyWidth)})
}

// toySamples are made by a rule, so that some tokens follow others.
func toySamples(seed uint64, count, length int) [][]int64 {
	r := rand.New(rand.NewPCG(seed, 9))
	all := make([][]int64, count)
	for i := range all {
		id := r.Int64N(toyVocabulary)
		for range length {
			all[i] = append(all[i], id)
			id = (id*5 + r.Int64N(4)) % toyVocabulary
		}
	}
	return all
}

// logits saves m and runs it.
func logits(t *testing.T, m *ir.Model, samples [][]int64) []float32 {
	t.Helper()
	require.NoError(t, ort.Init(ort.Environment{}))
	path := filepath.Join(t.TempDir(), "model.onnx")
	require.NoError(t, ir.Save(context.Background(), m, path, ir.SaveOptions{}))
	s, err := ort.NewSession(path, ort.SessionConfig{Threads: 1})
	require.NoError(t, err)
	defer s.Close()
	var all []float32
	for _, sample := range samples {
		n := int64(len(sample))
		ids, err := ort.NewTensor(ort.Int64, 1, n)
		require.NoError(t, err)
		defer ids.Close()
		copy(ort.Data[int64](ids), sample)
		mask, err := ort.NewTensor(ort.Int64, 1, n)
		require.NoError(t, err)
		defer mask.Close()
		for i := range sample {
			ort.Data[int64](mask)[i] = 1
		}
		out, err := s.Run(context.Background(), map[string]*ort.Tensor{"input_ids": ids, "attention_mask": mask}, nil)
		require.NoError(t, err)
		all = append(all, ort.Data[float32](out["logits"])...)
		out["logits"].Close()
	}
	return all
}

// distance is the root of the mean squared difference.
func distance(a, b []float32) float64 {
	sum := 0.0
	for i := range a {
		d := float64(a[i]) - float64(b[i])
		sum += d * d
	}
	return math.Sqrt(sum / float64(len(a)))
}
