package graphopt_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/graphtest"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

func TestDump(t *testing.T) {
	m := ir.NewModel("every kind", 10, 21)
	m.RequireOpset(g.Microsoft, 1)
	gr := m.Graph
	x := gr.AddInput("x", ir.TensorType(ir.Float32, ir.Sym("batch size"), ir.Dim{Size: -1}, ir.Fixed(3)))
	untyped := gr.AddInput("untyped", nil)
	rankless := gr.AddInput("rankless", &ir.Type{DType: ir.Float16})
	keep := gr.AddOptionalInput("keep", ir.Int64Tensor([]int64{0}))
	small := gr.AddInitializer("small", ir.Float32Tensor([]float32{0.5, -2}))
	large := gr.AddInitializer("large", ir.Float32Tensor(make([]float32, 9)))
	text := gr.AddInitializer("text", &ir.Tensor{DType: ir.String, Shape: []int64{1}, Strings: [][]byte{[]byte("s")}})
	packed, err := ir.NewTensor(ir.Uint4, []int64{2}, ir.NewBuffer([]byte{0x21}))
	require.NoError(t, err)
	n := gr.Add(ir.NodeSpec{
		Op: "Op", Domain: "some.domain", Name: "a name", Inputs: []*ir.Value{x, nil, untyped, rankless, keep, small, large, text, gr.AddInitializer("packed", packed)},
		Outputs: []string{"first", "", "_"},
		Attrs: []*ir.Attr{
			ir.Int("i", -1), ir.Float("f", 0.1), ir.Str("s", "a\nb"), ir.Ints("is", 1, 2), ir.TensorAttr("t", ir.Int64Scalar(7)),
			{Name: "fs", Type: ir.AttrFloats, Floats: []float32{1, 2.5}}, {Name: "ss", Type: ir.AttrStrings, Strings: [][]byte{[]byte("a"), []byte("b")}},
			{Name: "other", Type: ir.AttrTypeProto}, {Name: "no tensor", Type: ir.AttrTensor},
		},
	})
	gr.AddOutput(n.Output(0))
	gr.AddOutput(n.Output(2))
	graphtest.Golden(t, "dump", dump(t, m))
	graphtest.Golden(t, "dump_bodies", dump(t, withBodies(t)))
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space") }

func TestDumpWriteError(t *testing.T) {
	require.EqualError(t, g.Dump(full{}, newSketch().m), "no space")
}
