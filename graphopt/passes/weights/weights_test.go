package weights_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/graphtest"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/passes/weights"
)

func run(t *testing.T, m *ir.Model) int {
	t.Helper()
	r, err := g.Run(context.Background(), m, []*g.Pass{weights.Pass}, g.Options{})
	require.NoError(t, err)
	return r.Passes[0].Count
}

const vocab, hidden = 40, 6

// sketch has tokens to look up, and a weight as exporters store it.
type sketch struct {
	*graphtest.Sketch
	t *testing.T
}

func (s *sketch) table(name string, rows, cols int64, first float32) *ir.Value {
	v := make([]float32, rows*cols)
	for i := range v {
		v[i] = first + float32(i*7%23)/8
	}
	return s.Graph.AddInitializer(name, ir.Float32Tensor(v, rows, cols))
}

// as is v stored by itself, through a view.
func (s *sketch) as(name string, v *ir.Value, view func(*ir.Tensor) (*ir.Tensor, error)) *ir.Value {
	c, err := view(v.Const)
	require.NoError(s.t, err)
	b, err := c.Bytes()
	require.NoError(s.t, err)
	return s.Graph.AddInitializer(name, &ir.Tensor{DType: c.DType, Shape: c.Shape, Data: ir.NewBuffer(b)})
}

func (s *sketch) transpose(v *ir.Value) *ir.Value {
	return s.Op("Transpose", []*ir.Value{v}, ir.Ints("perm", 1, 0))
}

func (s *sketch) cast(v *ir.Value, d ir.DType) *ir.Value {
	return s.Op("Cast", []*ir.Value{v}, ir.Int("to", int64(d)))
}

func (s *sketch) lookup(table *ir.Value) *ir.Value {
	ids := s.Input("input_ids", graphtest.Tokens(2, 3), ir.Sym("batch_size"), ir.Sym("sequence_length"))
	return s.Op("Gather", []*ir.Value{table, ids})
}

func (s *sketch) product(x, w *ir.Value) *ir.Value { return s.Op("MatMul", []*ir.Value{x, w}) }

func asStored(t *ir.Tensor) (*ir.Tensor, error) { return t, nil }

func TestWeights(t *testing.T) {
	for _, c := range []struct {
		why    string
		build  func(s *sketch) *ir.Value
		tables int // initializers of two dimensions that are left
		turned int // Transpose nodes that are left: one for a tied head
		casts  int
	}{
		{"transposed", func(s *sketch) *ir.Value {
			e := s.table("e", vocab, hidden, 0)
			return s.product(s.lookup(e), s.transpose(s.table("w", vocab, hidden, 1)))
		}, 2, 0, 0},
		{"transposed without saying how", func(s *sketch) *ir.Value {
			return s.product(s.lookup(s.table("e", vocab, hidden, 0)), s.Op("Transpose", []*ir.Value{s.table("w", vocab, hidden, 1)}))
		}, 2, 0, 0},
		{"stored in another type, transposed", func(s *sketch) *ir.Value {
			w := s.as("w16", s.table("w", vocab, hidden, 1), func(t *ir.Tensor) (*ir.Tensor, error) { return ir.Cast(t, ir.Float16) })
			return s.product(s.lookup(s.table("e", vocab, hidden, 0)), s.transpose(s.cast(w, ir.Float32)))
		}, 2, 0, 0},
		{"tied as it should be", func(s *sketch) *ir.Value {
			e := s.table("e", vocab, hidden, 0)
			return s.product(s.lookup(e), s.transpose(e))
		}, 1, 1, 0},
		{"in another shape", func(s *sketch) *ir.Value {
			e := s.table("e", vocab*2, hidden/2, 0)
			return s.product(s.lookup(s.table("e2", vocab, hidden, 0)), s.Op("Reshape", []*ir.Value{e, s.Ints(hidden, vocab)}))
		}, 2, 0, 0},
		{"tied, columns are looked up", func(s *sketch) *ir.Value {
			w := s.table("w", hidden, vocab, 0)
			return s.product(s.lookup(s.transpose(w)), w)
		}, 1, 1, 0},
		{"not tied, columns are looked up", func(s *sketch) *ir.Value {
			return s.product(s.lookup(s.transpose(s.table("e", hidden, vocab, 0))), s.table("w", hidden, vocab, 1))
		}, 2, 0, 0},
		{"tied, stored twice", func(s *sketch) *ir.Value {
			e := s.table("e", vocab, hidden, 0)
			return s.product(s.lookup(e), s.as("w", e, ir.Transpose))
		}, 1, 1, 0},
		{"tied, stored twice the same way", func(s *sketch) *ir.Value {
			e := s.table("e", vocab, hidden, 0)
			return s.product(s.lookup(e), s.transpose(s.as("w", e, asStored)))
		}, 1, 1, 0},
		{"tied, in a narrow type that is widened twice", func(s *sketch) *ir.Value {
			e := s.as("e16", s.table("e", vocab, hidden, 0), func(t *ir.Tensor) (*ir.Tensor, error) { return ir.Cast(t, ir.BFloat16) })
			return s.product(s.lookup(s.cast(e, ir.Float32)), s.transpose(s.cast(e, ir.Float32)))
		}, 1, 1, 0},
		{"equal but for the last element", func(s *sketch) *ir.Value {
			e := s.table("e", vocab, hidden, 0)
			w := s.as("w", e, ir.Transpose)
			b, err := w.Const.Bytes()
			require.NoError(s.t, err)
			b[len(b)-1] ^= 1
			return s.product(s.lookup(e), w)
		}, 2, 0, 0},
		{"a table that an Add reads too", func(s *sketch) *ir.Value {
			w := s.table("w", hidden, vocab, 0)
			return s.product(s.lookup(s.transpose(w)), s.Op("Add", []*ir.Value{w, s.Floats("one", ir.Float32, 1)}))
		}, 1, 1, 0},
		{"rounded on its way", func(s *sketch) *ir.Value {
			return s.product(s.lookup(s.table("e", vocab, hidden, 0)), s.cast(s.cast(s.table("w", hidden, vocab, 1.1), ir.Float16), ir.Float32))
		}, 2, 0, 0},
	} {
		t.Run(c.why, func(t *testing.T) {
			s := &sketch{graphtest.NewSketch(), t}
			y := c.build(s)
			y.Type = ir.TensorType(ir.Float32, ir.Sym("b"), ir.Sym("s"), ir.Fixed(vocab))
			s.Output(y, "y")
			require.NoError(t, s.Model.Validate())
			want := s.Run(t)
			run(t, s.Model)
			graphtest.Near(t, want, s.Run(t), 1e-6)
			tables := 0
			for _, v := range s.Graph.Initializers() {
				if len(v.Const.Shape) == 2 {
					tables++
				}
			}
			require.Equal(t, c.tables, tables)
			require.Equal(t, c.turned, s.Count("Transpose"))
			require.Equal(t, c.casts, s.Count("Cast"))
			require.Zero(t, run(t, s.Model), "once is enough")
		})
	}
}

// Products of two dimensions become products of three.
func TestGemm(t *testing.T) {
	for _, c := range []struct {
		why    string
		attrs  []*ir.Attr
		turned bool
		bias   bool
		behind []int64
		left   int // Gemm nodes
	}{
		{why: "a weight as a linear layer has it", attrs: []*ir.Attr{ir.Int("transB", 1)}, turned: true, behind: []int64{-1, 3, 5}},
		{why: "a weight as MatMul has it", behind: []int64{-1, 3, 5}},
		{why: "with a bias", bias: true, behind: []int64{-1, 3, 5}, left: 1},
		{why: "scaled", attrs: []*ir.Attr{ir.Float("alpha", 2)}, behind: []int64{-1, 3, 5}, left: 1},
		{why: "to other dimensions", behind: []int64{3, -1, 5}, left: 1},
	} {
		t.Run(c.why, func(t *testing.T) {
			s := &sketch{graphtest.NewSketch(), t}
			x := s.Input("x", graphtest.Ramp(ir.Float32, 2, 3, hidden), ir.Sym("batch"), ir.Fixed(3), ir.Fixed(hidden))
			w := s.table("w", hidden, 5, 0)
			if c.turned {
				w = s.table("w2", 5, hidden, 0)
			}
			operands := []*ir.Value{s.Op("Reshape", []*ir.Value{x, s.Ints(-1, hidden)}), w}
			if c.bias {
				operands = append(operands, s.Floats("bias", ir.Float32, 1, 2, 3, 4, 5))
			}
			y := s.Op("Reshape", []*ir.Value{s.Op("Gemm", operands, c.attrs...), s.Ints(c.behind...)})
			s.Output(y, "y")
			want := s.Run(t)
			run(t, s.Model)
			require.Equal(t, c.left, s.Count("Gemm"))
			require.Equal(t, 1-c.left, s.Count("MatMul"))
			if c.left == 0 {
				require.Equal(t, 1, s.Graph.NumNodes())
			}
			graphtest.Near(t, want, s.Run(t), 1e-6)
		})
	}
}

// What is in order is not touched, and no weight of it is read.
func TestDecoder(t *testing.T) {
	for _, form := range []graphtest.Decoder{{ShapeOnly: true, Tied: true}, {}, {DType: ir.Float16}} {
		m := form.Model(t)
		var before, after strings.Builder
		require.NoError(t, g.Dump(&before, m))
		require.Zero(t, run(t, m))
		require.NoError(t, g.Dump(&after, m))
		require.Equal(t, before.String(), after.String())
	}
}

// Nodes without operands or results, as files of strangers may have them, are none of this pass's business.
func TestIncomplete(t *testing.T) {
	for _, op := range []string{"Cast", "Transpose", "Reshape", "Gather", "MatMul", "Gemm"} {
		for _, outputs := range [][]string{{""}, {"y"}} {
			for operands := range 4 {
				s := &sketch{graphtest.NewSketch(), t}
				w := s.table("w", vocab, hidden, 0)
				n := s.Graph.Add(ir.NodeSpec{Op: op, Inputs: []*ir.Value{nil, w, w, w}[4-operands:], Outputs: outputs})
				if outputs[0] == "" {
					s.Graph.AddOutput(w)
				} else {
					s.Graph.AddOutput(n.Output(0))
				}
				_, err := g.Run(context.Background(), s.Model, []*g.Pass{weights.Pass}, g.Options{})
				require.NoError(t, err, "%s of %d operands", op, operands)
			}
		}
	}
}
