package precision_test

import (
	"context"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/graphtest"
	"github.com/qwenrt/qwenrt/graphopt/internal/interp"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/kernels"
	"github.com/qwenrt/qwenrt/graphopt/passes/attention"
	"github.com/qwenrt/qwenrt/graphopt/passes/lastlogits"
	"github.com/qwenrt/qwenrt/graphopt/passes/precision"
	"github.com/qwenrt/qwenrt/graphopt/passes/projections"
	"github.com/qwenrt/qwenrt/graphopt/passes/rmsnorm"
	"github.com/qwenrt/qwenrt/graphopt/passes/silu"
	"github.com/qwenrt/qwenrt/graphopt/passes/skipnorm"
	"github.com/qwenrt/qwenrt/graphopt/passes/tiedhead"
)

// Tests convert for CUDA, whose provider has all kernels, and run on the CPU, where ONNX Runtime widens
// the float16 nodes that it has no kernel for. bfloat16 is evaluated by interp.
func options(d ir.DType) g.Options {
	return g.Options{Target: g.CUDA, MaxPositions: 100, DType: d}
}

var fusions = []*g.Pass{rmsnorm.Pass, attention.Pass, skipnorm.Pass, projections.Pass, silu.Pass, tiedhead.Pass, lastlogits.Pass}

func run(t *testing.T, m *ir.Model, o g.Options, passes ...*g.Pass) int {
	t.Helper()
	r, err := g.Run(context.Background(), m, append(passes, precision.Pass), o)
	require.NoError(t, err)
	return r.Passes[len(r.Passes)-1].Count
}

func dump(t *testing.T, m *ir.Model) string {
	t.Helper()
	var b strings.Builder
	require.NoError(t, g.Dump(&b, m))
	return b.String()
}

func nodes(m *ir.Model, op string) (found []*ir.Node) {
	for _, n := range m.Graph.Nodes() {
		if n.OpType == op {
			found = append(found, n)
		}
	}
	return found
}

// requireSound checks what must hold of every converted graph.
func requireSound(t *testing.T, m *ir.Model, d ir.DType) {
	t.Helper()
	types := kernels.Types(m)
	for _, v := range m.Graph.Inputs() {
		require.NotEqual(t, ir.Float32, v.Type.DType, "input %s", v.Name)
	}
	for _, v := range m.Graph.Outputs() {
		want := d
		if v.Name == "logits" {
			want = ir.Float32
		}
		require.Equal(t, want, types[v], "output %s", v.Name)
		require.Equal(t, want, v.Type.DType, "what the file says of %s", v.Name)
	}
	for _, n := range m.Graph.Nodes() {
		switch n.OpType {
		case "Softmax", "Pow", "ReduceMean", "Sqrt", "Reciprocal", "Sin", "Cos":
			require.Equal(t, ir.Float32, types[n.Input(0)], "%v", n)
		case "MatMul", "FusedMatMul", "GroupQueryAttention", "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization", "Sigmoid", "QuickGelu":
			require.Equal(t, d, types[n.Input(0)], "%v", n)
		case "Cast":
			from, to := types[n.Input(0)], types[n.Output(0)]
			require.NotEqual(t, from, to, "%v has no effect", n)
			for _, u := range n.Output(0).Uses() {
				if u.Node.OpType == "Cast" {
					require.NotEqual(t, from, types[u.Node.Output(0)], "%v and %v cancel", n, u.Node)
				}
			}
		}
	}
	missing, err := kernels.Check(m, g.CUDA)
	require.NoError(t, err)
	require.Empty(t, kernels.Summary(missing))
}

// float32s is what a run gave, in float32, so that it can be compared with what a float32 graph gave.
func float32s(ts graphtest.Tensors) graphtest.Tensors {
	out := graphtest.Tensors{}
	for name, t := range ts {
		w := *t
		if w.DType.Float() {
			w.DType = ir.Float32
		}
		out[name] = &w
	}
	return out
}

const tolerance = 1e-2 // of the largest logit; float16 has eleven bits

func TestPlainGraph(t *testing.T) {
	for _, c := range []struct {
		why  string
		form graphtest.Decoder
	}{
		{"the form of models/qwen3", graphtest.Decoder{Layers: 2}},
		{"one matrix at both ends", graphtest.Decoder{Tied: true}},
		{"squares by products", graphtest.Decoder{MulSquare: true}},
		{"operands the other way round", graphtest.Decoder{Commuted: true}},
		{"tables in each layer", graphtest.Decoder{Layers: 2, OwnTables: true, HalfTables: true}},
		{"mask by Trilu", graphtest.Decoder{Mask: graphtest.CausalTrilu}},
		{"rows without a visible key", graphtest.Decoder{SafeSoftmax: true}},
		{"positions from a running sum", graphtest.Decoder{Positions: graphtest.FromMask}},
		{"one product for q, k, v", graphtest.Decoder{JoinedQKV: true, ScaleQuery: true}},
		{"computed shapes and presents under another name", graphtest.Decoder{ComputedShapes: true, PresentIdentity: true}},
	} {
		t.Run(c.why, func(t *testing.T) {
			m := c.form.Model(t)
			want := graphtest.Generate(t, m, 2, 5, 1)
			require.Positive(t, run(t, m, options(ir.Float16)))
			requireSound(t, m, ir.Float16)
			graphtest.Near(t, want, float32s(graphtest.Generate(t, m, 2, 5, 1)), tolerance)

			before := dump(t, m)
			require.Zero(t, run(t, m, options(ir.Float16)), "once is enough")
			require.Equal(t, before, dump(t, m))
		})
	}
}

// Of a fused graph nothing stays in float32 but the logits: one cast.
func TestFusedGraph(t *testing.T) {
	for _, c := range []struct {
		why  string
		form graphtest.Decoder
	}{
		{"two layers", graphtest.Decoder{Layers: 2}},
		{"one matrix at both ends", graphtest.Decoder{Tied: true}},
	} {
		t.Run(c.why, func(t *testing.T) {
			m := c.form.Model(t)
			want := graphtest.Generate(t, m, 1, 5, 1, 3)
			run(t, m, options(ir.Float16), fusions...)
			requireSound(t, m, ir.Float16)
			require.Len(t, nodes(m, "GroupQueryAttention"), max(1, c.form.Layers))
			floats := 0
			types := kernels.Types(m)
			for _, n := range nodes(m, "Cast") {
				if types[n.Input(0)].Float() {
					floats++
				}
			}
			require.Equal(t, 1, floats, "casts between floating point types")
			graphtest.Near(t, want, float32s(graphtest.Generate(t, m, 1, 5, 1, 3)), tolerance)
		})
	}
}

func TestBFloat16(t *testing.T) {
	logits := func(m *ir.Model) *interp.Tensor {
		given := map[*ir.Value]*interp.Tensor{}
		for _, v := range m.Graph.Inputs() {
			switch v.Name {
			case "input_ids":
				given[v] = interp.Ints([]int64{1, 3}, 7, 3, 9)
			case "attention_mask":
				given[v] = interp.Ints([]int64{1, 3}, 1, 1, 1)
			case "position_ids":
				given[v] = interp.Ints([]int64{1, 3}, 0, 1, 2)
			default:
				given[v] = interp.ShapeOnly(v.Type.DType, 1, v.Type.Shape[1].Size, 0, v.Type.Shape[3].Size)
			}
		}
		l, err := interp.New(given).Value(m.Graph.Outputs()[0])
		require.NoError(t, err)
		return l
	}
	m := graphtest.Decoder{Layers: 2}.Model(t)
	want := logits(m)
	require.Positive(t, run(t, m, options(ir.BFloat16)))
	requireSound(t, m, ir.BFloat16)
	got := logits(m)
	require.NoError(t, graphtest.Differ(want, got, 8e-2)) // eight bits
	require.Error(t, graphtest.Differ(want, got, 1e-6), "something must have been rounded")
}

func TestNarrowLogits(t *testing.T) {
	m := graphtest.Decoder{}.Model(t)
	o := options(ir.Float16)
	o.NarrowLogits = true
	run(t, m, o)
	require.Equal(t, "logits", m.Graph.Outputs()[0].Name)
	require.Equal(t, ir.Float16, m.Graph.Outputs()[0].Type.DType)
	require.Equal(t, "MatMul", m.Graph.Outputs()[0].Producer().OpType)
}

func TestKeepFloat32(t *testing.T) {
	for _, c := range []struct {
		why  string
		keep []string
		wide func(n *ir.Node) bool // of products
	}{
		{"an operator", []string{"MatMul"}, func(*ir.Node) bool { return true }},
		{"nodes of a layer, by pattern", []string{"/model/layers.1/*"}, func(n *ir.Node) bool { return strings.HasPrefix(n.Name, "/model/layers.1/") }},
		{"one node, by name", []string{"/lm_head/MatMul"}, func(n *ir.Node) bool { return n.Name == "/lm_head/MatMul" }},
		{"what is not there", []string{"Frobnicate", "/none/*"}, func(*ir.Node) bool { return false }},
	} {
		t.Run(c.why, func(t *testing.T) {
			m := graphtest.Decoder{Layers: 2}.Model(t)
			want := graphtest.Generate(t, m, 1, 4, 1)
			o := options(ir.Float16)
			o.KeepFloat32 = c.keep
			run(t, m, o)
			types := kernels.Types(m)
			for _, n := range nodes(m, "MatMul") {
				d := ir.Float16
				if c.wide(n) {
					d = ir.Float32
				}
				require.Equal(t, d, types[n.Input(0)], "%v", n)
				require.Equal(t, d, types[n.Input(1)], "%v", n)
			}
			graphtest.Near(t, want, float32s(graphtest.Generate(t, m, 1, 4, 1)), tolerance)
		})
	}
	_, err := g.Run(context.Background(), graphtest.Decoder{}.Model(t), []*g.Pass{precision.Pass},
		g.Options{Target: g.CUDA, DType: ir.Float16, KeepFloat32: []string{"[a"}})
	require.ErrorContains(t, err, `pattern "[a"`)
}

// one makes a model with a float32 input x [2,3] and what build makes of it.
func one(t *testing.T, build func(gr *ir.Graph, x *ir.Value) *ir.Value) *ir.Model {
	t.Helper()
	m := ir.NewModel("one", 10, 21)
	y := build(m.Graph, m.Graph.AddInput("x", ir.TensorType(ir.Float32, ir.Fixed(2), ir.Fixed(3))))
	y.Type = ir.TensorType(ir.Float32, ir.Fixed(2), ir.Fixed(3))
	m.Graph.AddOutput(y)
	require.NoError(t, m.Validate())
	return m
}

func scalar(gr *ir.Graph, v float32) *ir.Value {
	return gr.AddInitializer(gr.Fresh("c"), ir.Float32Scalar(v))
}

func TestScalars(t *testing.T) {
	for _, c := range []struct {
		why  string
		to   ir.DType
		v    float32
		op   string
		want ir.DType // of the node
		c    float64  // what becomes of the constant
	}{
		{"a mask's lowest number", ir.Float16, -math.MaxFloat32, "Add", ir.Float16, -32768},
		{"also in bfloat16, which rounds it up", ir.BFloat16, -math.MaxFloat32, "Add", ir.BFloat16, -0x1.FEp127},
		{"infinity is a number of both", ir.Float16, float32(math.Inf(-1)), "Add", ir.Float16, math.Inf(-1)},
		{"the largest that fits stays", ir.Float16, 65504, "Add", ir.Float16, 65504},
		{"an epsilon that would be zero keeps its node wide", ir.Float16, 1e-12, "Add", ir.Float32, float64(float32(1e-12))},
		{"bfloat16 has small numbers", ir.BFloat16, 0x1p-40, "Add", ir.BFloat16, 0x1p-40},
		{"zero is zero", ir.Float16, 0, "Add", ir.Float16, 0},
	} {
		m := one(t, func(gr *ir.Graph, x *ir.Value) *ir.Value { return gr.Op(c.op, c.op, []*ir.Value{x, scalar(gr, c.v)}) })
		run(t, m, options(c.to))
		n := nodes(m, c.op)[0]
		require.Equal(t, c.want, n.Input(1).Const.DType, c.why)
		got, err := g.ScalarValue(n.Input(1).Const)
		require.NoError(t, err)
		require.Equal(t, c.c, got, c.why)
	}
}

// A weight that does not fit is found while it is written, and named.
func TestOverflow(t *testing.T) {
	m := one(t, func(gr *ir.Graph, x *ir.Value) *ir.Value {
		w := gr.AddInitializer("model.up.weight", ir.Float32Tensor([]float32{1, 2, 3, 4, 7e4, 6, 7, 8, 9}, 3, 3))
		return gr.Op("MatMul", "up", []*ir.Value{x, w})
	})
	run(t, m, options(ir.Float16))
	_, err := ir.Encode(m)
	require.ErrorIs(t, err, ir.ErrOverflow)
	require.ErrorContains(t, err, `"model.up.weight"`)
	require.ErrorContains(t, err, "element 4 is 70000")
}

// A constant that is read in both types is stored in both; one that is not keeps its name.
func TestSharedConstant(t *testing.T) {
	m := one(t, func(gr *ir.Graph, x *ir.Value) *ir.Value {
		w := gr.AddInitializer("w", ir.Float32Tensor([]float32{1, 2, 3}))
		return gr.Op("Mul", "Mul", []*ir.Value{gr.Op("Pow", "Pow", []*ir.Value{x, w}), gr.Op("Sigmoid", "Sigmoid", []*ir.Value{gr.Op("Add", "Add", []*ir.Value{x, w})})})
	})
	run(t, m, options(ir.Float16))
	require.Equal(t, ir.Float32, nodes(m, "Pow")[0].Input(1).Const.DType)
	require.Equal(t, "w", nodes(m, "Pow")[0].Input(1).Name)
	require.Equal(t, ir.Float16, nodes(m, "Add")[0].Input(1).Const.DType)
	require.Equal(t, "w/float16", nodes(m, "Add")[0].Input(1).Name)
}

// A node without a 16-bit kernel on the target stays wide: CUDA has no Equal in bfloat16.
func TestNoKernelForOneNode(t *testing.T) {
	m := one(t, func(gr *ir.Graph, x *ir.Value) *ir.Value {
		s := gr.Op("Sigmoid", "Sigmoid", []*ir.Value{x})
		return gr.Op("Where", "Where", []*ir.Value{gr.Op("Equal", "Equal", []*ir.Value{s, x}), s, x})
	})
	run(t, m, options(ir.BFloat16))
	types := kernels.Types(m)
	require.Equal(t, ir.Float32, types[nodes(m, "Equal")[0].Input(0)])
	require.Equal(t, ir.BFloat16, types[nodes(m, "Sigmoid")[0].Input(0)])
}

func TestTargetWithoutKernels(t *testing.T) {
	m := graphtest.Decoder{}.Model(t)
	before := dump(t, m)
	o := g.Options{Target: g.CPU, DType: ir.Float16, MaxPositions: 100}
	ran := false
	first := &g.Pass{Name: "first", Doc: "tells that it ran", Run: func(*g.Unit) (int, error) { ran = true; return 0, nil }}
	_, err := g.Run(context.Background(), m, []*g.Pass{first, precision.Pass}, o)
	require.ErrorIs(t, err, kernels.ErrNoKernel)
	require.ErrorContains(t, err, "no float16 MatMul and Mul on the CPU")
	require.False(t, ran, "it must be said before any work")

	var declined []string
	o.Lenient = true
	o.Trace = func(e g.Event) {
		if e.Kind == g.Declined {
			declined = append(declined, e.Reason)
		}
	}
	require.Zero(t, run(t, m, o))
	require.Equal(t, before, dump(t, m))
	require.Len(t, declined, 1)
	require.Contains(t, declined[0], "no float16 MatMul")
}

func TestControlFlow(t *testing.T) {
	m, err := ir.Parse(graphtest.ControlFlow())
	require.NoError(t, err)
	_, err = g.Run(context.Background(), m, []*g.Pass{precision.Pass}, options(ir.Float16))
	require.ErrorContains(t, err, "has a body")
	o := options(ir.Float16)
	o.Lenient = true
	before := dump(t, m)
	require.Zero(t, run(t, m, o))
	require.Equal(t, before, dump(t, m))
}

func TestOptions(t *testing.T) {
	for _, d := range []ir.DType{ir.Undefined, ir.Float32} {
		m := graphtest.Decoder{}.Model(t)
		before := dump(t, m)
		require.Zero(t, run(t, m, options(d)))
		require.Equal(t, before, dump(t, m))
	}
	_, err := g.Run(context.Background(), graphtest.Decoder{}.Model(t), []*g.Pass{precision.Pass}, options(ir.Int8))
	require.ErrorContains(t, err, "cannot convert to int8")
}

func TestDeterministic(t *testing.T) {
	var texts []string
	for range 3 {
		m := graphtest.Decoder{Layers: 2}.Model(t)
		run(t, m, options(ir.Float16))
		texts = append(texts, dump(t, m))
	}
	require.Len(t, slices.Compact(texts), 1)
}
