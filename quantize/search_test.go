package quantize

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// searched is round-to-nearest on the grids with the smallest error.
func searched(f Format) form { return form{RTN, ScaleMSE, f} }

// misfit is the mean squared error of a weight in a form, over its mean square.
func misfit(t *testing.T, source *ir.Tensor, f form, scale ir.DType) float64 {
	t.Helper()
	p := newProducer("w", source, f, scale)
	rounded, err := p.rounded()
	require.NoError(t, err)
	got, err := rounded.Float32s()
	require.NoError(t, err)
	want, err := source.Float32s()
	require.NoError(t, err)
	var signal, sum float64
	for i, v := range want {
		d := float64(v) - float64(got[i])
		require.False(t, math.IsNaN(d) || math.IsInf(d, 0), "%v: weight %d of %g became %g", f, i, v, got[i])
		signal += float64(v) * float64(v)
		sum += d * d
	}
	if signal == 0 {
		return sum
	}
	return sum / signal
}

// On weights like a trained model's, the search takes away what it is there for, in every format and type.
func TestSearchReducesTheError(t *testing.T) {
	const n, k = 40, 600 // 600: for no block size is the last block full
	for _, source := range []ir.DType{ir.Float32, ir.BFloat16} {
		w := as(t, source, normal(21, n*k), n, k)
		for _, scale := range []ir.DType{ir.Float32, ir.Float16, ir.BFloat16} {
			for _, f := range formats() {
				span, best := misfit(t, w, spanning(f), scale), misfit(t, w, searched(f), scale)
				limit := 0.93
				if f.Bits == 8 {
					limit = 1 // there is less to gain, and scales in bfloat16 cost more than that
				}
				require.Less(t, best, limit*span*1.0001, "%v of %v, scales %v", f, source, scale)
			}
		}
	}
}

// The error of INT4 in blocks of 32 with zero points is to be what an exhaustive search reaches, within 1.5 %.
func TestSearchIsCloseToExhaustive(t *testing.T) {
	for _, symmetric := range []bool{true, false} {
		q := rtn{Format{4, 32, symmetric}, ir.Float32}
		v := normal(22, 200*32)
		var sum, least float64
		for ; len(v) > 0; v = v[32:] {
			w := v[:32]
			l := extremesOf(w)
			span, ok := q.grid(l, w[0])
			require.True(t, ok)
			sum += squaredError(&q, w, q.search(w, l, span))
			best := math.Inf(1)
			for _, sign := range []float32{1, -1} {
				for f := float32(0.6); f < 1.3; f += 0.01 {
					for zero := range q.top() + 1 {
						if symmetric && zero != q.middle() || !symmetric && sign < 0 {
							continue
						}
						g, _ := q.finish(sign*span.scale*f, zero)
						best = min(best, squaredError(&q, w, g))
					}
				}
			}
			least += best
		}
		require.Less(t, sum, 1.015*least, "symmetric %v", symmetric)
	}
}

func extremesOf(w []float32) extremes {
	l := extremes{math.MinInt32, 0}
	for i, v := range w {
		l.add(w, i, math.Float32bits(v))
	}
	return l
}

func squaredError(q *rtn, w []float32, g grid) (sum float64) {
	for _, v := range w {
		d := float64(v) - float64(float32(int32(q.level(g, v))-g.zero)*g.scale)
		sum += d * d
	}
	return sum
}

// The vector kernels must give what Go gives, for any length and number of trials that they take, and where weights are cut
// off.
func TestSumsAreTheSameEverywhere(t *testing.T) {
	for _, n := range []int{8, 16, 40, 256} {
		w, counts := normal(uint64(n), n), normal(uint64(n+1), n)
		w[n/2] = 0
		var a trials
		for i := range maxTrials {
			a.add(float32(i-7)*37, float32(-8+i%3), float32(7-i%2))
			b := a
			a.run(w)
			b.runPortable(w)
			requireSameSums(t, &b, &a)
			a.runWeighted(w, counts)
			b.runWeightedPortable(w, counts)
			requireSameSums(t, &b, &a)
		}
	}
}

func requireSameSums(t *testing.T, want, got *trials) {
	t.Helper()
	require.Equal(t, want.qw, got.qw)
	require.Equal(t, want.qq, got.qq)
	require.Equal(t, want.at, got.at)
	require.Equal(t, want.most, got.most)
}

// Trials whose sums overflow, and those without a level, explain nothing.
func TestTrialsThatExplainNothing(t *testing.T) {
	huge, small := make([]float32, 16), make([]float32, 16)
	for i := range huge {
		huge[i], small[i] = 1e38, 1e-3
	}
	for why, w := range map[string][]float32{"overflow": huge, "no level": small} {
		for _, run := range []func(*trials, []float32){(*trials).run, (*trials).runPortable} {
			var a trials
			a.add(1e-36, -8, 7)
			if why == "no level" {
				a.recip[0] = 1
			}
			run(&a, w)
			require.Zero(t, a.most, why)
			a.add(1000, -8, 7)
			run(&a, small)
			require.Equal(t, 1, a.at, why)
		}
	}
}

func TestPackedLevelsAreTheSameEverywhere(t *testing.T) {
	w := normal(31, 256)
	w[3], w[4], w[100] = 1e6, -1e6, 0
	for _, n := range []int{16, 32, 64, 256} {
		for _, g := range []grid{{recip: 3, zero: 8}, {recip: -0.1, zero: 8}, {recip: 40}, {recip: 2, zero: 15}} {
			a, b := make([]byte, n/2), make([]byte, n/2)
			pack4Cut(a, w[:n], g.recip, g.bias())
			pack4CutPortable(b, w[:n], g.recip, g.bias())
			require.Equal(t, b, a, "%d weights, %+v", n, g)
		}
	}
}

// What a search meets that a quotient of sums cannot take: it must then leave the grid that spans the block, or one as good.
func TestSolversOnHostileBlocks(t *testing.T) {
	huge, tiny := float32(1.5e38), float32(1e-44)
	for why, fill := range map[string]func(i int) float32{
		"nothing but 0":                    func(int) float32 { return 0 },
		"one weight":                       func(i int) float32 { return float32(1 - min(i, 1)) },
		"one sign":                         func(i int) float32 { return float32(i + 1) },
		"the other sign":                   func(i int) float32 { return -float32(i + 1) },
		"all the same":                     func(int) float32 { return 0.25 },
		"squares that overflow":            func(i int) float32 { return huge * float32(i%3-1) },
		"subnormal":                        func(i int) float32 { return tiny * float32(i) },
		"squares that vanish":              func(i int) float32 { return 1e-30 * float32(i-9) },
		"an outlier a million times above": func(i int) float32 { return []float32{1e-3, 1e3}[min(1, i%29/28)] },
	} {
		v := make([]float32, 64)
		for i := range v {
			v[i] = fill(i)
		}
		w := ir.Float32Tensor(v, 1, 64)
		for _, f := range formats() {
			for _, method := range []form{{RTN, ScaleMSE, f}, {HQQ, "", f}} {
				span := misfit(t, w, spanning(f), ir.Float32)
				limit := 1.0001*span + 1e-12
				if method.method == HQQ {
					limit = 4*span + 1e-12 // another norm
				}
				require.LessOrEqual(t, misfit(t, w, method, ir.Float32), limit, "%s: %v", why, method)
			}
		}
	}
}

// norm07 is the norm that HQQ minimises.
func norm07(q *rtn, w []float32, g grid) (sum float64) {
	for _, v := range w {
		sum += math.Pow(math.Abs(float64(v)-float64(float32(int32(q.level(g, v))-g.zero)*g.scale)), hqqNorm)
	}
	return sum
}

func TestHalfQuadraticReducesItsNorm(t *testing.T) {
	for _, f := range formats() {
		q := rtn{f, ir.Float32}
		var before, after float64
		for v := normal(23, 100*f.BlockSize); len(v) > 0; v = v[f.BlockSize:] {
			w := v[:f.BlockSize]
			l := extremesOf(w)
			span, _ := q.grid(l, w[0])
			g := q.halfQuadratic(w, l, span)
			before += norm07(&q, w, span)
			after += norm07(&q, w, g)
			if f.Symmetric {
				require.Equal(t, q.middle(), g.zero)
			}
		}
		require.Less(t, after, 0.995*before, "%v", f)
	}
}

func TestPowerIsNearlyRight(t *testing.T) {
	for _, p := range []float32{hqqNorm, hqqNorm - 1} {
		for x := float32(1e-6); x < 1e3; x *= 1.37 {
			require.InEpsilon(t, math.Pow(float64(x), float64(p)), power(x, p), 0.08, fmt.Sprint(x, p))
		}
	}
	require.False(t, math.IsNaN(float64(power(0, hqqNorm-1))))
}
