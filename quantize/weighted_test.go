package quantize

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// With weights that count differently the grid must be better, by that measure, than the one that is best
// where all count the same, and not much worse than what a fine search finds.
func TestWeighted(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, f := range []Format{
		{Bits: 4, BlockSize: 32, Symmetric: true}, {Bits: 4, BlockSize: 32}, {Bits: 4, BlockSize: 128, Symmetric: true}, {Bits: 8, BlockSize: 32},
	} {
		q := &rtn{f, ir.Float32}
		loss := func(w, counts []float32, g grid) (sum float64) {
			for i, v := range w {
				d := float64(v) - float64(int32(q.level(g, v))-g.zero)*float64(g.scale)
				sum += float64(counts[i]) * d * d
			}
			return sum
		}
		var weighted, plain, fine float64
		for range 300 {
			w, counts := make([]float32, f.BlockSize), make([]float32, f.BlockSize)
			l := extremes{-1 << 31, 0}
			for i := range w {
				w[i] = float32(r.NormFloat64())
				counts[i] = float32(r.ExpFloat64() * r.ExpFloat64())
			}
			for i := range w {
				l.add(w, i, math.Float32bits(w[i]))
			}
			span, ok := q.grid(l, w[0])
			require.True(t, ok)
			weighted += loss(w, counts, q.weighted(w, counts, l, span))
			plain += loss(w, counts, q.search(w, l, span))
			best := loss(w, counts, span)
			for i := range 200 {
				for _, sign := range []float32{1, -1} {
					g, _ := q.finish(sign*span.scale*(0.4+float32(i)/250), span.zero)
					g.cut = true
					best = min(best, loss(w, counts, g))
				}
			}
			fine += best
		}
		t.Logf("%v: weighted %.4f, plain %.4f, fine %.4f", f, weighted, plain, fine)
		if f.Bits == 4 {
			require.Less(t, weighted, 0.95*plain, f)
		}
		require.Less(t, weighted, 1.3*fine, f)
	}
}

func TestWeightedDegenerate(t *testing.T) {
	q := &rtn{Format{Bits: 4, BlockSize: 16, Symmetric: true}, ir.Float32}
	w := make([]float32, 16)
	g, ok := q.blockGrid(w, make([]float32, 16))
	require.True(t, ok)
	require.Zero(t, q.level(g, 0)-uint8(g.zero), "zeros stay zeros")
	for i := range w {
		w[i] = float32(i) - 7
	}
	g, ok = q.blockGrid(w, make([]float32, 16))
	require.True(t, ok, "nothing counts")
	require.Equal(t, float32(-1), g.scale, "the grid that spans the block")
	require.Equal(t, []float32{0.5, 1.5}, normalised([]float32{1, 3}))
	require.Equal(t, []float32{0, 0}, normalised([]float32{0, 0}))
}
