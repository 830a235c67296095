package lastlogits_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/graphtest"
	"github.com/qwenrt/qwenrt/graphopt/internal/interp"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/passes"
	"github.com/qwenrt/qwenrt/graphopt/passes/lastlogits"
)

func run(t *testing.T, m *ir.Model, all ...*g.Pass) (int, string) {
	t.Helper()
	var declined []string
	if all == nil {
		all = []*g.Pass{lastlogits.Pass}
	}
	r, err := g.Run(context.Background(), m, all, g.Options{MaxPositions: 64, Trace: func(e g.Event) {
		if e.Pass == "last-logits" && e.Kind == g.Declined {
			declined = append(declined, e.Reason)
		}
	}})
	require.NoError(t, err)
	at := slices.IndexFunc(r.Passes, func(c g.Count) bool { return c.Name == "last-logits" })
	return r.Passes[at].Count, strings.Join(declined, "\n")
}

// Logits of the last rows are those that all rows have, whatever passes ran before.
func TestRows(t *testing.T) {
	for why, c := range map[string]struct {
		form   graphtest.Decoder
		passes []*g.Pass
	}{
		"the plain graph":         {graphtest.Decoder{}, nil},
		"an optimised graph":      {graphtest.Decoder{Layers: 2}, passes.All()},
		"a tied head":             {graphtest.Decoder{Tied: true}, nil},
		"a tied head, fused":      {graphtest.Decoder{Tied: true}, passes.All()},
		"float16, logits float32": {graphtest.Decoder{DType: ir.Float16}, nil},
	} {
		t.Run(why, func(t *testing.T) {
			const batch, seq, vocab = 2, 5, 50
			m := c.form.Model(t)
			want := graphtest.Generate(t, m, batch, seq)["0.logits"]
			n, declined := run(t, m, c.passes...)
			require.Equal(t, 1, n, declined)
			s := graphtest.Open(t, m)
			for _, keep := range []int64{0, 1, 2, seq, 99} {
				rows := keep
				if keep == 0 || keep > seq {
					rows = seq
				}
				in := graphtest.Prompt(m, batch, seq)
				in[lastlogits.Input] = interp.Ints([]int64{1}, keep)
				got := s.Run(t, in)["logits"]
				expect := &interp.Tensor{DType: ir.Float32, Shape: []int64{batch, rows, vocab}}
				for b := range int64(batch) {
					expect.F = append(expect.F, want.F[(b*seq+seq-rows)*vocab:(b+1)*seq*vocab]...)
				}
				tol := 1e-5
				if c.form.DType == ir.Float16 {
					tol = 1e-2
				}
				require.NoError(t, graphtest.Differ(expect, got, tol), "keep %d", keep)
			}
			// Callers that do not know the input get all rows.
			got := s.Run(t, graphtest.Prompt(m, batch, seq))["logits"]
			require.Equal(t, want.Shape, got.Shape)
		})
	}
}

// The cut lies where rows still mix, not at the head: only the attention before it sees all rows.
func TestCut(t *testing.T) {
	m := graphtest.Decoder{Layers: 2}.Model(t)
	n, declined := run(t, m, passes.All()...)
	require.Equal(t, 1, n, declined)
	var cut []string
	for _, node := range m.Graph.Nodes() {
		if node.OpType == "Slice" {
			cut = append(cut, node.Input(0).Producer().OpType)
		}
	}
	require.Equal(t, []string{"GroupQueryAttention", "SkipSimplifiedLayerNormalization"}, cut, "the last attention's output and the residual beside it")
	logits := m.Graph.Outputs()[0]
	require.Equal(t, []ir.Dim{ir.Sym("batch_size"), ir.Sym("num_logits"), ir.Fixed(50)}, logits.Type.Shape)
}

// What may be computed for fewer rows, and what not.
func TestRowwise(t *testing.T) {
	rows := []ir.Dim{ir.Sym("b"), ir.Sym("s"), ir.Fixed(4)}
	weight := func(s *graphtest.Sketch) *ir.Value {
		return s.Graph.AddInitializer(s.Graph.Fresh("w"), ir.Float32Tensor(make([]float32, 20), 4, 5))
	}
	cases := []struct {
		why    string
		build  func(s *graphtest.Sketch, x *ir.Value) *ir.Value
		at     string // the operator in front of the cut; "" where nothing is cut
		reason string
	}{
		{why: "a product: everything up to the input is cut", at: "x", build: func(s *graphtest.Sketch, x *ir.Value) *ir.Value {
			return s.Op("MatMul", []*ir.Value{s.Op("Mul", []*ir.Value{x, s.Floats("w", ir.Float32, 1, 2, 3, 4)}), weight(s)})
		}},
		{why: "a sum over rows lies behind the cut", at: "CumSum", build: func(s *graphtest.Sketch, x *ir.Value) *ir.Value {
			axis := s.Graph.AddInitializer("axis", ir.Int64Scalar(1))
			return s.Op("MatMul", []*ir.Value{s.Op("CumSum", []*ir.Value{x, axis}), weight(s)})
		}},
		{why: "a mean over rows does too", at: "Sub", build: func(s *graphtest.Sketch, x *ir.Value) *ir.Value {
			mean := s.Op("ReduceMean", []*ir.Value{x, s.Ints(1)}, ir.Int("keepdims", 1))
			return s.Op("MatMul", []*ir.Value{s.Op("Sub", []*ir.Value{x, mean}), weight(s)})
		}},
		{why: "a mean over the row itself does not", at: "x", build: func(s *graphtest.Sketch, x *ir.Value) *ir.Value {
			mean := s.Op("ReduceMean", []*ir.Value{x, s.Ints(-1)}, ir.Int("keepdims", 1))
			return s.Op("MatMul", []*ir.Value{s.Op("Sub", []*ir.Value{x, mean}), weight(s)})
		}},
		{why: "one row of a constant for all", at: "x", build: func(s *graphtest.Sketch, x *ir.Value) *ir.Value {
			c := s.Graph.AddInitializer("c", ir.Float32Tensor([]float32{1, 2, 3, 4}, 1, 1, 4))
			return s.Op("MatMul", []*ir.Value{s.Op("Add", []*ir.Value{x, c}), weight(s)})
		}},
		{why: "a value that is broadcast over rows", at: "Add", build: func(s *graphtest.Sketch, x *ir.Value) *ir.Value {
			y := s.Input("y", graphtest.Ramp(ir.Float32, 3, 4), rows[1:]...) // [s, 4]: axis 1 is not the sequence
			return s.Op("MatMul", []*ir.Value{s.Op("Add", []*ir.Value{x, y}), weight(s)})
		}},
		{why: "a node that is read elsewhere", at: "Neg", build: func(s *graphtest.Sketch, x *ir.Value) *ir.Value {
			y := s.Op("Neg", []*ir.Value{x})
			z := s.Op("Sigmoid", []*ir.Value{y})
			s.Output(y, "hidden")
			return s.Op("MatMul", []*ir.Value{z, weight(s)})
		}},
		{why: "a product of activations", reason: "more than one row", build: func(s *graphtest.Sketch, x *ir.Value) *ir.Value {
			return s.Op("MatMul", []*ir.Value{x, s.Op("Transpose", []*ir.Value{x}, ir.Ints("perm", 0, 2, 1))})
		}},
		{why: "logits of two dimensions", reason: "not of shape [batch, sequence, vocabulary]", build: func(s *graphtest.Sketch, x *ir.Value) *ir.Value {
			return s.Op("ReduceMean", []*ir.Value{x, s.Ints(2)}, ir.Int("keepdims", 0))
		}},
		{why: "a sequence of fixed length", reason: "not of shape [batch, sequence, vocabulary]", build: func(s *graphtest.Sketch, x *ir.Value) *ir.Value {
			y := s.Input("y", graphtest.Ramp(ir.Float32, 2, 3, 4), ir.Sym("b"), ir.Fixed(3), ir.Fixed(4))
			return s.Op("MatMul", []*ir.Value{y, weight(s)})
		}},
		{why: "the name is taken", reason: "is a name in this graph already", build: func(s *graphtest.Sketch, x *ir.Value) *ir.Value {
			w := weight(s)
			w.Name = s.Graph.Fresh(lastlogits.Input)
			return s.Op("MatMul", []*ir.Value{x, w})
		}},
	}
	for _, c := range cases {
		t.Run(c.why, func(t *testing.T) {
			s := graphtest.NewSketch()
			x := s.Input("x", graphtest.Ramp(ir.Float32, 2, 3, 4), rows...)
			s.Output(c.build(s, x), "logits")
			want := s.Run(t)
			n, reason := run(t, s.Model)
			if c.at == "" {
				require.Zero(t, n)
				require.Contains(t, reason, c.reason)
				return
			}
			require.Equal(t, 1, n, reason)
			require.Equal(t, 1, s.Count("Slice"))
			cut := graphtest.Named(t, s.Model, "/last_logits/Slice.0").Input(0)
			if cut.IsInput() {
				require.Equal(t, c.at, cut.Name)
			} else {
				require.Equal(t, c.at, cut.Producer().OpType)
			}
			graphtest.Near(t, want, s.Run(t), 1e-6)
		})
	}
}

func TestTwice(t *testing.T) {
	m := graphtest.Decoder{}.Model(t)
	n, _ := run(t, m)
	require.Equal(t, 1, n)
	n, reason := run(t, m)
	require.Zero(t, n)
	require.NotEmpty(t, reason)
}

func TestNoLogits(t *testing.T) {
	s := graphtest.NewSketch()
	s.Output(s.Op("Neg", []*ir.Value{s.Input("x", graphtest.Ramp(ir.Float32, 2), ir.Fixed(2))}), "y")
	n, reason := run(t, s.Model)
	require.Zero(t, n)
	require.Contains(t, reason, "no output named logits")
}

func TestGolden(t *testing.T) {
	m := graphtest.Decoder{}.Model(t)
	n, _ := run(t, m)
	require.Equal(t, 1, n)
	var b strings.Builder
	require.NoError(t, g.Dump(&b, m))
	graphtest.Golden(t, "lastlogits", b.String())
}
