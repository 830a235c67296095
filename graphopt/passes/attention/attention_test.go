package attention_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/graphtest"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/passes/attention"
	"github.com/qwenrt/qwenrt/graphopt/passes/rmsnorm"
)

var passes = []*g.Pass{rmsnorm.Pass, attention.Pass}

// positions is the context length of the models here.
const positions = 100

// fuse runs the pass behind the one for norms, and gives how many layers it fused and why not others.
func fuse(t *testing.T, m *ir.Model, o g.Options) (int, []string) {
	t.Helper()
	var declined []string
	o.Trace = func(e g.Event) {
		if e.Pass == "attention" && e.Kind == g.Declined {
			declined = append(declined, e.Reason)
		}
	}
	if o.MaxPositions == 0 {
		o.MaxPositions = positions
	}
	r, err := g.Run(context.Background(), m, passes, o)
	require.NoError(t, err)
	return r.Passes[1].Count, declined
}

func count(m *ir.Model, op string) int {
	n := 0
	for _, node := range m.Graph.Nodes() {
		if node.OpType == op {
			n++
		}
	}
	return n
}

// One function in many forms: each must fuse, and give what it gave before.
func TestFuses(t *testing.T) {
	cases := []struct {
		why  string
		form graphtest.Decoder
		tol  float64
	}{
		{why: "the form of models/qwen3"},
		{why: "two layers: the second is fused as the first's likeness", form: graphtest.Decoder{Layers: 2}},
		{why: "operands the other way round", form: graphtest.Decoder{Commuted: true}},
		{why: "no q/k norms: anchors are products of three dimensions", form: graphtest.Decoder{FlatQK: true}},
		{why: "one product for q, k, v", form: graphtest.Decoder{JoinedQKV: true}},
		{why: "one product and no norms: all anchors are results of one Split", form: graphtest.Decoder{JoinedQKV: true, FlatQK: true}},
		{why: "presents under another name", form: graphtest.Decoder{PresentIdentity: true}},
		{why: "paths between softmax and projection part and meet", form: graphtest.Decoder{SafeSoftmax: true}},
		{why: "mask and tables computed in each layer", form: graphtest.Decoder{Layers: 2, OwnTables: true}},
		{why: "tables of half the head size", form: graphtest.Decoder{HalfTables: true}},
		{why: "scale on the queries", form: graphtest.Decoder{ScaleQuery: true}},
		{why: "shapes computed as a traced program does", form: graphtest.Decoder{ComputedShapes: true}},
		{why: "mask by Trilu", form: graphtest.Decoder{Mask: graphtest.CausalTrilu}},
		{why: "positions from the length of the cache", form: graphtest.Decoder{Positions: graphtest.FromPast}},
		{why: "positions from a running sum of the mask", form: graphtest.Decoder{Positions: graphtest.FromMask}},
		{why: "as many KV heads as heads", form: graphtest.Decoder{Heads: 2, KVHeads: 2}},
		{why: "one KV head", form: graphtest.Decoder{KVHeads: 1}},
		{why: "heads wider than the hidden size, as in Qwen3-0.6B", form: graphtest.Decoder{HeadDim: 32, Hidden: 20}},
		{why: "Attention and RotaryEmbedding of opset 23", form: graphtest.Decoder{Core: graphtest.Standard, Layers: 2}},
		{why: "Attention that appends to the cache", form: graphtest.Decoder{Core: graphtest.StandardCache, Layers: 2}},
		{why: "MultiHeadAttention and tables by position", form: graphtest.Decoder{Core: graphtest.MultiHead, Layers: 2}},
		{why: "MultiHeadAttention with as many KV heads", form: graphtest.Decoder{Core: graphtest.MultiHead, KVHeads: 4}},
		{why: "operators in float16", form: graphtest.Decoder{Core: graphtest.Standard, DType: ir.Float16}, tol: 1e-2},
		{why: "float16 with casts", form: graphtest.Decoder{DType: ir.Float16}, tol: 1e-2},
	}
	for _, c := range cases {
		t.Run(c.why, func(t *testing.T) {
			m := c.form.Model(t)
			want := graphtest.Generate(t, m, 1, 5, 1, 3, 1)
			two := graphtest.Generate(t, m, 2, 4, 1)
			layers := max(c.form.Layers, 1)

			n, declined := fuse(t, m, g.Options{})
			require.Empty(t, declined)
			require.Equal(t, layers, n)
			require.Equal(t, layers, count(m, "GroupQueryAttention"))
			require.Zero(t, count(m, "Softmax"))
			require.Zero(t, count(m, "Slice"), "nothing of the cone is left")
			for _, in := range m.Graph.Inputs() {
				require.NotEqual(t, "position_ids", in.Name, "nothing reads it any more")
			}

			if c.tol == 0 {
				c.tol = 2e-5
			}
			graphtest.Near(t, want, graphtest.Generate(t, m, 1, 5, 1, 3, 1), c.tol)
			graphtest.Near(t, two, graphtest.Generate(t, m, 2, 4, 1), c.tol)
		})
	}
}

// Lengths that are fixed: nothing is asked of the graph at others.
func TestFixedLengths(t *testing.T) {
	for why, form := range map[string]graphtest.Decoder{
		"one row":                {Batch: 1},
		"two rows":               {Batch: 2},
		"one token":              {Sequence: 1},
		"one token, one row":     {Batch: 1, Sequence: 1, Core: graphtest.Standard},
		"a chunk behind a cache": {Batch: 1, Sequence: 3, Past: 4},
		"a token behind a cache": {Sequence: 1, Past: 7, Core: graphtest.MultiHead},
	} {
		t.Run(why, func(t *testing.T) {
			form.Layers = 2
			m := form.Model(t)
			batch := max(int(form.Batch), 1)
			steps := []int{5, 1, 1} // of two rows, GroupQueryAttention takes no chunk behind a past
			if form.Sequence > 0 {
				steps = []int{1, 1}
			}
			compute := func() graphtest.Tensors { return graphtest.Generate(t, m, batch, steps...) }
			if form.Past > 0 {
				compute = func() graphtest.Tensors { return graphtest.Behind(t, m, batch, int(form.Past), int(form.Sequence)) }
			}
			want := compute()
			n, declined := fuse(t, m, g.Options{})
			require.Empty(t, declined)
			require.Equal(t, 2, n)
			require.Zero(t, count(m, "Slice"), "nothing of the cone is left")
			graphtest.Near(t, want, compute(), 2e-5)
		})
	}
}

// Lengths that a file claims are not worked on without end, nor at all where there is nothing.
func TestClaimedLengths(t *testing.T) {
	for why, form := range map[string]graphtest.Decoder{
		"a long chunk":            {Sequence: 1 << 19, Past: 1 << 18},
		"a long past":             {Sequence: 1, Past: 1<<20 - 1},
		"a long past for a model": {Sequence: 1, Past: 1 << 14, Heads: 64, HeadDim: 128},
	} {
		t.Run(why, func(t *testing.T) {
			n, declined := fuse(t, form.Model(t), g.Options{})
			require.Zero(t, n)
			require.NotEmpty(t, declined)
		})
	}
	for _, form := range []graphtest.Decoder{{Batch: 1 << 40}, {Sequence: 1 << 62, Past: 1 << 62}} {
		n, _ := fuse(t, form.Model(t), g.Options{})
		require.Equal(t, 1, n, "what cannot be run is the same function as what can")
	}
}

// bfloat16 has no kernels on the CPU, so only the graph is looked at.
func TestFusesBFloat16(t *testing.T) {
	m := graphtest.Decoder{DType: ir.BFloat16}.Model(t)
	n, declined := fuse(t, m, g.Options{Target: g.CUDA})
	require.Empty(t, declined)
	require.Equal(t, 1, n)
}

// Other functions, near or far, must be left alone, for the right reason.
func TestDeclines(t *testing.T) {
	cases := []struct {
		why    string
		form   graphtest.Decoder
		reason string // part of it
	}{
		{"the mask is off by one", graphtest.Decoder{Mask: graphtest.NextToken}, "with 4 tokens after 0 in 1 rows: "},
		{"no mask", graphtest.Decoder{Mask: graphtest.NoMask}, "with 4 tokens after 0 in 1 rows: "},
		{"a window much longer than the trials", graphtest.Decoder{Mask: graphtest.SlidingWindow}, "with 100 keys, "},
		{"keys cut off rather than hidden", graphtest.Decoder{Mask: graphtest.KeysCut}, "of 100 keys, not all take part"},
		{"twice the scale", graphtest.Decoder{Scale: 2. / 4}, "is not that of causal attention"},
		{"a scale that is off by one percent", graphtest.Decoder{Scale: 1.01 / 4}, "is not that of causal attention"},
		{"the sign on the other half", graphtest.Decoder{Rotary: graphtest.SwapHalves}, "no rotary embedding of the keys"},
		{"neighbours as pairs", graphtest.Decoder{Rotary: graphtest.Interleaved}, "no rotary embedding of the keys"},
		{"no rotary embedding", graphtest.Decoder{Rotary: graphtest.NoRotary}, "no rotary embedding of the keys"},
		{"positions stretch with the length", graphtest.Decoder{LengthRope: true}, "changes with the length"},
		{"the same, from the length of the cache", graphtest.Decoder{LengthRope: true, Positions: graphtest.FromPast}, "changes with the length"},
		{"KV heads tiled, not repeated", graphtest.Decoder{TiledHeads: true}, "is not that of causal attention"},
		{"heads of a size that the operator does not rotate", graphtest.Decoder{HeadDim: 24}, "multiples of 16, not 24"},
		{"no cache", graphtest.Decoder{NoPast: true}, "no past keys and values"},
		{"attention weights are an output", graphtest.Decoder{Scores: true}, "is an output of the graph"},
		{"Attention with a window", graphtest.Decoder{Core: graphtest.Standard, Mask: graphtest.SlidingWindow}, "with 100 keys, "},
		{"Attention with a window and a cache of its own", graphtest.Decoder{Core: graphtest.StandardCache, Mask: graphtest.SlidingWindow}, "with 100 keys, "},
		{"MultiHeadAttention with a window", graphtest.Decoder{Core: graphtest.MultiHead, Mask: graphtest.SlidingWindow}, "with 100 keys, "},
		{"Attention without a mask", graphtest.Decoder{Core: graphtest.Standard, Mask: graphtest.NoMask}, "is not that of causal attention"},
		{"Attention with twice the scale", graphtest.Decoder{Core: graphtest.Standard, Scale: 2. / 4}, "is not that of causal attention"},
		{"RotaryEmbedding of neighbours", graphtest.Decoder{Core: graphtest.Standard, Rotary: graphtest.Interleaved}, "content of RotaryEmbedding"},
		{"MultiHeadAttention on tiled heads", graphtest.Decoder{Core: graphtest.MultiHead, TiledHeads: true}, "is not that of causal attention"},
		{"more tokens a run, none known to see all", graphtest.Decoder{Sequence: 4}, "4 tokens in each run"},
		{"one past and no positions", graphtest.Decoder{Sequence: 2, Past: 3, Positions: graphtest.FromPast}, "no position_ids"},
		{"a token hides itself", graphtest.Decoder{PadByToken: true}, `of "input_ids" only the shape is given`},
	}
	for _, c := range cases {
		t.Run(c.why, func(t *testing.T) {
			c.form.Layers = 2
			m := c.form.Model(t)
			before := dump(t, m, rmsnorm.Pass)
			n, declined := fuse(t, m, g.Options{})
			require.Zero(t, n)
			require.NotEmpty(t, declined)
			for _, d := range declined {
				require.Contains(t, d, c.reason)
			}
			require.Equal(t, before, dump(t, m), "the graph is as it was")
		})
	}
}

// dump gives the text of the graph after some passes.
func dump(t *testing.T, m *ir.Model, run ...*g.Pass) string {
	t.Helper()
	_, err := g.Run(context.Background(), m, run, g.Options{})
	require.NoError(t, err)
	var b strings.Builder
	require.NoError(t, g.Dump(&b, m))
	return b.String()
}

// A far window is found out at whatever length the model has: here the shapes of the model are that
// length too, and must not be taken for keys.
func TestContextAsLongAsAShape(t *testing.T) {
	for _, max := range []int64{2, 4, 8, 16, 32, 64} { // heads, half the head size, head size, KV width, width
		n, declined := fuse(t, graphtest.Decoder{}.Model(t), g.Options{MaxPositions: max})
		require.Equal(t, 1, n, "%d: %v", max, declined)
	}
	n, _ := fuse(t, graphtest.Decoder{Mask: graphtest.SlidingWindow}.Model(t), g.Options{MaxPositions: graphtest.Window})
	require.Equal(t, 1, n, "a window as long as the context hides nothing")
	n, _ = fuse(t, graphtest.Decoder{Mask: graphtest.SlidingWindow}.Model(t), g.Options{MaxPositions: graphtest.Window + 1})
	require.Zero(t, n)
}

// A layer that differs from the others is left alone while they are fused.
func TestOneLayerDiffers(t *testing.T) {
	m := graphtest.Decoder{Layers: 3, OwnTables: true}.Model(t)
	for _, n := range m.Graph.Nodes() {
		if n.Name == "/model/layers.1/self_attn/Mul" {
			n.SetInput(1, m.Graph.AddInitializer("other_scale", ir.Float32Scalar(0.3)))
		}
	}
	want := graphtest.Generate(t, m, 1, 4, 1)
	n, declined := fuse(t, m, g.Options{})
	require.Equal(t, 2, n)
	require.Len(t, declined, 1)
	graphtest.Near(t, want, graphtest.Generate(t, m, 1, 4, 1), 2e-5)
}

// Layers with different rotary tables cannot share one.
func TestRotaryDiffers(t *testing.T) {
	m := graphtest.Decoder{Layers: 2, OwnTables: true}.Model(t)
	for _, n := range m.Graph.Nodes() {
		if n.Name == "/model/tables.1/angles/Mul" {
			n.SetInput(1, m.Graph.AddInitializer("other_freq", ir.Float32Tensor([]float32{1, .5, .25, .125, .1, .2, .3, .4}, 1, 1, 8)))
		}
	}
	n, declined := fuse(t, m, g.Options{})
	require.Equal(t, 1, n)
	require.Equal(t, []string{"this layer's rotary embedding is not that of the others"}, declined)
}

// What the cone computes on its way is read elsewhere.
func TestReadOutside(t *testing.T) {
	m := graphtest.Decoder{}.Model(t)
	for _, n := range m.Graph.Nodes() {
		if n.Name == "/model/layers.0/self_attn/q_rotary/Add" {
			m.Graph.AddOutput(m.Graph.Op("Abs", "probe", []*ir.Value{n.Output(0)}))
		}
	}
	n, declined := fuse(t, m, g.Options{})
	require.Zero(t, n)
	require.Equal(t, []string{`"/model/layers.0/self_attn/q_rotary/Add/out" is also read outside of the attention`}, declined)
}

func TestContextLength(t *testing.T) {
	run := func(m *ir.Model, max int64) error {
		_, err := g.Run(context.Background(), m, passes, g.Options{MaxPositions: max})
		return err
	}
	require.ErrorContains(t, run(graphtest.Decoder{}.Model(t), 0), "set MaxPositions")
	require.ErrorContains(t, run(graphtest.Decoder{}.Model(t), -1), "set MaxPositions")
	require.ErrorContains(t, run(graphtest.Decoder{}.Model(t), 1<<40), "at most 1048576", "no table of a terabyte")
	require.NoError(t, run(graphtest.Decoder{NoPast: true}.Model(t), 0), "nothing to fuse, nothing needed")
	require.NoError(t, run(graphtest.Decoder{}.Model(t), 1))
}

func TestOldOpset(t *testing.T) {
	m := graphtest.Decoder{}.Model(t)
	m.Opsets[0].Version = 12
	n, declined := fuse(t, m, g.Options{})
	require.Zero(t, n)
	require.Equal(t, []string{"opset 12 has no ReduceSum with axes as an operand"}, declined)
}

func TestGolden(t *testing.T) {
	m := graphtest.Decoder{}.Model(t)
	_, declined := fuse(t, m, g.Options{})
	require.Empty(t, declined)
	graphtest.Golden(t, "attention", dump(t, m))
}

// Rows of a batch that are padded on the right give what they gave before, as far as they are tokens.
func TestPadding(t *testing.T) {
	const seq, valid, vocab = 5, 3, 50
	m := graphtest.Decoder{Layers: 2}.Model(t)
	logits := func() []float64 {
		in := graphtest.Prompt(m, 2, seq)
		for i := valid; i < seq; i++ {
			in["attention_mask"].I[seq+i] = 0
		}
		return graphtest.Open(t, m).Run(t, in)["logits"].F
	}
	before := logits()
	n, declined := fuse(t, m, g.Options{})
	require.Equal(t, 2, n, declined)
	require.InDeltaSlice(t, before[:(seq+valid)*vocab], logits()[:(seq+valid)*vocab], 2e-5)
}

// Softmaxes behind one long chain do not each cost the chain.
func TestHostile(t *testing.T) {
	m := graphtest.Decoder{}.Model(t)
	gr := m.Graph
	x := gr.Op("Cast", "cast", []*ir.Value{gr.Inputs()[1]}, ir.Int("to", int64(ir.Float32)))
	for range 2500 {
		x = gr.Op("Neg", "neg", []*ir.Value{x})
	}
	w := gr.AddInitializer("w", ir.Float32Tensor([]float32{1}, 1, 1))
	for range 300 {
		gr.AddOutput(gr.Op("MatMul", "project", []*ir.Value{gr.Op("Softmax", "softmax", []*ir.Value{x}), w}))
	}
	n, declined := fuse(t, m, g.Options{})
	require.Equal(t, 1, n)
	require.Len(t, declined, 300)
	require.Contains(t, declined[0], "more than 2048 nodes")
}
