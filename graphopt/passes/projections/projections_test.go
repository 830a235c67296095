package projections_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/graphtest"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/passes/projections"
)

func run(t *testing.T, m *ir.Model) (int, string) {
	t.Helper()
	var declined []string
	r, err := g.Run(context.Background(), m, []*g.Pass{projections.Pass}, g.Options{Trace: func(e g.Event) {
		if e.Kind == g.Declined {
			declined = append(declined, e.Reason)
		}
	}})
	require.NoError(t, err)
	return r.Passes[0].Count, strings.Join(declined, "\n")
}

func TestProjections(t *testing.T) {
	weight := func(s *graphtest.Sketch, name string, d ir.DType, shape ...int64) *ir.Value {
		c, err := graphtest.Ramp(d, shape...).IR()
		require.NoError(t, err)
		return s.Graph.AddInitializer(name, c)
	}
	product := func(s *graphtest.Sketch, x, w *ir.Value) *ir.Value { return s.Op("MatMul", []*ir.Value{x, w}) }
	f := ir.Float32
	cases := []struct {
		why      string
		build    func(s *graphtest.Sketch, x *ir.Value)
		joined   int
		products int
		weights  []string // names of the weights, if they matter
	}{
		{"query, key and value", func(s *graphtest.Sketch, x *ir.Value) {
			for i, n := range []string{"a.q_proj.weight", "a.k_proj.weight", "a.v_proj.weight"} {
				s.Output(product(s, x, weight(s, n, f, 4, int64(8-2*i))), "y")
			}
		}, 1, 1, []string{"a.qkv_proj.weight"}},
		{"gate and up", func(s *graphtest.Sketch, x *ir.Value) {
			s.Output(product(s, x, weight(s, "mlp.gate_proj.weight", f, 4, 3)), "y")
			s.Output(product(s, x, weight(s, "mlp.up_proj.weight", f, 4, 3)), "z")
		}, 1, 1, []string{"mlp.gate_up_proj.weight"}},
		{"other names", func(s *graphtest.Sketch, x *ir.Value) {
			s.Output(product(s, x, weight(s, "W1", f, 4, 3)), "y")
			s.Output(product(s, x, weight(s, "W2", f, 4, 3)), "z")
		}, 1, 1, []string{"W1+1"}},
		{"names of two modules", func(s *graphtest.Sketch, x *ir.Value) {
			s.Output(product(s, x, weight(s, "a.q_proj.weight", f, 4, 3)), "y")
			s.Output(product(s, x, weight(s, "b.k_proj.weight", f, 4, 3)), "z")
		}, 1, 1, []string{"a.q_proj.weight+1"}},
		{"one product has nothing to join", func(s *graphtest.Sketch, x *ir.Value) {
			s.Output(product(s, x, weight(s, "W1", f, 4, 3)), "y")
		}, 0, 1, nil},
		{"products of other activations", func(s *graphtest.Sketch, x *ir.Value) {
			s.Output(product(s, x, weight(s, "W1", f, 4, 3)), "y")
			s.Output(product(s, s.Op("Neg", []*ir.Value{x}), weight(s, "W2", f, 4, 3)), "z")
		}, 0, 2, nil},
		{"a weight that two products read is not stored twice", func(s *graphtest.Sketch, x *ir.Value) {
			w := weight(s, "W1", f, 4, 3)
			s.Output(product(s, x, w), "y")
			s.Output(product(s, x, w), "z")
			s.Output(product(s, x, weight(s, "W2", f, 4, 3)), "w")
		}, 0, 3, nil},
		{"a weight that is an output too", func(s *graphtest.Sketch, x *ir.Value) {
			w := weight(s, "W1", f, 4, 3)
			s.Output(product(s, x, w), "y")
			s.Output(product(s, x, weight(s, "W2", f, 4, 3)), "z")
			s.Output(s.Op("Neg", []*ir.Value{w}), "v")
		}, 0, 2, nil},
		{"a weight that may be overridden", func(s *graphtest.Sketch, x *ir.Value) {
			s.Output(product(s, x, s.Graph.AddOptionalInput("W1", ir.Float32Tensor(make([]float32, 12), 4, 3))), "y")
			s.Output(product(s, x, weight(s, "W2", f, 4, 3)), "z")
		}, 0, 2, nil},
		{"three dimensions", func(s *graphtest.Sketch, x *ir.Value) {
			s.Output(product(s, x, weight(s, "W1", f, 2, 4, 3)), "y")
			s.Output(product(s, x, weight(s, "W2", f, 2, 4, 3)), "z")
		}, 0, 2, nil},
		{"two pairs", func(s *graphtest.Sketch, x *ir.Value) {
			y := s.Op("Neg", []*ir.Value{x})
			s.Output(product(s, x, weight(s, "W1", f, 4, 3)), "y")
			s.Output(product(s, y, weight(s, "W2", f, 4, 3)), "z")
			s.Output(product(s, x, weight(s, "W3", f, 4, 1)), "v")
			s.Output(product(s, y, weight(s, "W4", f, 4, 2)), "w")
		}, 2, 2, nil},
	}
	for _, c := range cases {
		t.Run(c.why, func(t *testing.T) {
			s := graphtest.NewSketch()
			x := s.Input("x", graphtest.Ramp(f, 2, 3, 4), ir.Fixed(2), ir.Sym("s"), ir.Fixed(4))
			c.build(s, x)
			want := s.Run(t)
			n, declined := run(t, s.Model)
			require.Empty(t, declined)
			require.Equal(t, c.joined, n)
			require.Equal(t, c.products, s.Count("MatMul"))
			require.Equal(t, c.joined, s.Count("Split"))
			for _, name := range c.weights {
				var names []string
				for _, v := range s.Graph.Initializers() {
					names = append(names, v.Name)
				}
				require.Contains(t, names, name)
			}
			graphtest.Near(t, want, s.Run(t), 1e-6)
		})
	}
}

// Quantised products of one format are joined; what they give is what they gave.
func TestQuantised(t *testing.T) {
	const depth, block = 64, 32
	type format struct {
		width int64
		zero  bool
		flat  bool // scales of one dimension, as older exporters write them
		level int64
	}
	for _, c := range []struct {
		why    string
		a, b   format
		joined int
	}{
		{"two of one format", format{width: 8}, format{width: 12}, 1},
		{"with zero points", format{width: 8, zero: true}, format{width: 12, zero: true}, 1},
		{"scales in a row", format{width: 8, flat: true}, format{width: 12, flat: true}, 1},
		{"one with zero points", format{width: 8}, format{width: 12, zero: true}, 0},
		{"another accuracy", format{width: 8}, format{width: 12, level: 4}, 0},
		{"scales of other dimensions", format{width: 8}, format{width: 12, flat: true}, 0},
	} {
		t.Run(c.why, func(t *testing.T) {
			s := graphtest.NewSketch()
			g.Require(s.Model, g.Microsoft)
			x := s.Input("x", graphtest.Ramp(ir.Float32, 2, 3, depth), ir.Fixed(2), ir.Sym("s"), ir.Fixed(depth))
			for i, f := range []format{c.a, c.b} {
				name := "mlp." + []string{"gate", "up"}[i] + "_proj.weight"
				constant := func(part string, shape ...int64) *ir.Value {
					n, err := ir.NumElements(shape)
					require.NoError(t, err)
					b := make([]byte, n)
					for j := range b {
						b[j] = byte(17*j + i)
					}
					c, err := ir.NewTensor(ir.Uint8, shape, ir.NewBuffer(b))
					require.NoError(t, err)
					return s.Graph.AddInitializer(name+part, c)
				}
				scale, err := graphtest.Ramp(ir.Float32, f.width, depth/block).IR()
				require.NoError(t, err)
				if f.flat {
					scale.Shape = []int64{f.width * depth / block}
				}
				in := []*ir.Value{x, constant("_Q4", f.width, depth/block, block/2), s.Graph.AddInitializer(name+"_scales", scale)}
				if f.zero {
					in = append(in, constant("_zp", f.width, depth/block/2))
				}
				n := s.Graph.Add(ir.NodeSpec{Op: "MatMulNBits", Domain: g.Microsoft, Inputs: in, Attrs: []*ir.Attr{ir.Int("K", depth),
					ir.Int("N", f.width), ir.Int("bits", 4), ir.Int("block_size", block), ir.Int("accuracy_level", f.level)}})
				s.Output(n.Output(0), "y")
			}
			want := s.Run(t)
			n, declined := run(t, s.Model)
			require.Empty(t, declined)
			require.Equal(t, c.joined, n)
			require.Equal(t, 2-c.joined, s.Count("MatMulNBits"))
			graphtest.Near(t, want, s.Run(t), 1e-6)
			for _, v := range s.Graph.Initializers() {
				if c.joined == 1 && len(v.Const.Shape) == 3 {
					require.Equal(t, "mlp.gate_up_proj.weight_Q4", v.Name)
				}
			}
		})
	}
}

// Weights of another depth or type cannot be joined: here x is read in two types.
func TestAlike(t *testing.T) {
	s := graphtest.NewSketch()
	x := s.Graph.AddInput("x", nil) // a type that is not known fits both
	for i, d := range []ir.DType{ir.Float32, ir.Float16, ir.Float32, ir.Float16} {
		c, err := ir.Cast(ir.Float32Tensor(make([]float32, 12), 4, 3), d)
		require.NoError(t, err)
		w := s.Graph.AddInitializer([]string{"A", "B", "C", "D"}[i], c)
		s.Output(s.Op("MatMul", []*ir.Value{x, w}), "y")
	}
	deep := s.Graph.AddInitializer("E", ir.Float32Tensor(make([]float32, 15), 5, 3))
	s.Output(s.Op("MatMul", []*ir.Value{x, deep}), "z")
	n, _ := run(t, s.Model)
	require.Equal(t, 2, n)
	require.Equal(t, 3, s.Count("MatMul"))
}

func TestOldOpset(t *testing.T) {
	m := graphtest.Decoder{}.Model(t)
	m.Opsets[0].Version = 12
	n, declined := run(t, m)
	require.Zero(t, n)
	require.Contains(t, declined, "opset 12")
}

func TestGolden(t *testing.T) {
	m := graphtest.Decoder{}.Model(t)
	want := graphtest.Generate(t, m, 2, 3, 1)
	n, declined := run(t, m)
	require.Empty(t, declined)
	require.Equal(t, 2, n)
	graphtest.Near(t, want, graphtest.Generate(t, m, 2, 3, 1), 1e-5)
	var b strings.Builder
	require.NoError(t, g.Dump(&b, m))
	graphtest.Golden(t, "projections", b.String())
}
