package calib

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/quantize"
)

func TestMoments(t *testing.T) {
	require.NoError(t, ort.Init(ort.Environment{}))
	for _, width := range []int{
		7,   // one range
		300, // two, of 150
		521, // four, of unequal size
	} {
		r := rand.New(rand.NewPCG(1, uint64(width)))
		m, err := newMoments(width, t.TempDir(), 2)
		require.NoError(t, err)
		want := make([]float64, width*width)
		for range 3 {
			const rows = 10
			x, err := ort.NewTensor(ort.Float32, 2, rows/2, int64(width))
			require.NoError(t, err)
			data := ort.Data[float32](x)
			for i := range data {
				data[i] = float32(r.NormFloat64())
			}
			for row := range rows {
				v := data[row*width:][:width]
				for i := range v {
					for j := range v {
						want[i*width+j] += float64(v[i]) * float64(v[j])
					}
				}
			}
			require.NoError(t, m.add(x))
			x.Close()
		}
		got := make([]float32, width*width)
		m.matrix(got)
		for i := range got {
			require.InDelta(t, want[i], got[i], 1e-4, "%d: element %d", width, i)
		}
	}
}

// Products must be right whatever is stored transposed, on memory of its own and on any other.
func TestGemm(t *testing.T) {
	require.NoError(t, ort.Init(ort.Environment{}))
	a := newAlgebra(t.TempDir(), 2)
	defer a.close()
	const m, n, k = 3, 4, 5
	r := rand.New(rand.NewPCG(1, 2))
	random := func(size int, own bool) []float32 {
		b := make([]float32, size)
		if own {
			var err error
			b, err = a.Alloc(size + 8)
			require.NoError(t, err)
			b = b[8:] // a part of it
		}
		for i := range b {
			b[i] = float32(r.NormFloat64())
		}
		return b
	}
	for i := range 32 {
		bit := func(n int) bool { return i>>n&1 == 1 }
		own := bit(4)
		g := quantize.Gemm{M: m, N: n, K: k, TransA: bit(0), TransB: bit(1), Negative: bit(2),
			A: random(m*k, own), B: random(k*n, own), Y: random(m*n, own)}
		if bit(3) {
			g.C = random(m*n, own)
		}
		require.NoError(t, a.Gemm(t.Context(), g))
		for x := range m {
			for y := range n {
				sum := 0.0
				for z := range k {
					at, bt := x*k+z, z*n+y
					if g.TransA {
						at = z*m + x
					}
					if g.TransB {
						bt = y*k + z
					}
					sum += float64(g.A[at]) * float64(g.B[bt])
				}
				if g.Negative {
					sum = -sum
				}
				if g.C != nil {
					sum += float64(g.C[x*n+y])
				}
				require.InDelta(t, sum, g.Y[x*n+y], 1e-5, "case %d", i)
			}
		}
	}
	require.ErrorContains(t, a.Gemm(t.Context(), quantize.Gemm{M: 2, N: 2, K: 2, A: make([]float32, 3)}), "in 3 numbers")
	for len(a.memory) > 0 {
		a.Free(ort.Data[float32](a.memory[0]))
	}
	a.Free(nil)
}
