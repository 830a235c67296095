package eval

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestExp(t *testing.T) {
	for x := -690.0; x < 10; x += 0.0617 {
		require.InEpsilon(t, math.Exp(x), exp(x), 1e-9, "%v", x)
	}
	require.Equal(t, 1.0, exp(0))
	require.Zero(t, exp(-701))
	require.Zero(t, exp(math.Inf(-1)))
	require.True(t, math.IsNaN(exp(math.NaN())))
}

func TestDistribution(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for _, size := range []int{1, 2, 7, 1000} { // odd sizes have a rest behind the pairs
		a, b := make([]float32, size), make([]float32, size)
		var sumA, sumB float64
		for i := range a {
			a[i], b[i] = 30*random.Float32(), 30*random.Float32()
			sumA += math.Exp(float64(a[i]))
			sumB += math.Exp(float64(b[i]))
		}
		var want float64
		for i := range a {
			p, q := math.Exp(float64(a[i]))/sumA, math.Exp(float64(b[i]))/sumB
			want += p * math.Log(p/q)
		}
		p, q := fromLogits(a), fromLogits(b)
		require.InDelta(t, want, divergence(&p, &q), 1e-8)
		require.InDelta(t, math.Log(sumA)-float64(a[size-1]), p.nll(int32(size-1)), 1e-8)
		require.Equal(t, argmax(a), p.top)
		require.InDelta(t, 0, divergence(&p, &p), 1e-12)
	}
}

func TestFinite(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, c := range []struct {
		why    string
		logits []float32
		want   bool
	}{
		{"logits", []float32{1, 2, 3}, true},
		{"far apart", []float32{-3e38, 3e38}, true},
		{"tokens ruled out", []float32{-inf, 0, -inf}, true},
		{"all ruled out", []float32{-inf, -inf}, false},
		{"NaN", []float32{1, nan, 2}, false},
		{"NaN first", []float32{nan, 1}, false},
		{"infinite", []float32{1, inf}, false},
	} {
		d := fromLogits(c.logits)
		require.Equal(t, c.want, d.finite(), c.why)
	}
}

// TestStatistics holds the formulas against figures worked out by hand.
func TestStatistics(t *testing.T) {
	mean, err := meanError([]float64{1, 2, 3, 6})
	require.InDelta(t, 3, mean, 1e-12)
	require.InDelta(t, math.Sqrt(3.5/3), err, 1e-12) // variance (4+1+0+9)/4
	mean, err = meanError([]float64{5})
	require.Equal(t, []float64{5, 0}, []float64{mean, err})

	r := summarize([]score{
		{nll: 1, referenceNLL: 2, kld: 0.5, deltaP: 0.1, sameTop: true},
		{nll: 3, referenceNLL: 2, kld: 0.1, deltaP: -0.3},
	}, true)
	require.InDelta(t, math.Exp(2), r.Perplexity, 1e-12)
	require.InDelta(t, math.Exp(2), r.Error, 1e-12) // the error of the mean is 1
	d := r.Divergence
	require.InDelta(t, 1, d.Ratio, 1e-12)
	require.InDelta(t, 0.3, d.KLD.Mean, 1e-12)
	require.InDelta(t, 0.3, d.KLD.Median, 1e-12)
	require.InDelta(t, 0.5, d.KLD.Max, 1e-12)
	require.InDelta(t, 0.5, d.Top1, 1e-12)
	require.InDelta(t, 0.5, d.Top1Error, 1e-12)
	require.InDelta(t, -0.1, d.DeltaP.Mean, 1e-12)
	require.InDelta(t, math.Sqrt(0.05), d.DeltaP.RMS, 1e-12)
}

func BenchmarkDivergence(b *testing.B) {
	const vocabulary = 151936 // Qwen3's
	random := rand.New(rand.NewPCG(7, 8))
	logits := make([]float32, vocabulary)
	for i := range logits {
		logits[i] = float32(3 * random.NormFloat64())
	}
	b.SetBytes(4 * vocabulary)
	p := fromLogits(logits)
	for b.Loop() {
		q := fromLogits(logits)
		divergence(&p, &q)
	}
}
