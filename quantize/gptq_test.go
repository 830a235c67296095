package quantize

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// plainAlgebra multiplies as the definition says.
type plainAlgebra struct{}

func (plainAlgebra) Alloc(n int) ([]float32, error) { return make([]float32, n), nil }
func (plainAlgebra) Free([]float32)                 {}

func (plainAlgebra) Gemm(_ context.Context, g Gemm) error {
	for m := range g.M {
		for n := range g.N {
			sum := 0.0
			for k := range g.K {
				a, b := m*g.K+k, k*g.N+n
				if g.TransA {
					a = k*g.M + m
				}
				if g.TransB {
					b = n*g.K + k
				}
				sum += float64(g.A[a]) * float64(g.B[b])
			}
			if g.Negative {
				sum = -sum
			}
			if g.C != nil {
				sum += float64(g.C[m*g.N+n])
			}
			g.Y[m*g.N+n] = float32(sum)
		}
	}
	return nil
}

// sink keeps levels in memory.
type sink []byte

func (s sink) WriteAt(p []byte, off int64) (int, error) { return copy(s[off:], p), nil }

// problem is a weight [n, k] and the second moments of inputs that are correlated and of unequal size.
func problem(n, k int) (w []float32, h []float32) {
	r := rand.New(rand.NewPCG(7, uint64(n*k)))
	w = make([]float32, n*k)
	for i := range w {
		w[i] = float32(r.NormFloat64())
	}
	h = make([]float32, k*k)
	x := make([]float64, k)
	for range 3 * k {
		common := r.NormFloat64()
		for i := range x {
			x[i] = (r.NormFloat64() + common) * (0.2 + float64(i*7%k)/float64(k))
		}
		for i := range x {
			for j := range x {
				h[i*k+j] += float32(x[i] * x[j])
			}
		}
	}
	return w, h
}

func target(w []float32, n, k int, f Format) Target {
	return Target{Tensor: "w", Format: f, matrix: ir.Float32Tensor(w, int64(n), int64(k))}
}

// compensate gives the values that GPTQ arrives at, [n, k], read back from what it has packed.
func compensate(t *testing.T, g Target, h []float32, o GPTQOptions) ([]float32, Compensated) {
	t.Helper()
	n, k, f := g.Rows(), g.Columns(), g.Format
	factor, err := Factorise(t.Context(), plainAlgebra{}, h, int(k), o)
	require.NoError(t, err)
	defer factor.Close()
	out := LevelWriters{
		Packed: make(sink, n*f.RowBytes(k)), Scales: make(sink, n*f.Blocks(k)*4), ZeroPoints: make(sink, n*f.ZeroPointBytes(k)),
	}
	values := make([]float32, n*k)
	c, err := factor.Round(t.Context(), g, out, values)
	require.NoError(t, err)

	m := Matrix{Format: f, N: n, K: k, stride: f.RowBytes(k), packed: bytesTensor(out.Packed.(sink)), scales: bytesTensor(out.Scales.(sink))}
	m.scales.DType = ir.Float32
	if !f.Symmetric {
		m.zeros = bytesTensor(out.ZeroPoints.(sink))
	}
	got := make([]float32, n*k)
	for r := range n {
		require.NoError(t, m.Row(got[r*k:][:k], r))
		for i := range k {
			require.Equal(t, got[r*k+i], values[i*n+r], "output %d, input %d: values are what the levels stand for", r, i)
		}
	}
	return got, c
}

func bytesTensor(b []byte) *ir.Tensor {
	return &ir.Tensor{DType: ir.Uint8, Shape: []int64{int64(len(b))}, Data: ir.NewBuffer(b)}
}

// loss is tr(E H Eᵀ).
func loss(w, q, h []float32, n, k int) float64 {
	sum := 0.0
	for r := range n {
		for i := range k {
			e := float64(w[r*k+i] - q[r*k+i])
			for j := range k {
				sum += e * float64(h[i*k+j]) * float64(w[r*k+j]-q[r*k+j])
			}
		}
	}
	return sum
}

// plainGPTQ is the algorithm as the paper has it: with the inverse of H, one column after the other.
func plainGPTQ(w, h []float32, n, k int, f Format, o GPTQOptions) []float32 {
	q := &rtn{f, ir.Float32}
	mean := 0.0
	for i := range k {
		mean += float64(h[i*k+i]) / float64(k)
	}
	counts := make([]float32, k)
	order := make([]int, k)
	for i := range k {
		counts[i], order[i] = h[i*k+i], i
	}
	if !o.InOrder {
		slices.SortStableFunc(order, func(a, b int) int { return int(math.Copysign(1, float64(counts[b]-counts[a]))) })
	}
	damped := make([]float64, k*k)
	for i := range k {
		for j := range k {
			damped[i*k+j] = float64(h[order[i]*k+order[j]])
		}
		damped[i*k+i] += o.Damping * mean
	}
	inverse := invert(damped, k)
	out := make([]float32, n*k)
	for r := range n {
		row := w[r*k:][:k]
		grids := make([]grid, f.Blocks(int64(k)))
		for b := range grids {
			at := b * f.BlockSize
			end := min(at+f.BlockSize, k)
			grids[b], _ = q.blockGrid(row[at:end], normalised(counts)[at:end])
		}
		rest := make([]float64, k)
		for i, at := range order {
			rest[i] = float64(row[at])
		}
		inv := slices.Clone(inverse)
		for i, at := range order {
			g := grids[at/f.BlockSize]
			level := min(max(math.Floor(rest[i]/float64(g.scale)+float64(g.zero)+0.5), 0), float64(f.top()))
			value := float32(level-float64(g.zero)) * g.scale
			out[r*k+at] = value
			e := (rest[i] - float64(value)) / inv[i*k+i]
			for j := i + 1; j < k; j++ {
				rest[j] -= e * inv[i*k+j]
			}
			// The inverse of what is left of H, by Gaussian elimination.
			for a := i + 1; a < k; a++ {
				for b := i + 1; b < k; b++ {
					inv[a*k+b] -= inv[a*k+i] * inv[i*k+b] / inv[i*k+i]
				}
			}
		}
	}
	return out
}

// invert is the inverse of a positive definite matrix.
func invert(a []float64, k int) []float64 {
	m, inv := slices.Clone(a), make([]float64, k*k)
	for i := range k {
		inv[i*k+i] = 1
	}
	for i := range k {
		p := m[i*k+i]
		for j := range k {
			m[i*k+j] /= p
			inv[i*k+j] /= p
		}
		for r := range k {
			if c := m[r*k+i]; r != i && c != 0 {
				for j := range k {
					m[r*k+j] -= c * m[i*k+j]
					inv[r*k+j] -= c * inv[i*k+j]
				}
			}
		}
	}
	return inv
}

// The decomposition and the panels must give what the paper's algorithm gives. Sums in another order
// may take a weight that is half way between levels to the other one, so a few may differ.
func TestGPTQIsAsPublished(t *testing.T) {
	for _, c := range []struct {
		why  string
		n, k int
		f    Format
		o    GPTQOptions
	}{
		{"one panel", 5, 64, Format{Bits: 4, BlockSize: 32, Symmetric: true}, GPTQOptions{Damping: 0.01}},
		{"zero points", 5, 64, Format{Bits: 4, BlockSize: 16}, GPTQOptions{Damping: 0.01}},
		{"8 bits", 5, 64, Format{Bits: 8, BlockSize: 32}, GPTQOptions{Damping: 0.01}},
		{"in order", 5, 64, Format{Bits: 4, BlockSize: 32}, GPTQOptions{Damping: 0.01, InOrder: true}},
		{"three panels, the last one narrow, and a block that is not full", 3, 300, Format{Bits: 4, BlockSize: 32}, GPTQOptions{Damping: 0.05}},
		{"more outputs than a tile", 70, 32, Format{Bits: 4, BlockSize: 32, Symmetric: true}, GPTQOptions{Damping: 0.01}},
	} {
		w, h := problem(c.n, c.k)
		got, sums := compensate(t, target(w, c.n, c.k, c.f), h, c.o)
		want := plainGPTQ(w, h, c.n, c.k, c.f, c.o)
		differ := 0
		for i := range got {
			if got[i] != want[i] {
				differ++
			}
		}
		require.LessOrEqual(t, differ, len(got)/50, c.why)
		l := loss(w, got, h, c.n, c.k)
		require.InEpsilon(t, loss(w, want, h, c.n, c.k), l, 0.02, c.why)
		energy := loss(w, make([]float32, len(w)), h, c.n, c.k)
		require.Less(t, sums.Loss, 0.1, c.why)
		require.Positive(t, energy)
	}
}

// On problems that can be searched to the end GPTQ must come close to the best of all roundings, and
// rounding to nearest must not.
func TestGPTQNearOptimum(t *testing.T) {
	const n, k = 20, 16
	f := Format{Bits: 4, BlockSize: 16, Symmetric: true}
	w, h := problem(n, k)
	got, _ := compensate(t, target(w, n, k, f), h, GPTQOptions{})
	q := &rtn{f, ir.Float32}
	counts := make([]float32, k)
	for i := range counts {
		counts[i] = h[i*k+i]
	}
	var gptq, nearest, best float64
	for r := range n {
		row := w[r*k:][:k]
		g, ok := q.blockGrid(row, counts)
		require.True(t, ok)
		low, near := make([]float32, k), make([]float32, k)
		for i, v := range row {
			level := math.Floor(float64(v / g.scale))
			low[i] = float32(min(max(level, -8), 6)) * g.scale
			near[i] = float32(int(q.level(g, v))-8) * g.scale
		}
		least := math.Inf(1)
		try := make([]float32, k)
		for mask := range 1 << k { // each weight down or up
			for i := range try {
				try[i] = low[i] + float32(mask>>i&1)*g.scale
			}
			least = min(least, loss(row, try, h, 1, k))
		}
		best += least
		nearest += loss(row, near, h, 1, k)
		gptq += loss(row, got[r*k:][:k], h, 1, k)
	}
	t.Logf("best %.4g, GPTQ %.4g, to nearest %.4g", best, gptq, nearest)
	require.Less(t, gptq, 1.5*best)
	require.Greater(t, nearest, 2*best)
}

func TestGPTQErrors(t *testing.T) {
	w, h := problem(2, 32)
	f := Format{Bits: 4, BlockSize: 32}
	_, err := Factorise(t.Context(), plainAlgebra{}, h[1:], 32, GPTQOptions{})
	require.ErrorContains(t, err, "32 inputs in 1023 numbers")
	_, err = Factorise(t.Context(), plainAlgebra{}, h, 32, GPTQOptions{Damping: -1})
	require.ErrorContains(t, err, "damping")

	bad := slices.Clone(h)
	bad[0] = float32(math.NaN())
	_, err = Factorise(t.Context(), plainAlgebra{}, bad, 32, GPTQOptions{})
	require.ErrorIs(t, err, ErrHessian)

	factor, err := Factorise(t.Context(), plainAlgebra{}, h, 32, GPTQOptions{})
	require.NoError(t, err)
	w[40] = float32(math.Inf(1))
	_, err = factor.Round(t.Context(), target(w, 2, 32, f), LevelWriters{}, nil)
	require.ErrorIs(t, err, ErrNotFinite)
	require.ErrorContains(t, err, "output 1, input 8")
	_, err = factor.Round(t.Context(), target(w, 4, 16, f), LevelWriters{}, nil)
	require.ErrorContains(t, err, "16 inputs")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w[40] = 0
	_, err = factor.Round(ctx, target(w, 2, 32, f), LevelWriters{make(sink, 32), make(sink, 8), make(sink, 2)}, nil)
	require.ErrorIs(t, err, context.Canceled)
}

// Inputs that calibration never saw, and a matrix that is singular but for its damping.
func TestGPTQDegenerate(t *testing.T) {
	const n, k = 4, 32
	f := Format{Bits: 4, BlockSize: 32, Symmetric: true}
	w, _ := problem(n, k)
	zero := make([]float32, k*k)
	got, _ := compensate(t, target(w, n, k, f), zero, GPTQOptions{})
	q := &rtn{f, ir.Float32}
	for r := range n {
		g, _ := q.blockGrid(w[r*k:][:k], make([]float32, k))
		for i := range k {
			require.Equal(t, float32(int(q.level(g, w[r*k+i]))-8)*g.scale, got[r*k+i], "nothing is known: to nearest")
		}
	}
	ones := make([]float32, k*k)
	for i := range ones {
		ones[i] = 1
	}
	got, _ = compensate(t, target(w, n, k, f), ones, GPTQOptions{})
	for r := range n {
		sum := 0.0
		for i := range k {
			sum += float64(w[r*k+i] - got[r*k+i])
		}
		require.Less(t, math.Abs(sum), 0.5, "all inputs are one: their errors cancel")
	}
}
