package inspect

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/internal/reftest/modelfolder"
)

const checkpoint = "../../models/testdata/checkpoints/untied-f32" // two layers

// sample is a model with most of what there is to describe: a table in 4 bits that is read in two
// shapes, a product in 8 bits with zero points, attention with a cache, an optional input.
func sample(t *testing.T) *ir.Model {
	t.Helper()
	m := ir.NewModel("sample", 10, 21)
	m.ProducerName, m.ProducerVersion = "test", "1.0"
	m.RequireOpset("com.microsoft", 1)
	g := m.Graph
	ids := g.AddInput("input_ids", ir.TensorType(ir.Int64, ir.Sym("batch"), ir.Sym("sequence")))
	cache := ir.TensorType(ir.Float16, ir.Sym("batch"), ir.Fixed(2), ir.Sym("past"), ir.Fixed(8))
	key, value := g.AddInput("past_key_values.0.key", cache), g.AddInput("past_key_values.0.value", cache)
	g.AddOptionalInput("num_logits_to_keep", ir.Int64Tensor([]int64{0}))
	bytesOf := func(name string, n int, shape ...int64) *ir.Value {
		w, err := ir.NewTensor(ir.Uint8, shape, ir.NewBuffer(make([]byte, n)))
		require.NoError(t, err)
		return g.AddInitializer(name, w)
	}
	floats := func(name string, shape ...int64) *ir.Value {
		n, err := ir.NumElements(shape)
		require.NoError(t, err)
		return g.AddInitializer(name, ir.Float32Tensor(make([]float32, n), shape...))
	}
	com := func(op, name string, outputs []string, inputs []*ir.Value, attrs ...*ir.Attr) *ir.Node {
		return g.Add(ir.NodeSpec{Op: op, Domain: "com.microsoft", Name: name, Inputs: inputs, Outputs: outputs, Attrs: attrs})
	}

	table, scales := bytesOf("embed_Q4", 32*8, 32, 8), floats("embed_scales", 32, 1) // 32 rows of 16
	rows := g.Op("Reshape", "/model/embed/Reshape", []*ir.Value{table, g.AddInitializer("rows", ir.Int64Tensor([]int64{32, 1, 8}))})
	x := com("GatherBlockQuantized", "/model/embed/Gather", []string{"x"}, []*ir.Value{table, ids, scales}, ir.Int("bits", 4), ir.Int("block_size", 16)).Output(0)
	com("MatMulNBits", "/model/layers.0/q/MatMulNBits", []string{"q"},
		[]*ir.Value{x, bytesOf("q_Q8", 16*16, 16, 1, 16), floats("q_scales", 16), bytesOf("q_zero_points", 16, 16, 1)},
		ir.Int("N", 16), ir.Int("K", 16), ir.Int("bits", 8), ir.Int("block_size", 16), ir.Int("accuracy_level", 4))
	q := g.Nodes()[g.NumNodes()-1].Output(0)
	a := com("GroupQueryAttention", "/model/layers.0/attn", []string{"a", "present.0.key", "present.0.value"},
		[]*ir.Value{q, q, q, key, value, nil, nil, floats("cos", 64, 4), floats("sin", 64, 4)})
	normed := g.Op("SimplifiedLayerNormalization", "/model/norm", []*ir.Value{a.Output(0), floats("norm", 16)})
	logits := com("MatMulNBits", "/lm_head", []string{"logits"}, []*ir.Value{normed, rows, scales},
		ir.Int("N", 32), ir.Int("K", 16), ir.Int("bits", 4), ir.Int("block_size", 16)).Output(0)
	for _, v := range []*ir.Value{logits, a.Output(1), a.Output(2)} {
		g.AddOutput(v)
	}
	require.NoError(t, m.Validate())
	return m
}

func TestSummarize(t *testing.T) {
	require.Equal(t, &Summary{
		Producer: "test 1.0", IRVersion: 10,
		Opsets: []Opset{{"ai.onnx", 21}, {"com.microsoft", 1}},
		Inputs: []Value{
			{"input_ids", "int64[batch,sequence]", false}, {"past_key_values.0.key", "float16[batch,2,past,8]", false},
			{"past_key_values.0.value", "float16[batch,2,past,8]", false}, {"num_logits_to_keep", "int64[1]", true},
		},
		Outputs: []Value{{"logits", "?", false}, {"present.0.key", "?", false}, {"present.0.value", "?", false}},
		Nodes:   6,
		Operators: []Operator{
			{"com.microsoft.MatMulNBits", 2}, {"Reshape", 1}, {"SimplifiedLayerNormalization", 1},
			{"com.microsoft.GatherBlockQuantized", 1}, {"com.microsoft.GroupQueryAttention", 1},
		},
		Fusions: []Operator{
			{"com.microsoft.MatMulNBits", 2}, {"SimplifiedLayerNormalization", 1},
			{"com.microsoft.GatherBlockQuantized", 1}, {"com.microsoft.GroupQueryAttention", 1},
		},
		Constants: []Constants{
			{"float32", 5, 32 + 16 + 256 + 256 + 16, 4 * 576}, {"uint8", 3, 256 + 256 + 16, 528}, {"int64", 2, 4, 32},
		},
		Parameters:    32*16 + 16*16 + 16,
		WeightBytes:   256 + 4*32 + 256 + 4*16 + 16 + 4*16,
		BitsPerWeight: 8 * float64(256+4*32+256+4*16+16+4*16) / (32*16 + 16*16 + 16),
		Quantization: []Quantization{
			{Operator: "GatherBlockQuantized", Bits: 4, BlockSize: 16, Symmetric: true, Tensors: 1, Weights: 512, Bytes: 256 + 128},
			{Operator: "MatMulNBits", Bits: 8, BlockSize: 16, AccuracyLevel: 4, Tensors: 1, Weights: 256, Bytes: 256 + 64 + 16},
		},
		KVCache: &KVCache{Layers: 1, Type: "float16[batch,2,past,8]", DType: "float16", Heads: 2, HeadDim: 8, Shared: true, BytesPerToken: 2 * 2 * 8 * 2},
	}, Summarize(sample(t)))
}

func TestSummarizeEmpty(t *testing.T) {
	s := Summarize(ir.NewModel("empty", 10, 21))
	require.Nil(t, s.KVCache)
	require.Zero(t, s.BitsPerWeight)
	require.NotNil(t, s.Quantization, "JSON has lists, not null")
}

// load gives the model of a checkpoint, as it is exported.
func load(t *testing.T) *ir.Model {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "model")
	require.NoError(t, modelfolder.Export(t.Context(), checkpoint, dir))
	m, err := ir.Load(filepath.Join(dir, "model.onnx"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

func TestDiff(t *testing.T) {
	before := load(t)
	diff := func(after *ir.Model) *Changes {
		c, err := Diff(t.Context(), before, after)
		require.NoError(t, err)
		return c
	}
	require.True(t, diff(load(t)).Empty(), "two loads of one model")

	after := load(t)
	after.RequireOpset("com.microsoft", 1)
	require.Equal(t, []Change{{"opset com.microsoft", "", "1"}}, diff(after).Model)

	after = load(t)
	after.ProducerName = "another"
	require.True(t, diff(after).Empty(), "who made it does not matter")

	after = load(t)
	g := after.Graph
	first := g.Nodes()[0]
	extra := g.Op("Identity", "extra", []*ir.Value{g.Inputs()[0]})
	g.AddOutput(extra)
	first.SetAttr(ir.Int("axis", 7))
	var weight *ir.Value
	for _, v := range g.Initializers() {
		if v.Name == "model.norm.weight" {
			weight = v
		}
	}
	require.NotNil(t, weight)
	w, err := weight.Const.Float32s()
	require.NoError(t, err)
	w[3]++
	weight.Const = ir.Float32Tensor(w, weight.Const.Shape...)
	c := diff(after)
	require.False(t, c.Empty())
	require.Equal(t, []Recount{{"Identity", 0, 1}}, c.Operators)
	require.Equal(t, []Item{{"extra", "Identity"}}, c.Nodes.Added)
	require.Empty(t, c.Nodes.Removed)
	require.Len(t, c.Nodes.Changed, 1)
	require.Equal(t, first.Name, c.Nodes.Changed[0].Name)
	require.Contains(t, c.Nodes.Changed[0].After, "axis=7")
	require.Equal(t, []Item{{extra.Name, "?"}}, c.Outputs.Added)
	require.Equal(t, []Change{{"model.norm.weight", "float32[64]", "float32[64]"}}, c.Initializers.Changed, "content alone")
	require.Equal(t, c.BytesBefore, c.BytesAfter)

	reverse, err := Diff(t.Context(), after, before)
	require.NoError(t, err)
	require.Equal(t, c.Nodes.Added, reverse.Nodes.Removed)

	weight.Const = ir.Float32Tensor(w[:32])
	require.Equal(t, []Change{{"model.norm.weight", "float32[64]", "float32[32]"}}, diff(after).Initializers.Changed)
	require.Equal(t, c.BytesBefore-128, diff(after).BytesAfter)
}

func TestCompare(t *testing.T) {
	things := func(names string) (list []thing) {
		for _, n := range strings.Fields(names) {
			name, form, _ := strings.Cut(n, "=")
			list = append(list, thing{name: name, what: form, form: form})
		}
		return list
	}
	for _, c := range []struct{ why, before, after, added, removed, changed string }{
		{"the same", "a=1 b=2", "a=1 b=2", "", "", ""},
		{"another order", "a=1 b=2", "b=2 a=1", "", "", ""},
		{"added in order", "b=2", "a=1 b=2 c=3", "a c", "", ""},
		{"removed in order", "a=1 b=2 c=3", "b=2", "", "a c", ""},
		{"changed", "a=1 b=2", "a=1 b=3", "", "", "b"},
		{"one of two of a name", "a=1 a=2", "a=1", "", "a", ""},
		{"one more of a name", "a=1", "a=1 a=2", "a", "", ""},
		{"the second of two", "a=1 a=2", "a=1 a=3", "", "", "a"},
	} {
		s, err := compare(t.Context(), things(c.before), things(c.after))
		require.NoError(t, err)
		var added, removed, changed []string
		for _, i := range s.Added {
			added = append(added, i.Name)
		}
		for _, i := range s.Removed {
			removed = append(removed, i.Name)
		}
		for _, i := range s.Changed {
			changed = append(changed, i.Name)
		}
		require.Equal(t, []string{c.added, c.removed, c.changed},
			[]string{strings.Join(added, " "), strings.Join(removed, " "), strings.Join(changed, " ")}, c.why)
	}
}

// computed is data that is not in memory.
type computed struct{ *ir.Buffer }

func TestSameContent(t *testing.T) {
	a := ir.Float32Tensor(make([]float32, compareBytes/4+5))
	b := ir.Float32Tensor(make([]float32, compareBytes/4+5))
	stream := func(x *ir.Tensor) *ir.Tensor {
		return &ir.Tensor{DType: x.DType, Shape: x.Shape, Data: &computed{x.Data.(*ir.Buffer)}}
	}
	last := func(x *ir.Tensor) *byte { d := x.Data.(*ir.Buffer).Bytes(); return &d[len(d)-1] }
	for _, changed := range []bool{false, true} {
		if changed {
			*last(b) = 1
		}
		for _, pair := range [][2]*ir.Tensor{{a, b}, {stream(a), b}, {stream(a), stream(b)}} {
			same, err := sameContent(pair[0], pair[1])
			require.NoError(t, err)
			require.Equal(t, !changed, same)
		}
	}
	words := func(s ...string) *ir.Tensor {
		x := &ir.Tensor{DType: ir.String, Shape: []int64{int64(len(s))}}
		for _, w := range s {
			x.Strings = append(x.Strings, []byte(w))
		}
		return x
	}
	same, err := sameContent(words("a", "b"), words("a", "b"))
	require.NoError(t, err)
	require.True(t, same)
	same, err = sameContent(words("a", "b"), words("a", "c"))
	require.NoError(t, err)
	require.False(t, same)
}

// TestLayers compares layers told by nodes' names with those told by weights and caches alone.
func TestLayers(t *testing.T) {
	named, bare := load(t), load(t)
	for _, n := range bare.Graph.Nodes() {
		n.Name = ""
	}
	for _, m := range []*ir.Model{named, bare} {
		require.Equal(t, 2, Layers(m))
		require.Nil(t, Layer(m, 2))
		require.Nil(t, Layer(m, -1))
		for i := range 2 {
			products := 0
			for _, n := range Layer(m, i) {
				if n.Is("", "MatMul") {
					products++
				}
			}
			// q, k, v, o, gate, up, down, scores, values; without names the head falls to the last layer.
			want := 9
			if m == bare && i == 1 {
				want++
			}
			require.Equal(t, want, products)
		}
	}
	require.Zero(t, Layers(ir.NewModel("empty", 10, 21)))
}

func TestDot(t *testing.T) {
	m := load(t)
	var a, b bytes.Buffer
	require.NoError(t, WriteDot(&a, "a \"layer\"", Layer(m, 1)))
	require.NoError(t, WriteDot(&b, "a \"layer\"", Layer(m, 1)))
	require.Equal(t, a.String(), b.String())
	require.True(t, strings.HasPrefix(a.String(), "digraph \"a \\\"layer\\\"\" {\n"))
	require.Equal(t, len(Layer(m, 1)), strings.Count(a.String(), "label=")-strings.Count(a.String(), "shape=ellipse"))
	for _, want := range []string{`past_key_values.1.key`, `present.1.value`, `Softmax`, `model.layers.1.mlp.down_proj.weight`} {
		require.Contains(t, a.String(), want)
	}
}

func TestHTML(t *testing.T) {
	m := load(t)
	var a, b bytes.Buffer
	title := `<script>alert("x")</script>`
	require.NoError(t, WriteHTML(&a, m, title, Layer(m, 0)))
	require.NoError(t, WriteHTML(&b, m, title, Layer(m, 0)))
	require.Equal(t, a.String(), b.String())
	page := a.String()
	require.NotContains(t, page, "<script", "names come from strangers")
	require.NotContains(t, strings.ReplaceAll(page, `xmlns="http://www.w3.org/2000/svg"`, ""), "http", "it loads nothing")
	svg := page[strings.Index(page, "<svg"):]
	svg = svg[:strings.Index(svg, "</svg>")+len("</svg>")]
	boxes := 0
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err, "the drawing is well-formed")
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
			boxes++
		}
	}
	require.Greater(t, boxes, len(Layer(m, 0)))
}

// TestLayout holds that edges go down, and that nothing in a rank overlaps.
func TestLayout(t *testing.T) {
	d, err := newDrawing(Layer(load(t), 1))
	require.NoError(t, err)
	for i, rank := range d.layout() {
		for at, b := range rank {
			require.Equal(t, i, d.boxes[b].rank)
			require.Equal(t, at, d.boxes[b].at)
		}
	}
	for _, e := range d.edges {
		require.Len(t, e.via, d.boxes[e.to].rank-d.boxes[e.from].rank-1, "a bend in every rank between")
	}
	p := d.picture()
	for i, a := range p.Boxes {
		require.LessOrEqual(t, a.X+a.Width, p.Width)
		for _, b := range p.Boxes[:i] {
			apart := a.X >= b.X+b.Width || b.X >= a.X+a.Width || a.Y >= b.Y+b.Height || b.Y >= a.Y+a.Height
			require.True(t, apart, "%v and %v", a.Lines, b.Lines)
		}
	}
	_, err = newDrawing(make([]*ir.Node, maxDrawn+1))
	require.ErrorIs(t, err, ErrTooLarge)
}
