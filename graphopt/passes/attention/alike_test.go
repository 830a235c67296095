package attention

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/graphtest"
	"github.com/qwenrt/qwenrt/graphopt/internal/sample"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/passes/rmsnorm"
)

// look runs f on a model as the pass meets it.
func look(t *testing.T, m *ir.Model, f func(*fuser)) {
	t.Helper()
	_, err := g.Run(context.Background(), m, []*g.Pass{rmsnorm.Pass, {Name: "look", Doc: "looks at the proofs", Run: func(u *g.Unit) (int, error) {
		f(&fuser{unit: u, graph: u.Model.Graph, in: sample.Find(u.Model.Graph)})
		return 0, nil
	}}}, g.Options{MaxPositions: 100})
	require.NoError(t, err)
}

// However many layers there are, one is evaluated.
func TestOneProofForAll(t *testing.T) {
	for why, form := range map[string]graphtest.Decoder{
		"shared mask and tables": {},
		"tables of each layer":   {OwnTables: true},
		"shapes of activations":  {ComputedShapes: true},
		"layers that do not fit": {Mask: graphtest.NextToken, OwnTables: true},
	} {
		t.Run(why, func(t *testing.T) {
			form.Layers = 5
			look(t, form.Model(t), func(f *fuser) {
				_, err := f.layers()
				require.NoError(t, err)
				require.Len(t, f.verdicts, 1)
			})
		})
	}
}

// Layers that differ anywhere are not alike.
func TestAlike(t *testing.T) {
	const second = "/model/layers.1/self_attn"
	cases := []struct {
		why    string
		change func(t *testing.T, m *ir.Model)
		alike  bool
	}{
		{"nothing", func(*testing.T, *ir.Model) {}, true},
		{"a constant of the same content", func(t *testing.T, m *ir.Model) {
			graphtest.Named(t, m, second+"/Mul").SetInput(1, m.Graph.AddInitializer("same", ir.Float32Scalar(0.25)))
		}, true},
		{"a constant", func(t *testing.T, m *ir.Model) {
			graphtest.Named(t, m, second+"/Mul").SetInput(1, m.Graph.AddInitializer("other", ir.Float32Scalar(0.5)))
		}, false},
		{"a constant's shape", func(t *testing.T, m *ir.Model) {
			graphtest.Named(t, m, second+"/Mul").SetInput(1, m.Graph.AddInitializer("other", ir.Float32Tensor([]float32{0.25})))
		}, false},
		{"an attribute", func(t *testing.T, m *ir.Model) {
			graphtest.Named(t, m, second+"/Softmax").SetAttr(ir.Int("axis", 2))
		}, false},
		{"an operator", func(t *testing.T, m *ir.Model) {
			graphtest.Named(t, m, second+"/q_rotary/Neg").OpType = "Abs"
		}, false},
		{"an input", func(t *testing.T, m *ir.Model) {
			cast := graphtest.Named(t, m, "/model/tables.1/mask/Cast")
			cast.SetInput(0, m.Graph.AddInput("other_mask", cast.Input(0).Type))
		}, false},
		{"which of two values is read", func(t *testing.T, m *ir.Model) {
			n := graphtest.Named(t, m, second+"/q_rotary/Mul")
			n.SetInput(1, graphtest.Named(t, m, "/model/tables.1/Sin/Unsqueeze").Output(0))
		}, false},
		{"queries where keys were", func(t *testing.T, m *ir.Model) {
			n := graphtest.Named(t, m, second+"/MatMul")
			n.SetInput(0, graphtest.Named(t, m, "/model/layers.0/self_attn/q_rotary/Add").Output(0))
		}, false},
	}
	for _, c := range cases {
		t.Run(c.why, func(t *testing.T) {
			m := graphtest.Decoder{Layers: 2, OwnTables: true, Heads: 2, KVHeads: 2}.Model(t)
			c.change(t, m)
			look(t, m, func(f *fuser) {
				var layers []*layer
				for _, n := range f.graph.Nodes() {
					if n.OpType == "Softmax" {
						l, err := f.layer(n)
						if err != nil {
							require.False(t, c.alike, err)
							return
						}
						layers = append(layers, l)
					}
				}
				require.Equal(t, c.alike, f.alike(layers[0], layers[1]))
				require.Equal(t, c.alike, f.alike(layers[1], layers[0]))
			})
		})
	}
}

// BenchmarkEvaluate is what the likeness of layers saves, for each: the proof of one layer of the 32B model.
func BenchmarkEvaluate(b *testing.B) {
	m := graphtest.Decoder{Heads: 64, KVHeads: 8, HeadDim: 128, Hidden: 5120, MLP: 25600, Vocab: 1000, ShapeOnly: true}.Model(b)
	_, err := g.Run(context.Background(), m, []*g.Pass{rmsnorm.Pass, {Name: "look", Doc: "looks at the proofs", Run: func(u *g.Unit) (int, error) {
		f := &fuser{unit: u, graph: u.Model.Graph, in: sample.Find(u.Model.Graph)}
		layers, err := f.layers()
		require.NoError(b, err)
		for b.Loop() {
			require.NoError(b, f.evaluate(layers[0]))
		}
		b.ReportMetric(float64(len(layers[0].cone)), "nodes")
		return 0, nil
	}}}, g.Options{MaxPositions: 40960})
	require.NoError(b, err)
}
