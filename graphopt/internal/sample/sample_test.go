package sample_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/internal/sample"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// decoder has inputs of these dimensions; names are free ones.
func decoder(batch, sequence, past, total ir.Dim) *ir.Graph {
	g := ir.NewModel("m", 10, 21).Graph
	g.AddInput("input_ids", ir.TensorType(ir.Int64, batch, sequence))
	g.AddInput("attention_mask", ir.TensorType(ir.Int64, batch, total))
	g.AddInput("position_ids", ir.TensorType(ir.Int64, batch, sequence))
	g.AddInput("past_key_values.0.key", ir.TensorType(ir.Float32, batch, ir.Fixed(2), past, ir.Fixed(8)))
	return g
}

func TestFit(t *testing.T) {
	free := ir.Sym
	asked := sample.Lengths{Batch: 3, Sequence: 5, Past: 11}
	for _, c := range []struct {
		why                          string
		batch, sequence, past, total ir.Dim
		want                         sample.Lengths
	}{
		{"all free", free("b"), free("s"), free("p"), free("t"), asked},
		{"no names", free(""), free(""), free(""), free(""), asked},
		{"one row", ir.Fixed(1), free("s"), free("p"), free("t"), sample.Lengths{Batch: 1, Sequence: 5, Past: 11}},
		{"one token", free("b"), ir.Fixed(1), free("p"), free("t"), sample.Lengths{Batch: 3, Sequence: 1, Past: 11}},
		{"all fixed", ir.Fixed(1), ir.Fixed(4), ir.Fixed(2), ir.Fixed(6), sample.Lengths{Batch: 1, Sequence: 4, Past: 2}},
		{"a prompt", free("b"), free("s"), ir.Fixed(0), free("s"), sample.Lengths{Batch: 3, Sequence: 5}},
		{"a mask of fixed length, whatever is new", free("b"), free("s"), free("p"), ir.Fixed(8), sample.Lengths{Batch: 3, Sequence: 5, Past: 3}},
		{"no rows at all", ir.Fixed(0), free("s"), free("p"), free("t"), asked},
		{"no tokens", free("b"), ir.Fixed(0), free("p"), free("t"), asked},
		{"more than there can be", ir.Fixed(1 << 40), ir.Fixed(1 << 40), free("p"), free("t"), asked},
		{"a past beyond all bounds", free("b"), free("s"), ir.Fixed(1<<63 - 1), free("t"), asked},
		{"a mask and a past of fixed length", free("b"), free("s"), ir.Fixed(6), ir.Fixed(8), sample.Lengths{Batch: 3, Sequence: 2, Past: 6}},
	} {
		t.Run(c.why, func(t *testing.T) {
			g := decoder(c.batch, c.sequence, c.past, c.total)
			in := sample.Find(g)
			l := in.Fit(asked)
			require.Equal(t, c.want, l)
			given := in.Given(l)
			if l == asked {
				return
			}
			for _, v := range g.Inputs() {
				for i, d := range v.Type.Shape {
					if d.Size >= 0 {
						require.Equal(t, d.Size, given[v].Shape[i], "%s, dimension %d", v.Name, i)
					}
				}
			}
			require.Equal(t, l.Total(), given[in.Mask].Shape[1])
			require.Equal(t, l.Past, given[in.Past[0]].Shape[2])
		})
	}
}
