package static_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/graphtest"
	"github.com/qwenrt/qwenrt/graphopt/internal/interp"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/passes"
	"github.com/qwenrt/qwenrt/graphopt/passes/static"
)

// build makes a decoder of fixed lengths.
func build(t *testing.T, d graphtest.Decoder, all []*g.Pass, l g.Lengths) *ir.Model {
	t.Helper()
	m := d.Model(t)
	_, err := g.Run(context.Background(), m, all, g.Options{Target: g.CoreML, Static: l, MaxPositions: 64})
	require.NoError(t, err)
	return m
}

func requireFixed(t *testing.T, m *ir.Model) {
	t.Helper()
	for _, v := range slices.Concat(m.Graph.Inputs(), m.Graph.Outputs()) {
		for _, d := range v.Type.Shape {
			require.GreaterOrEqual(t, d.Size, int64(0), v.Name)
		}
	}
	for _, n := range m.Graph.Nodes() {
		require.NotContains(t, []string{"Shape", "Range", "LessOrEqual", "Trilu", "ConstantOfShape"}, n.OpType, "%v", n)
	}
}

// generate runs models of fixed lengths one after the other as a runtime would: the cache is full from the
// start, and what is not a token yet is masked.
func generate(t *testing.T, total int64, models ...*ir.Model) []*interp.Tensor {
	t.Helper()
	rng := rand.New(rand.NewPCG(3, 3)) // as graphtest.Generate
	past := graphtest.Tensors{}
	done := int64(0)
	var logits []*interp.Tensor
	for _, m := range models {
		in := graphtest.Tensors{}
		var seq int64
		for _, v := range m.Graph.Inputs() {
			if v.Name == "input_ids" {
				seq = v.Type.Shape[1].Size
			}
		}
		for _, v := range m.Graph.Inputs() {
			shape := make([]int64, len(v.Type.Shape))
			for i, d := range v.Type.Shape {
				shape[i] = d.Size
			}
			switch v.Name {
			case "input_ids":
				in[v.Name] = counted(shape, func(int64) int64 { return int64(rng.IntN(10)) })
			case "position_ids":
				in[v.Name] = counted(shape, func(i int64) int64 { return done + i })
			case "attention_mask":
				in[v.Name] = counted(shape, func(i int64) int64 {
					if i < total-done-seq {
						return 0
					}
					return 1
				})
			default:
				in[v.Name] = tail(past[v.Name], shape, v.Type.DType)
			}
		}
		out := graphtest.Open(t, m).Run(t, in)
		logits = append(logits, out["logits"])
		for name, x := range out {
			if name != "logits" {
				past["past_key_values."+name[len("present."):]] = x
			}
		}
		done += seq
	}
	return logits
}

func counted(shape []int64, at func(int64) int64) *interp.Tensor {
	t := interp.Ints(shape, make([]int64, shape[0]*shape[1])...)
	for i := range t.I {
		t.I[i] = at(int64(i) % shape[1])
	}
	return t
}

// tail is the last rows of a present, as many as the next past has; zeros before there is one.
func tail(present *interp.Tensor, shape []int64, d ir.DType) *interp.Tensor {
	t := &interp.Tensor{DType: d, Shape: shape, F: make([]float64, shape[0]*shape[1]*shape[2]*shape[3])}
	if present == nil {
		return t
	}
	rows, size := shape[2], shape[3]
	for h := range shape[0] * shape[1] {
		copy(t.F[h*rows*size:(h+1)*rows*size], present.F[((h+1)*present.Shape[2]-rows)*size:])
	}
	return t
}

// A prompt of four tokens and two single ones give what the free graph gives, in a cache of twelve.
func TestSameLogits(t *testing.T) {
	const total = 12
	for _, c := range []struct {
		why  string
		form graphtest.Decoder
		all  []*g.Pass
	}{
		{"the pass alone", graphtest.Decoder{Layers: 2}, []*g.Pass{static.Pass}},
		{"shapes computed as a traced program does", graphtest.Decoder{ComputedShapes: true}, []*g.Pass{static.Pass}},
		{"mask by Trilu, presents under another name", graphtest.Decoder{Mask: graphtest.CausalTrilu, PresentIdentity: true}, []*g.Pass{static.Pass}},
		{"all passes for Core ML", graphtest.Decoder{Layers: 2, Tied: true}, passes.All()},
		{"all passes, another form", graphtest.Decoder{OwnTables: true, MulSquare: true, ScaleQuery: true, HalfTables: true}, passes.All()},
	} {
		t.Run(c.why, func(t *testing.T) {
			want := graphtest.Generate(t, c.form.Model(t), 1, 4, 1, 1)
			prefill := build(t, c.form, c.all, g.Lengths{Batch: 1, Sequence: 4, Total: total})
			decode := build(t, c.form, c.all, g.Lengths{Batch: 1, Sequence: 1, Total: total})
			requireFixed(t, prefill)
			requireFixed(t, decode)
			for i, got := range generate(t, total, prefill, decode, decode) {
				require.NoError(t, graphtest.Differ(want[string(rune('0'+i))+".logits"], got, 2e-5), "step %d", i)
			}
		})
	}
}

// The embedding of a tied model is not copied for being transposed.
func TestWeightsStay(t *testing.T) {
	m := build(t, graphtest.Decoder{Tied: true}, []*g.Pass{static.Pass}, g.Lengths{Batch: 1, Sequence: 1, Total: 4})
	for _, v := range m.Graph.Initializers() {
		require.NotContains(t, v.Name, "lm_head/Transpose")
	}
}

func TestRefuses(t *testing.T) {
	run := func(m *ir.Model, l g.Lengths) error {
		_, err := g.Run(context.Background(), m, []*g.Pass{static.Pass}, g.Options{Target: g.CoreML, Static: l})
		return err
	}
	for _, l := range []g.Lengths{{Batch: 0, Sequence: 1, Total: 1}, {Batch: 1, Sequence: 0, Total: 1}, {Batch: 1, Sequence: 4, Total: 3}, {Batch: -1, Sequence: 1, Total: 2}} {
		require.ErrorContains(t, run(graphtest.Decoder{}.Model(t), l), "want a batch", "%+v", l)
	}
	one := g.Lengths{Batch: 1, Sequence: 1, Total: 8}
	require.ErrorContains(t, run(graphtest.Decoder{Positions: graphtest.FromPast}.Model(t), one), "position_ids")
	odd := graphtest.Decoder{}.Model(t)
	odd.Graph.AddInput("extra", ir.TensorType(ir.Int64, ir.Sym("somewhere")))
	require.ErrorContains(t, run(odd, one), `input "extra"`)
	m := build(t, graphtest.Decoder{}, []*g.Pass{static.Pass}, one)
	require.NoError(t, run(m, one), "the same again")
	require.ErrorContains(t, run(m, g.Lengths{Batch: 1, Sequence: 2, Total: 8}), "has a dimension of 1, not 2")
	free := graphtest.Decoder{}.Model(t)
	require.NoError(t, run(free, g.Lengths{}))
	require.Equal(t, "sequence_length", free.Graph.Inputs()[0].Type.Shape[1].Param, "no lengths, no change")
}
