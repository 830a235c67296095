package interp_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/internal/graphtest"
	"github.com/qwenrt/qwenrt/graphopt/internal/interp"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

type T = *interp.Tensor

func f32(shape []int64, v ...float64) T { return interp.Floats(shape, v...) }
func i64(shape []int64, v ...int64) T   { return interp.Ints(shape, v...) }
func vec(v ...int64) T                  { return i64([]int64{int64(len(v))}, v...) }
func scalar(v int64) T                  { return i64([]int64{}, v) }
func sh(d ...int64) []int64             { return append([]int64{}, d...) }

func as(d ir.DType, t T) T {
	out := *t
	out.DType = d
	return &out
}

// ramp is numbers that go up and down around zero, of any type.
func ramp(d ir.DType, shape ...int64) T {
	n, _ := ir.NumElements(shape)
	t := &interp.Tensor{DType: d, Shape: sh(shape...)}
	for i := range n {
		v := (i*7)%11 - 5
		switch {
		case d.Float():
			t.F = append(t.F, float64(v)/2)
		case d == ir.Bool:
			t.I = append(t.I, v&1)
		case d == ir.Uint8:
			t.I = append(t.I, v+5)
		default:
			t.I = append(t.I, v)
		}
	}
	return t
}

// positive is ramp without zeros and signs.
func positive(d ir.DType, shape ...int64) T {
	t := ramp(d, shape...)
	for i, x := range t.F {
		t.F[i] = math.Abs(x) + 0.5
	}
	for i, x := range t.I {
		t.I[i] = max(x, -x) + 1
	}
	return t
}

// node is one operator with its operands.
type node struct {
	why   string
	op    string
	attrs []*ir.Attr
	in    []T // nil: left out
	outs  int // default 1
}

func (c node) String() string {
	s := c.op
	for _, t := range c.in {
		if t == nil {
			s += " _"
			continue
		}
		s += fmt.Sprintf(" %v%v", t.DType, t.Shape)
	}
	if c.why != "" {
		s += ": " + c.why
	}
	return s
}

// model makes a graph of the node, with inputs for its operands.
func (c node) model() (*ir.Model, graphtest.Tensors, *ir.Node) {
	m := ir.NewModel("node", 10, 21)
	in := graphtest.Tensors{}
	operands := make([]*ir.Value, len(c.in))
	for i, t := range c.in {
		if t == nil {
			continue
		}
		dims := make([]ir.Dim, len(t.Shape))
		for j := range dims {
			dims[j] = ir.Sym(fmt.Sprintf("d%d_%d", i, j)) // so that nothing is known before the run
		}
		name := fmt.Sprintf("in%d", i)
		operands[i] = m.Graph.AddInput(name, ir.TensorType(t.DType, dims...))
		in[name] = t
	}
	outputs := []string{"out0", "out1", "out2"}[:max(c.outs, 1)]
	n := m.Graph.Add(ir.NodeSpec{Op: c.op, Name: "node", Inputs: operands, Outputs: outputs, Attrs: c.attrs})
	for _, o := range n.Outputs() {
		m.Graph.AddOutput(o)
	}
	return m, in, n
}

// evaluate computes all results.
func (c node) evaluate() (graphtest.Tensors, error) {
	m, in, n := c.model()
	given := map[*ir.Value]T{}
	for _, v := range m.Graph.Inputs() {
		given[v] = in[v.Name]
	}
	e := interp.New(given)
	out := graphtest.Tensors{}
	for _, o := range n.Outputs() {
		t, err := e.Value(o)
		if err != nil {
			return nil, err
		}
		out[o.Name] = t
	}
	return out, nil
}

var cases = func() []node {
	var c []node
	add := func(why, op string, attrs []*ir.Attr, in ...T) {
		c = append(c, node{why: why, op: op, attrs: attrs, in: in})
	}
	attr := func(a ...*ir.Attr) []*ir.Attr { return a }

	for _, op := range []string{"Add", "Sub", "Mul", "Div"} {
		for _, d := range []ir.DType{ir.Float32, ir.Float64, ir.Int32, ir.Int64} {
			add("", op, nil, ramp(d, 2, 3), positive(d, 2, 3))
			add("broadcast both ways", op, nil, ramp(d, 2, 1, 3), positive(d, 4, 1))
			add("a scalar", op, nil, ramp(d, 3), positive(d))
			add("nothing", op, nil, ramp(d, 0, 3), positive(d, 3))
		}
	}
	add("float16 rounds", "Add", nil, as(ir.Float16, f32(sh(3), 1, 2048, 0.125)), as(ir.Float16, f32(sh(3), 0.5, 0.5, 2)))
	add("wraps around", "Add", nil, as(ir.Int32, vec(math.MaxInt32)), as(ir.Int32, vec(1)))
	add("wraps around", "Mul", nil, vec(math.MaxInt64), vec(3))
	add("towards zero", "Div", nil, vec(-7, 7, -7), vec(2, -2, -2))
	add("by zero", "Div", nil, f32(sh(3), 1, -1, 0), f32(sh(1), 0))
	for _, op := range []string{"Max", "Min"} {
		for _, d := range []ir.DType{ir.Float32, ir.Int64, ir.Int32} {
			add("", op, nil, ramp(d, 2, 3), positive(d, 3))
			add("three operands, each broadcast", op, nil, ramp(d, 2, 1), positive(d, 3), ramp(d, 4, 1, 1))
			add("one operand", op, nil, ramp(d, 2))
		}
		add("infinities", op, nil, f32(sh(2), math.Inf(1), math.Inf(-1)), f32(sh(1), 0))
	}
	for _, e := range []T{f32(sh(), 2), f32(sh(2), 0.5, -1), scalar(3), as(ir.Int32, vec(0, 2))} {
		add("", "Pow", nil, positive(ir.Float32, 3, 2), e)
		add("", "Pow", nil, positive(ir.Int64, 3, 2), e)
	}
	add("the divisor's sign", "Mod", nil, vec(-7, 7, -7, 7, 6), vec(3, -3, -3, 3, -3))
	add("the dividend's sign", "Mod", attr(ir.Int("fmod", 1)), vec(-7, 7, -7, 7), vec(3, -3, -3, 3))
	add("", "Mod", attr(ir.Int("fmod", 1)), f32(sh(4), -7.5, 7.5, -7, 7), f32(sh(4), 2, -2, -2, 2))

	for _, op := range []string{"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"} {
		for _, d := range []ir.DType{ir.Float32, ir.Int32, ir.Int64} {
			add("", op, nil, ramp(d, 2, 3), ramp(d, 3))
		}
		add("NaN", op, nil, f32(sh(2), math.NaN(), 1), f32(sh(2), math.NaN(), math.NaN()))
	}
	add("", "Equal", nil, ramp(ir.Bool, 2, 3), ramp(ir.Bool, 3))
	for _, op := range []string{"And", "Or", "Xor"} {
		add("", op, nil, ramp(ir.Bool, 2, 1, 4), ramp(ir.Bool, 3, 1))
	}
	add("", "Not", nil, ramp(ir.Bool, 2, 2))
	add("", "IsNaN", nil, f32(sh(3), math.NaN(), math.Inf(1), 0))
	for _, op := range []string{"Neg", "Abs"} {
		for _, d := range []ir.DType{ir.Float32, ir.Int32, ir.Int64} {
			add("", op, nil, ramp(d, 2, 5))
		}
	}
	add("smallest of its kind", "Neg", nil, vec(math.MinInt64))
	for _, op := range []string{"Sqrt", "Reciprocal", "Log"} {
		add("", op, nil, positive(ir.Float32, 11))
	}
	for _, op := range []string{"Exp", "Cos", "Sin", "Floor", "Ceil", "Sigmoid", "Sqrt"} {
		add("", op, nil, ramp(ir.Float32, 11))
	}
	add("large angles", "Cos", nil, f32(sh(3), 40959, 1000.5, 131071))
	add("large angles", "Sin", nil, f32(sh(3), 40959, 1000.5, 131071))
	add("ends", "Sigmoid", nil, f32(sh(2), -200, 200))

	for _, from := range []ir.DType{ir.Float32, ir.Float64, ir.Float16, ir.Int64, ir.Int32, ir.Bool, ir.Uint8} {
		for _, to := range []ir.DType{ir.Float32, ir.Float64, ir.Float16, ir.Int64, ir.Int32, ir.Bool} {
			add("", "Cast", attr(ir.Int("to", int64(to))), ramp(from, 2, 3))
			add("", "CastLike", nil, ramp(from, 2, 3), ramp(to, 1))
		}
	}
	add("cut to the type", "Cast", attr(ir.Int("to", int64(ir.Uint8))), vec(-1, 257))
	add("beyond the largest", "Cast", attr(ir.Int("to", int64(ir.Float16))), f32(sh(4), 65504, 65519, 65520, -1e9))
	add("ties to even", "Cast", attr(ir.Int("to", int64(ir.Float16))), f32(sh(2), 2049, 2051))
	for _, d := range []ir.DType{ir.Float32, ir.Int64} {
		add("", "Where", nil, ramp(ir.Bool, 2, 1, 1), ramp(d, 3, 1), ramp(d, 4))
		add("", "Where", nil, ramp(ir.Bool), ramp(d, 3), ramp(d, 1))
		add("", "Identity", nil, ramp(d, 2, 0))
	}

	add("", "ConstantOfShape", nil, vec(2, 3))
	add("", "ConstantOfShape", attr(ir.TensorAttr("value", ir.Int64Tensor([]int64{7}))), vec(2))
	add("a scalar", "ConstantOfShape", attr(ir.TensorAttr("value", ir.Int64Tensor([]int64{7}))), i64(sh(0)))
	add("nothing", "ConstantOfShape", nil, vec(0, 5))
	add("", "Range", nil, scalar(2), scalar(9), scalar(3))
	add("downwards", "Range", nil, scalar(2), scalar(-5), scalar(-3))
	add("nothing", "Range", nil, scalar(2), scalar(2), scalar(1))
	add("the wrong way", "Range", nil, scalar(2), scalar(5), scalar(-1))
	add("", "Range", nil, f32(sh(), 0.5), f32(sh(), 2.01), f32(sh(), 0.25))
	add("", "Range", nil, as(ir.Int32, scalar(0)), as(ir.Int32, scalar(4)), as(ir.Int32, scalar(1)))
	for _, a := range [][]*ir.Attr{nil, attr(ir.Int("start", 1)), attr(ir.Int("end", -1)), attr(ir.Int("start", -2), ir.Int("end", 9)),
		attr(ir.Int("start", -9), ir.Int("end", 1)), attr(ir.Int("start", 2), ir.Int("end", 1))} {
		add("", "Shape", a, ramp(ir.Float32, 2, 0, 4))
	}
	add("of a scalar", "Shape", nil, scalar(1))
	add("", "Size", nil, ramp(ir.Float32, 2, 3))
	add("", "Size", nil, ramp(ir.Float32, 2, 0))

	x := ramp(ir.Float32, 2, 3, 4)
	for _, s := range [][]int64{{6, 4}, {-1}, {0, -1}, {0, 0, 2, 2}, {2, -1, 2}, {1, 24, 1}} {
		add("", "Reshape", nil, x, vec(s...))
	}
	add("to a scalar", "Reshape", nil, ramp(ir.Int64, 1, 1), i64(sh(0)))
	add("0 copies an empty dimension", "Reshape", nil, ramp(ir.Float32, 2, 0, 3), vec(2, 0, 3))
	add("0 is empty", "Reshape", attr(ir.Int("allowzero", 1)), ramp(ir.Float32, 2, 0, 3), vec(0, 5))
	for _, a := range []int64{0, 1, 2, 3, -1, -3} {
		add("", "Flatten", attr(ir.Int("axis", a)), x)
	}
	add("the default axis", "Flatten", nil, x)
	add("all ones", "Squeeze", nil, ramp(ir.Float32, 1, 3, 1))
	add("", "Squeeze", nil, ramp(ir.Float32, 1, 3, 1), vec(-1))
	add("", "Squeeze", nil, ramp(ir.Float32, 1, 3, 1), vec(0, 2))
	add("", "Unsqueeze", nil, ramp(ir.Float32, 2, 3), vec(1))
	add("", "Unsqueeze", nil, ramp(ir.Float32, 2, 3), vec(-1, 0))
	add("axes of the result, in any order", "Unsqueeze", nil, ramp(ir.Float32, 2, 3), vec(3, 1))
	add("", "Unsqueeze", nil, scalar(5), vec(0))
	for _, s := range [][]int64{{2, 4, 3}, {1, 1, 1}, {3}, {5, 2, 1, 3}} {
		add("", "Expand", nil, ramp(ir.Int64, 2, 1, 3), vec(s...))
	}
	add("to nothing", "Expand", nil, ramp(ir.Float32, 2, 1), vec(0, 2, 1))
	add("a scalar", "Expand", nil, scalar(3), vec(2, 2))
	add("", "Tile", nil, ramp(ir.Int64, 2, 3), vec(2, 3))
	add("no times", "Tile", nil, ramp(ir.Int64, 2, 3), vec(1, 0))
	add("the default", "Transpose", nil, x)
	add("", "Transpose", attr(ir.Ints("perm", 1, 0, 2)), x)
	add("", "Transpose", attr(ir.Ints("perm", 2, 0, 1)), ramp(ir.Int64, 2, 3, 4))
	for _, a := range []int64{0, 1, -1} {
		add("", "Concat", attr(ir.Int("axis", a)), x, x)
	}
	add("with nothing", "Concat", attr(ir.Int("axis", 1)), ramp(ir.Int64, 2, 0), ramp(ir.Int64, 2, 3), ramp(ir.Int64, 2, 1))
	slice := func(why string, in ...T) { add(why, "Slice", nil, in...) }
	slice("", x, vec(1), vec(3), vec(1))
	slice("no axes", x, vec(0, 1), vec(1, 2))
	slice("axes left out", x, vec(0, 1), vec(2, 3), nil, vec(1, 2))
	slice("counted from the end", x, vec(-3), vec(-1), vec(-1))
	slice("clamped", x, vec(-99), vec(math.MaxInt64), vec(2))
	slice("nothing", x, vec(3), vec(1), vec(2))
	slice("steps", x, vec(0), vec(4), vec(2), vec(3))
	slice("backwards", x, vec(-1), vec(math.MinInt64), vec(2), vec(-1))
	slice("backwards by two", x, vec(3), vec(0), vec(2), vec(-2))
	slice("backwards from beyond the end", x, vec(99), vec(-99), vec(1), vec(-1))
	slice("backwards from before the start", x, vec(-99), vec(-100), vec(1), vec(-1))
	slice("a step longer than anything", x, vec(0), vec(math.MaxInt64), vec(2), vec(math.MaxInt64))
	slice("a step back longer than anything", x, vec(3), vec(math.MinInt64), vec(2), vec(math.MinInt64))
	slice("of nothing", ramp(ir.Int64, 0, 2), vec(0), vec(1), vec(0))
	slice("32-bit bounds", x, as(ir.Int32, vec(1)), as(ir.Int32, vec(3)), as(ir.Int32, vec(1)))
	for _, a := range []int64{0, 1, -1} {
		add("", "Gather", attr(ir.Int("axis", a)), x, i64(sh(2, 2), 0, 1, -1, -2))
	}
	add("a scalar index", "Gather", attr(ir.Int("axis", 1)), ramp(ir.Int64, 2, 3), scalar(-1))
	add("no indices", "Gather", nil, x, i64(sh(0)))
	add("32-bit indices", "Gather", nil, x, as(ir.Int32, vec(1, 0)))
	add("", "GatherND", nil, x, i64(sh(2, 2), 0, 1, 1, -1))
	add("whole elements", "GatherND", nil, x, i64(sh(1, 3), 1, 2, 3))
	add("", "ScatterND", nil, x, i64(sh(2, 1), 1, 0), ramp(ir.Float32, 2, 3, 4))
	add("", "ScatterND", nil, ramp(ir.Int64, 5), i64(sh(2, 1), -1, 0), vec(9, 8))
	for _, upper := range []int64{0, 1} {
		a := attr(ir.Int("upper", upper))
		add("", "Trilu", a, ramp(ir.Float32, 2, 3, 4))
		for _, k := range []int64{0, 1, -1, 7, -7} {
			add(fmt.Sprintf("k %d", k), "Trilu", a, ramp(ir.Int64, 4, 3), scalar(k))
		}
	}
	add("nothing", "Trilu", nil, ramp(ir.Float32, 0, 3))

	for _, d := range []ir.DType{ir.Float32, ir.Int32, ir.Int64} {
		for _, axis := range []int64{0, 1, -1} {
			add("", "CumSum", nil, ramp(d, 2, 3, 2), scalar(axis))
		}
		add("", "CumSum", attr(ir.Int("exclusive", 1)), ramp(d, 2, 3), scalar(1))
		add("", "CumSum", attr(ir.Int("reverse", 1)), ramp(d, 2, 3), scalar(1))
		add("", "CumSum", attr(ir.Int("reverse", 1), ir.Int("exclusive", 1)), ramp(d, 2, 3), scalar(0))
	}
	add("", "MatMul", nil, ramp(ir.Float32, 3, 4), ramp(ir.Float32, 4, 2))
	add("batches", "MatMul", nil, ramp(ir.Float32, 2, 1, 3, 4), ramp(ir.Float32, 5, 4, 2))
	add("sums over nothing", "MatMul", nil, ramp(ir.Float32, 2, 0), ramp(ir.Float32, 0, 3))
	for _, op := range []string{"ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"} {
		for _, d := range []ir.DType{ir.Float32, ir.Int32, ir.Int64} {
			for _, keep := range []int64{0, 1} {
				add("", op, attr(ir.Int("keepdims", keep)), ramp(d, 2, 3, 4), vec(-1))
				add("", op, attr(ir.Int("keepdims", keep)), ramp(d, 2, 3, 4), vec(0, 2))
			}
			add("all axes", op, nil, ramp(d, 2, 3))
			add("no axes are all", op, nil, ramp(d, 2, 3), i64(sh(0)))
		}
		add("no axes are none", op, attr(ir.Int("noop_with_empty_axes", 1)), ramp(ir.Float32, 2, 3), i64(sh(0)))
	}
	add("of nothing", "ReduceSum", nil, ramp(ir.Float32, 2, 0), vec(1))
	add("of nothing", "ReduceProd", nil, ramp(ir.Float32, 2, 0), vec(1))
	add("to nothing", "ReduceMax", nil, ramp(ir.Float32, 0, 2), vec(1))
	add("", "Softmax", attr(ir.Int("axis", -1)), ramp(ir.Float32, 2, 3, 4))
	add("", "Softmax", nil, ramp(ir.Float32, 2, 3))
	add("hidden scores", "Softmax", nil, f32(sh(1, 3), 1, math.Inf(-1), -3e38))
	add("no scores", "Softmax", nil, ramp(ir.Float32, 2, 0))

	split := func(why string, outs int, attrs []*ir.Attr, in ...T) {
		c = append(c, node{why: why, op: "Split", attrs: attrs, in: in, outs: outs})
	}
	split("", 3, attr(ir.Int("axis", -1)), x, vec(1, 2, 1))
	split("an empty part", 2, attr(ir.Int("axis", 1)), x, vec(3, 0))
	split("even parts", 2, attr(ir.Int("num_outputs", 2)), x)
	split("the last is smaller", 2, attr(ir.Int("axis", 1), ir.Int("num_outputs", 2)), x)
	return c
}()

// Every operator gives what ONNX Runtime gives.
func TestOperators(t *testing.T) {
	for _, c := range cases {
		t.Run(c.String(), func(t *testing.T) {
			m, in, _ := c.model()
			s := graphtest.Open(t, m)
			defer s.Close()
			want := s.Run(t, in)
			got, err := c.evaluate()
			require.NoError(t, err)
			graphtest.Near(t, want, got, 3e-7)

			// The shape comes out the same when only that is asked for.
			m, in, n := c.model()
			given := map[*ir.Value]T{}
			for _, v := range m.Graph.Inputs() {
				given[v] = in[v.Name]
			}
			e := interp.New(given)
			for _, o := range n.Outputs() {
				shape, err := e.Shape(o)
				require.NoError(t, err)
				require.Equal(t, interp.ShapeOnly(got[o.Name].DType, got[o.Name].Shape...), shape)
			}
		})
	}
}

// Constants in all the ways in which ONNX writes them.
func TestConstant(t *testing.T) {
	for _, a := range []*ir.Attr{
		ir.TensorAttr("value", ir.Int64Tensor([]int64{1, 2, 3, 4}, 2, 2)),
		ir.TensorAttr("value", ir.Float32Scalar(0.1)),
		ir.Int("value_int", -3),
		ir.Ints("value_ints", 4, 5),
		ir.Float("value_float", 0.1),
		{Name: "value_floats", Type: ir.AttrFloats, Floats: []float32{0.1, -2}},
	} {
		c := node{op: "Constant", attrs: []*ir.Attr{a}}
		m, in, _ := c.model()
		want := graphtest.Open(t, m).Run(t, in)
		got, err := c.evaluate()
		require.NoError(t, err)
		graphtest.Near(t, want, got, 0)
	}
	_, err := node{op: "Constant", attrs: []*ir.Attr{ir.Str("value_string", "x")}}.evaluate()
	require.ErrorIs(t, err, interp.ErrUnsupported)
	_, err = node{op: "Constant"}.evaluate()
	require.ErrorIs(t, err, interp.ErrUnsupported)
}

// A constant comes back as it went in, in every type that is held.
func TestRoundTrip(t *testing.T) {
	for _, d := range []ir.DType{ir.Float32, ir.Float64, ir.Float16, ir.BFloat16, ir.Int64, ir.Int32, ir.Int16, ir.Int8, ir.Uint32, ir.Uint16, ir.Uint8, ir.Bool} {
		want := ramp(d, 3, 2)
		if d == ir.Uint32 || d == ir.Uint16 {
			want = positive(d, 3, 2)
		}
		c, err := want.IR()
		require.NoError(t, err)
		require.Equal(t, d, c.DType)
		got, err := interp.FromIR(c)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	exact := &interp.Tensor{DType: ir.Float64, Shape: sh(1), F: []float64{math.Pi}}
	c, err := exact.IR()
	require.NoError(t, err)
	got, err := interp.FromIR(c)
	require.NoError(t, err)
	require.Equal(t, math.Pi, got.F[0], "not through float32")
	for _, d := range []ir.DType{ir.Uint64, ir.String, ir.Uint4, ir.Float8E4M3FN} {
		size, _ := ir.ByteSize(d, sh(1))
		_, err := interp.FromIR(&ir.Tensor{DType: d, Shape: sh(1), Data: ir.NewBuffer(make([]byte, size)), Strings: make([][]byte, 1)})
		require.ErrorIs(t, err, interp.ErrUnsupported, d)
	}
}

// Operands that ONNX does not allow, or that ask for too much, are errors: no panic, no long loop,
// no large allocation. (ONNX Runtime is not asked: a few of these end its process.)
func TestHostile(t *testing.T) {
	huge := int64(1) << 40
	x := ramp(ir.Float32, 2, 3)
	cases := []node{
		{why: "too few operands", op: "Add", in: []T{x}},
		{why: "too many operands", op: "Add", in: []T{x, x, x}},
		{why: "an operand left out", op: "Add", in: []T{nil, x}},
		{why: "an operand left out in the middle", op: "Max", in: []T{x, nil, x}},
		{why: "shapes that do not broadcast", op: "Add", in: []T{x, ramp(ir.Float32, 2)}},
		{why: "two types", op: "Add", in: []T{x, ramp(ir.Int64, 2, 3)}},
		{why: "two float types", op: "Add", in: []T{x, ramp(ir.Float16, 2, 3)}},
		{why: "truth is no number", op: "Add", in: []T{ramp(ir.Bool, 2), ramp(ir.Bool, 2)}},
		{why: "by zero", op: "Div", in: []T{vec(1), vec(0)}},
		{why: "by zero", op: "Mod", in: []T{vec(1), vec(0)}},
		{why: "floats without fmod", op: "Mod", in: []T{x, x}},
		{why: "beyond integers", op: "Pow", in: []T{vec(10), vec(40)}},
		{why: "of an integer", op: "Sqrt", in: []T{vec(4)}},
		{why: "of a number", op: "Not", in: []T{vec(1)}},
		{why: "of numbers", op: "And", in: []T{vec(1), vec(1)}},
		{why: "of an integer", op: "IsNaN", in: []T{vec(1)}},
		{why: "a condition that is a number", op: "Where", in: []T{x, x, x}},
		{why: "to nothing known", op: "Cast", in: []T{x}, attrs: []*ir.Attr{ir.Int("to", 999)}},
		{why: "to strings", op: "Cast", in: []T{x}, attrs: []*ir.Attr{ir.Int("to", int64(ir.String))}},
		{why: "to 8-bit floats, which are no integers", op: "Cast", in: []T{x}, attrs: []*ir.Attr{ir.Int("to", int64(ir.Float8E5M2))}},
		{why: "NaN to an integer", op: "Cast", in: []T{f32(sh(1), math.NaN())}, attrs: []*ir.Attr{ir.Int("to", int64(ir.Int64))}},
		{why: "too large for an integer", op: "Cast", in: []T{f32(sh(1), 1e10)}, attrs: []*ir.Attr{ir.Int("to", int64(ir.Int32))}},
		{why: "too large", op: "ConstantOfShape", in: []T{vec(huge)}},
		{why: "too large together", op: "ConstantOfShape", in: []T{vec(1<<20, 1<<20)}},
		{why: "empty, but huge", op: "ConstantOfShape", in: []T{vec(0, 1<<40, 1<<40)}},
		{why: "overflows", op: "ConstantOfShape", in: []T{vec(1<<62, 4)}},
		{why: "negative", op: "ConstantOfShape", in: []T{vec(-1)}},
		{why: "too many dimensions", op: "ConstantOfShape", in: []T{i64(sh(1000), ones(1000)...)}},
		{why: "a shape of floats", op: "ConstantOfShape", in: []T{f32(sh(1), 2)}},
		{why: "a shape of two dimensions", op: "ConstantOfShape", in: []T{i64(sh(1, 1), 2)}},
		{why: "two values", op: "ConstantOfShape", in: []T{vec(1)}, attrs: []*ir.Attr{ir.TensorAttr("value", ir.Int64Tensor([]int64{1, 2}))}},
		{why: "too long", op: "Range", in: []T{scalar(0), scalar(huge), scalar(1)}},
		{why: "no step", op: "Range", in: []T{scalar(0), scalar(1), scalar(0)}},
		{why: "no step and nowhere to go", op: "Range", in: []T{scalar(0), scalar(0), scalar(0)}},
		{why: "no number", op: "Range", in: []T{f32(sh(), 0), f32(sh(), math.NaN()), f32(sh(), 1)}},
		{why: "no scalars", op: "Range", in: []T{vec(0, 1), vec(2), vec(1)}},
		{why: "two unknowns", op: "Reshape", in: []T{x, vec(-1, -1)}},
		{why: "does not divide", op: "Reshape", in: []T{x, vec(4, -1)}},
		{why: "does not fill", op: "Reshape", in: []T{x, vec(7)}},
		{why: "below -1", op: "Reshape", in: []T{x, vec(-2, -3)}},
		{why: "copies what is not there", op: "Reshape", in: []T{x, vec(2, 3, 0)}},
		{why: "not determined", op: "Reshape", in: []T{ramp(ir.Float32, 0), vec(0, -1)}},
		{why: "overflows", op: "Reshape", in: []T{x, vec(1<<40, 1<<40, -1)}},
		{why: "an axis that is not 1", op: "Squeeze", in: []T{x, vec(0)}},
		{why: "an axis that is not there", op: "Squeeze", in: []T{x, vec(5)}},
		{why: "an axis that is not there", op: "Unsqueeze", in: []T{x, vec(9)}},
		{why: "one axis twice", op: "Unsqueeze", in: []T{x, vec(0, 0)}},
		{why: "very many axes", op: "Unsqueeze", in: []T{x, i64(sh(100000), make([]int64, 100000)...)}},
		{why: "too large", op: "Expand", in: []T{scalar(1), vec(huge)}},
		{why: "negative", op: "Expand", in: []T{scalar(1), vec(-3)}},
		{why: "does not go together", op: "Expand", in: []T{x, vec(2, 5)}},
		{why: "too large", op: "Tile", in: []T{x, vec(huge, 1)}},
		{why: "too large together", op: "Tile", in: []T{x, vec(1<<23, 1<<23)}},
		{why: "negative", op: "Tile", in: []T{x, vec(-1, 1)}},
		{why: "too few", op: "Tile", in: []T{x, vec(1)}},
		{why: "no permutation", op: "Transpose", in: []T{x}, attrs: []*ir.Attr{ir.Ints("perm", 0, 0)}},
		{why: "too short", op: "Transpose", in: []T{x}, attrs: []*ir.Attr{ir.Ints("perm", 0)}},
		{why: "out of range", op: "Transpose", in: []T{x}, attrs: []*ir.Attr{ir.Ints("perm", 0, 7)}},
		{why: "ranks differ", op: "Concat", in: []T{x, ramp(ir.Float32, 3)}, attrs: []*ir.Attr{ir.Int("axis", 0)}},
		{why: "sizes differ", op: "Concat", in: []T{x, ramp(ir.Float32, 2, 4)}, attrs: []*ir.Attr{ir.Int("axis", 0)}},
		{why: "types differ", op: "Concat", in: []T{x, ramp(ir.Int64, 2, 3)}, attrs: []*ir.Attr{ir.Int("axis", 0)}},
		{why: "of scalars", op: "Concat", in: []T{scalar(1), scalar(1)}, attrs: []*ir.Attr{ir.Int("axis", 0)}},
		{why: "sizes do not add up", op: "Split", outs: 2, in: []T{x, vec(1, 5)}},
		{why: "a negative size", op: "Split", outs: 2, in: []T{x, vec(3, -1)}},
		{why: "as many sizes as results", op: "Split", outs: 3, in: []T{x, vec(1, 1)}},
		{why: "no step", op: "Slice", in: []T{x, vec(0), vec(1), vec(0), vec(0)}},
		{why: "more starts than ends", op: "Slice", in: []T{x, vec(0, 0), vec(1)}},
		{why: "one axis twice", op: "Slice", in: []T{x, vec(0, 0), vec(1, 1), vec(0, -2)}},
		{why: "an axis that is not there", op: "Slice", in: []T{x, vec(0), vec(1), vec(2)}},
		{why: "bounds that are floats", op: "Slice", in: []T{x, f32(sh(1), 0), f32(sh(1), 1)}},
		{why: "out of range", op: "Gather", in: []T{x, vec(2)}},
		{why: "out of range below", op: "Gather", in: []T{x, vec(-3)}},
		{why: "floats as indices", op: "Gather", in: []T{x, f32(sh(1), 0)}},
		{why: "of a scalar", op: "Gather", in: []T{scalar(1), vec(0)}},
		{why: "out of range", op: "GatherND", in: []T{x, i64(sh(1, 1), 2)}},
		{why: "too deep", op: "GatherND", in: []T{x, i64(sh(1, 3), 0, 0, 0)}},
		{why: "batches", op: "GatherND", in: []T{x, i64(sh(2, 1), 0, 0)}, attrs: []*ir.Attr{ir.Int("batch_dims", 1)}},
		{why: "out of range", op: "ScatterND", in: []T{x, i64(sh(1, 1), 2), ramp(ir.Float32, 1, 3)}},
		{why: "updates of another shape", op: "ScatterND", in: []T{x, i64(sh(1, 1), 1), ramp(ir.Float32, 1, 2)}},
		{why: "a reduction", op: "ScatterND", in: []T{x, i64(sh(1, 1), 1), ramp(ir.Float32, 1, 3)}, attrs: []*ir.Attr{ir.Str("reduction", "add")}},
		{why: "of a vector", op: "Trilu", in: []T{vec(1, 2)}},
		{why: "an axis that is not there", op: "CumSum", in: []T{x, scalar(2)}},
		{why: "two axes", op: "CumSum", in: []T{x, vec(0, 1)}},
		{why: "inner sizes differ", op: "MatMul", in: []T{x, x}},
		{why: "a vector", op: "MatMul", in: []T{x, ramp(ir.Float32, 3)}},
		{why: "an axis that is not there", op: "ReduceSum", in: []T{x, vec(2)}},
		{why: "one axis twice", op: "ReduceSum", in: []T{x, vec(0, 0)}},
		{why: "the largest of no integers", op: "ReduceMax", in: []T{ramp(ir.Int64, 2, 0), vec(1)}},
		{why: "the mean of no integers", op: "ReduceMean", in: []T{ramp(ir.Int64, 2, 0), vec(1)}},
		{why: "not the last axis", op: "Softmax", in: []T{x}, attrs: []*ir.Attr{ir.Int("axis", 0)}},
		{why: "of integers", op: "Softmax", in: []T{vec(1)}},
		{why: "an operator that nobody knows", op: "Mystery", in: []T{x}},
		{why: "content that does not fill the shape", op: "Neg", in: []T{f32(sh(4), 1)}},
	}
	for _, c := range cases {
		t.Run(c.String(), func(t *testing.T) {
			_, err := c.evaluate()
			require.Error(t, err)
			require.NotContains(t, err.Error(), "runtime error", "caught by a check, not by a panic")
		})
	}
}

func ones(n int) []int64 {
	v := make([]int64, n)
	for i := range v {
		v[i] = 1
	}
	return v
}

// A value of which only the shape is given still gives shapes, and nothing else.
func TestShapeOnly(t *testing.T) {
	m := ir.NewModel("m", 10, 21)
	gr := m.Graph
	x := gr.AddInput("x", nil)
	weight := gr.AddInitializer("w", ir.Float32Tensor(make([]float32, 12), 3, 4))
	y := gr.Op("MatMul", "y", []*ir.Value{x, weight})
	first := gr.Op("Gather", "first", []*ir.Value{gr.Op("Shape", "s", []*ir.Value{y}), gr.AddInitializer("zero", ir.Int64Tensor([]int64{0}))})
	range_ := gr.Op("Expand", "e", []*ir.Value{y, gr.Op("Concat", "c", []*ir.Value{first, first, first}, ir.Int("axis", 0))})
	e := interp.New(map[*ir.Value]T{x: interp.ShapeOnly(ir.Float32, 1, 3)})

	shape, err := e.Shape(y)
	require.NoError(t, err)
	require.Equal(t, interp.ShapeOnly(ir.Float32, 1, 4), shape)
	n, err := e.Value(first)
	require.NoError(t, err)
	require.Equal(t, vec(1), n)
	shape, err = e.Shape(range_)
	require.NoError(t, err)
	require.Equal(t, sh(1, 1, 4), shape.Shape)
	_, err = e.Value(y)
	require.ErrorIs(t, err, interp.ErrUnsupported)
	require.ErrorContains(t, err, `of "x" only the shape is given`)
}

// However many nodes a graph has, the work on it is bounded.
func TestBounds(t *testing.T) {
	m := ir.NewModel("m", 10, 21)
	gr := m.Graph
	million := gr.AddInitializer("million", ir.Int64Tensor([]int64{1 << 10, 1 << 10}))
	sum := gr.Op("ConstantOfShape", "z", []*ir.Value{million})
	for range 500 {
		sum = gr.Op("Add", "a", []*ir.Value{sum, gr.Op("ConstantOfShape", "z", []*ir.Value{million})})
	}
	_, err := interp.New(nil).Value(sum)
	require.ErrorIs(t, err, interp.ErrUnsupported)
	require.ErrorContains(t, err, "elements in all")

	e := interp.New(nil)
	e.MaxElements = 100
	_, err = e.Value(gr.Op("ConstantOfShape", "z", []*ir.Value{million}))
	require.ErrorContains(t, err, "a result of [1024 1024] elements")

	deep := gr.AddInitializer("v", ir.Float32Scalar(1))
	for range 20000 {
		deep = gr.Op("Neg", "n", []*ir.Value{deep})
	}
	_, err = interp.New(nil).Value(deep)
	require.ErrorContains(t, err, "nodes deep")
	_, err = interp.New(nil).Shape(deep)
	require.ErrorContains(t, err, "nodes deep")

	big := int64(1) << 14
	square := interp.ShapeOnly(ir.Float32, big, big)
	a := gr.AddInput("a", nil)
	_, err = interp.New(map[*ir.Value]T{a: square}).Value(gr.Op("Shape", "s", []*ir.Value{gr.Op("MatMul", "p", []*ir.Value{a, a})}))
	require.NoError(t, err, "a shape costs nothing")
	c := gr.AddInitializer("c", ir.Int64Tensor([]int64{1 << 11, 1 << 11}))
	f := gr.Op("ConstantOfShape", "f", []*ir.Value{c})
	_, err = interp.New(nil).Value(gr.Op("MatMul", "p", []*ir.Value{f, f}))
	require.ErrorContains(t, err, "a product of this size")
}

// Shapes of the operators that passes write.
func TestFusedShapes(t *testing.T) {
	m := ir.NewModel("m", 10, 21)
	gr := m.Graph
	given := map[*ir.Value]T{}
	in := func(name string, shape ...int64) *ir.Value {
		v := gr.AddInput(name, nil)
		given[v] = interp.ShapeOnly(ir.Float16, shape...)
		return v
	}
	ms := func(op string, outs int, attrs []*ir.Attr, in ...*ir.Value) []*ir.Value {
		return gr.Add(ir.NodeSpec{Op: op, Domain: "com.microsoft", Inputs: in, Outputs: []string{"o", "o", "o", "o"}[:outs], Attrs: attrs}).Outputs()
	}
	x, w := in("x", 2, 3, 8), in("w", 8)
	skip := ms("SkipSimplifiedLayerNormalization", 4, nil, x, x, w)
	table := in("table", 50, 8)
	past := in("past", 2, 2, 5, 4)
	kv := in("kv", 2, 3, 8)
	heads := []*ir.Attr{ir.Int("num_heads", 2)}
	gqa := ms("GroupQueryAttention", 3, heads, x, kv, kv, past, past)
	packed := ms("GroupQueryAttention", 3, heads, in("qkv", 2, 3, 24), nil, nil, past, past)
	for _, c := range []struct {
		v    *ir.Value
		want []int64
	}{
		{gr.Op("SimplifiedLayerNormalization", "n", []*ir.Value{x, w}), sh(2, 3, 8)},
		{skip[0], sh(2, 3, 8)}, {skip[3], sh(2, 3, 8)},
		{ms("QuickGelu", 1, nil, x)[0], sh(2, 3, 8)},
		{ms("FusedMatMul", 1, []*ir.Attr{ir.Int("transB", 1)}, x, table)[0], sh(2, 3, 50)},
		{ms("FusedMatMul", 1, []*ir.Attr{ir.Int("transA", 1)}, table, table)[0], sh(8, 8)},
		{ms("FusedMatMul", 1, []*ir.Attr{ir.Int("transBatchA", 1)}, x, table)[0], nil},
		{gqa[0], sh(2, 3, 8)}, {gqa[1], sh(2, 2, 8, 4)}, {gqa[2], sh(2, 2, 8, 4)},
		{packed[0], sh(2, 3, 8)}, {packed[1], sh(2, 2, 8, 4)},
		{ms("GroupQueryAttention", 3, nil, x, nil, nil)[0], nil},
		{ms("GroupQueryAttention", 3, nil, x, kv, kv, w, w)[0], nil},
		{skip[1], nil},
	} {
		e := interp.New(given)
		got, err := e.Shape(c.v)
		if c.want == nil {
			require.Error(t, err)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, interp.ShapeOnly(ir.Float16, c.want...), got)
		_, err = e.Value(c.v)
		require.ErrorIs(t, err, interp.ErrUnsupported)
	}
}
