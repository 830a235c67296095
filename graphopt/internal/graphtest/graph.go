package graphtest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/internal/interp"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Sketch is a small graph in the making.
type Sketch struct {
	Model *ir.Model
	Graph *ir.Graph

	inputs Tensors
}

// NewSketch starts an empty graph of opset 21.
func NewSketch() *Sketch {
	m := ir.NewModel("sketch", 10, 21)
	return &Sketch{Model: m, Graph: m.Graph, inputs: Tensors{}}
}

// Input adds an input of named dimensions, of the type of t, which the runs of the sketch are given.
func (s *Sketch) Input(name string, t *interp.Tensor, dims ...ir.Dim) *ir.Value {
	if t.Len() > 0 || len(t.Shape) == 0 {
		s.inputs[name] = t
	}
	return s.Graph.AddInput(name, ir.TensorType(t.DType, dims...))
}

// Op adds a node and gives its result.
func (s *Sketch) Op(op string, in []*ir.Value, attrs ...*ir.Attr) *ir.Value {
	return s.Graph.Op(op, "/m/"+op, in, attrs...)
}

// Floats adds a constant. Without a shape it is one-dimensional; of one element, a scalar.
func (s *Sketch) Floats(name string, d ir.DType, v ...float32) *ir.Value {
	t := ir.Float32Tensor(v)
	if len(v) == 1 {
		t.Shape = []int64{}
	}
	c, err := ir.Cast(t, d)
	if err != nil {
		panic(err)
	}
	return s.Graph.AddInitializer(s.Graph.Fresh(name), c)
}

// Ints adds a constant of one dimension.
func (s *Sketch) Ints(v ...int64) *ir.Value {
	return s.Graph.AddInitializer(s.Graph.Fresh("ints"), ir.Int64Tensor(v))
}

// Output makes v an output called name.
func (s *Sketch) Output(v *ir.Value, name string) {
	v.Name = s.Graph.Fresh(name)
	s.Graph.AddOutput(v)
}

// Run computes the outputs on ONNX Runtime.
func (s *Sketch) Run(tb testing.TB) Tensors {
	tb.Helper()
	o := Open(tb, s.Model)
	defer o.Close()
	in := Tensors{}
	for _, v := range s.Graph.Inputs() {
		if t := s.inputs[v.Name]; t != nil {
			in[v.Name] = t
		}
	}
	return o.Run(tb, in)
}

// Count is the number of nodes of an operator.
func (s *Sketch) Count(op string) int { return Count(s.Model, op) }

// Count is the number of nodes of an operator in the main graph of a model.
func Count(m *ir.Model, op string) int {
	n := 0
	for _, node := range m.Graph.Nodes() {
		if node.OpType == op {
			n++
		}
	}
	return n
}

// Ramp is numbers that go up and down around zero, each of them exact in every floating point type.
func Ramp(d ir.DType, shape ...int64) *interp.Tensor {
	t := interp.ShapeOnly(d, shape...)
	n, err := ir.NumElements(shape)
	if err != nil {
		panic(err)
	}
	t.F = make([]float64, n)
	for i := range t.F {
		t.F[i] = float64((i*37)%23-11) / 8
	}
	return t
}

// Named finds the node of this name.
func Named(tb testing.TB, m *ir.Model, name string) *ir.Node {
	tb.Helper()
	for _, n := range m.Graph.Nodes() {
		if n.Name == name {
			return n
		}
	}
	require.Fail(tb, "no such node", name)
	return nil
}

// Tokens is small token ids that differ.
func Tokens(shape ...int64) *interp.Tensor {
	n, err := ir.NumElements(shape)
	if err != nil {
		panic(err)
	}
	t := interp.Ints(shape, make([]int64, n)...)
	for i := range t.I {
		t.I[i] = int64(i*5) % 11
	}
	return t
}
