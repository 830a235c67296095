package ir

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// everything is a file that another library wrote, with one of each thing that a model can hold:
// see testdata/everything.py.
func everything(t testing.TB) []byte {
	b, err := os.ReadFile("testdata/everything.onnx")
	require.NoError(t, err)
	return b
}

func initializers(g *Graph) map[string]*Tensor {
	ts := map[string]*Tensor{}
	for _, v := range g.Initializers() {
		ts[v.Name] = v.Const
	}
	return ts
}

func find(g *Graph, name string) (n *Node) {
	g.Walk(func(m *Node) {
		if m.Name == name {
			n = m
		}
	})
	return n
}

func TestParseEverything(t *testing.T) {
	m, err := Parse(everything(t))
	require.NoError(t, err)
	require.Equal(t, []any{int64(10), "everything.py", "1", "example", int64(7), "a model"},
		[]any{m.IRVersion, m.ProducerName, m.ProducerVersion, m.Domain, m.ModelVersion, m.Doc})
	require.Equal(t, []Opset{{"", 21}, {"local", 1}, {"com.example", 1}}, m.Opsets)
	require.Equal(t, []Property{{"model", "property"}}, m.Metadata)
	require.Equal(t, []string{"local", "Double"}, []string{m.Functions[0].Domain, m.Functions[0].Name})

	ts := initializers(m.Graph)
	for name, want := range map[string][]float32{
		"c_f32": {1.5, -2}, "c_f64": {0.1}, "c_f16": {1, -2}, "c_bf16": {1, -2}, "c_empty": {},
	} {
		got, err := ts[name].Float32s()
		require.NoError(t, err, name)
		require.Equal(t, want, got, name)
	}
	for name, want := range map[string][]int64{
		"c_i64": {-1, 1 << 40}, "c_u64": {-1 << 63}, "c_u32": {4000000000}, "c_i32": {-5, 7}, "c_i8": {-128, 0, 127},
		"c_bool": {1, 0}, "c_scalar": {3},
	} {
		got, err := ts[name].Int64s()
		require.NoError(t, err, name)
		require.Equal(t, want, got, name)
	}
	for name, want := range map[string][]byte{"c_i4": {0x21, 0x0f}, "c_u4": {0x21, 0x43, 5}, "c_f8": {0x38, 0xb8}} {
		got, err := ts[name].Bytes()
		require.NoError(t, err, name)
		require.Equal(t, want, got, name)
	}
	require.Equal(t, [][]byte{[]byte("plain"), {0xff, 0}}, ts["c_str"].Strings)
	require.Equal(t, []int64{0, 3}, ts["c_empty"].Shape)
	require.Zero(t, ts["c_scalar"].Rank())

	keep := m.Graph.Inputs()[2]
	require.NotNil(t, keep.Const, "an initializer of an input's name is its default")
	require.Nil(t, keep.Constant(), "and no constant")

	clip := find(m.Graph, "clip")
	require.Len(t, clip.Inputs(), 3)
	require.Nil(t, clip.Input(1), "an optional operand in the middle")
	require.Nil(t, find(m.Graph, "lstm").Output(0))
	odd := find(m.Graph, "odd")
	require.Equal(t, float32(0.5), odd.Float("f", 0))
	require.Equal(t, int64(-3), odd.Int("i", 0))
	require.Equal(t, "s", odd.Str("s", ""))
	require.Equal(t, []int64{1, -2}, odd.Ints("ints"))
	require.Equal(t, []float32{1, 2}, odd.Attr("floats").Floats)
	require.Equal(t, [][]byte{[]byte("a"), []byte("b")}, odd.Attr("strings").Strings)
	require.Equal(t, []int64{1}, odd.Attr("tensors").Tensors[0].Shape)
	require.Equal(t, int64(9), odd.Int("f", 9), "of another kind")

	loop := find(m.Graph, "loop")
	require.True(t, loop.HasGraph())
	body := loop.Attr("body").G
	require.Equal(t, []string{"Identity", "Add"}, ops(body))
	a := find(m.Graph, "call").Output(0)
	require.Len(t, a.Uses(), 3, "bodies read it")
	require.Equal(t, &Type{DType: Float32, Shape: []Dim{Sym("n")}}, a.Type)
	require.Equal(t, []Dim{{Size: -1}}, clip.Output(0).Type.Shape, "neither a size nor a name")
	require.Zero(t, m.Graph.Outputs()[2].Type.DType, "not a tensor")
}

// What is read, written and read again is the same, and from then on the bytes are.
func TestRoundTrip(t *testing.T) {
	m, err := Parse(everything(t))
	require.NoError(t, err)
	encoded, err := Encode(m)
	require.NoError(t, err)
	again, err := Parse(encoded)
	require.NoError(t, err)
	requireSameModel(t, m, again)
	twice, err := Encode(again)
	require.NoError(t, err)
	require.Equal(t, encoded, twice)

	for _, o := range []SaveOptions{{}, {InlineBytes: -1}, {InlineBytes: 1 << 20, DataFile: "unused"}, {DataFile: "weights", InlineBytes: 2}} {
		dir := t.TempDir()
		first, second := filepath.Join(dir, "a.onnx"), filepath.Join(dir, "b.onnx")
		if o.DataFile == "" {
			o.DataFile = "data"
		}
		require.NoError(t, Save(context.Background(), m, first, o))
		data := readAll(t, filepath.Join(dir, o.DataFile))
		loaded, err := Load(first)
		require.NoError(t, err)
		requireSameModel(t, m, loaded)
		require.NoError(t, Save(context.Background(), loaded, second, o), "over the data that it reads from")
		require.Equal(t, readAll(t, first), readAll(t, second))
		require.Equal(t, data, readAll(t, filepath.Join(dir, o.DataFile)))
		requireSameModel(t, m, loaded)
		require.NoError(t, loaded.Close())
	}
}

// readAll is the content of a file, nil if there is none.
func readAll(t testing.TB, path string) []byte {
	b, err := os.ReadFile(path)
	if !os.IsNotExist(err) {
		require.NoError(t, err)
	}
	return b
}

// requireSameModel compares models by what they write with all data inside.
func requireSameModel(t testing.TB, want, got *Model) {
	t.Helper()
	w, err := Encode(want)
	require.NoError(t, err)
	g, err := Encode(got)
	require.NoError(t, err)
	require.Equal(t, w, g)
}

// Fields that this package knows nothing of come out as they went in.
func TestUnknownFields(t *testing.T) {
	unknown := func(s string) []byte {
		var b message
		b.str(1000, s)
		b.varint(1001, 7)
		b.fixed32(1002, 8)
		return b
	}
	b := model(
		msg(graphNode, msg(nodeOutput, []byte("y")), msg(nodeOpType, []byte("Y")), unknown("node"),
			msg(nodeAttribute, msg(attrName, []byte("a")), scalar(attrType, uint64(AttrInt)), unknown("attribute"))),
		msg(graphOutput, msg(infoName, []byte("y")), unknown("output"), msg(infoType, unknown("type"))),
		unknown("graph"),
	)
	b = append(b, unknown("model")...)
	m, err := Parse(b)
	require.NoError(t, err)
	out, err := Encode(m)
	require.NoError(t, err)
	for _, s := range []string{"node", "attribute", "output", "type", "graph", "model"} {
		require.Contains(t, string(out), string(unknown(s)), s)
	}
}

func TestModelsMadeHere(t *testing.T) {
	m, g, x := newTestModel()
	n := g.AddOptionalInput("n", Int64Scalar(0))
	w := g.AddInitializer("w", Float32Tensor([]float32{1, 2, 3, 4}, 2, 2))
	y := g.Add(NodeSpec{Op: "Odd", Domain: "com.example", Inputs: []*Value{x, nil, w, nil}, Attrs: []*Attr{
		Int("i", -1), Ints("is", 3, -4), Float("f", 2.5), Str("s", "text"), TensorAttr("t", Float32Scalar(1)), Ints("none"),
	}}).Output(0)
	y.Type = TensorType(Float32)
	g.AddOutput(y)
	g.AddOutput(g.Op("Shape", "shape", []*Value{n}))
	m.RequireOpset("com.example", 1)
	m.RequireOpset("ai.onnx", 20)
	m.RequireOpset("ai.onnx", 22)
	require.Equal(t, []Opset{{"", 22}, {"com.example", 1}}, m.Opsets)

	b, err := Encode(m)
	require.NoError(t, err)
	got, err := Parse(b)
	require.NoError(t, err)
	requireSameModel(t, m, got)
	odd := got.Graph.Nodes()[0]
	require.True(t, odd.Is("com.example", "Odd"))
	require.Len(t, odd.Inputs(), 3, "what is left out at the end is not written")
	require.Equal(t, odd.Input(2).Const.Shape, []int64{2, 2})
	require.True(t, got.Graph.Outputs()[0].Type.Rank0, "known to be a scalar")
	require.Nil(t, got.Graph.Outputs()[1].Type, "not known")
	require.Equal(t, int64(0), got.Graph.Inputs()[1].Const.Len()-1)
	odd.SetAttr(Int("i", 5))
	odd.SetAttr(Int("j", 6))
	require.Equal(t, []int64{5, 6}, []int64{odd.Int("i", 0), odd.Int("j", 0)})
	require.Len(t, odd.Attrs, 7)
}
