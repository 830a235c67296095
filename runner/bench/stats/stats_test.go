package stats

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSummarize(t *testing.T) {
	s := Summarize([]float64{5, 1, 2, 4, 3, 60}, 0.95)
	require.Equal(t, 6, s.N)
	require.InDelta(t, 12.5, s.Mean, 1e-12)
	require.InDelta(t, 23.3131, s.Dev, 1e-4)
	require.Equal(t, []float64{3.5, 1, 60}, []float64{s.Median, s.Lo, s.Hi}, "six values: from the least to the largest")

	few := Summarize([]float64{7}, 0.95)
	require.Equal(t, []float64{7, 0, 7}, []float64{few.Mean, few.Dev, few.Median})
	require.True(t, math.IsInf(few.Lo, -1) && math.IsInf(few.Hi, 1), "no interval")

	require.Equal(t, 2.5, Quantile([]float64{4, 1, 3, 2}, 0.5))
	values := []float64{40, 0, 30, 10, 20}
	require.Equal(t, []float64{0, 20, 36, 40},
		[]float64{Quantile(values, 0), Quantile(values, 0.5), Quantile(values, 0.9), Quantile(values, 1)})
	require.InDelta(t, 1, GeometricMean([]float64{2, 0.5}), 1e-12)
	require.Equal(t, 1.0, GeometricMean(nil))
}

func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		why    string
		lo, hi float64
		want   Verdict
	}{
		{"1 is outside", 1.02, 1.3, Faster},
		{"and on the other side", 0.5, 0.97, Slower},
		{"sure, but too little to matter", 1.001, 1.009, Same},
		{"around 1", 0.995, 1.005, Same},
		{"the margin is a ratio: a hundredth slower", 1 / 1.01, 1, Same},
		{"too wide", 0.9, 1.1, Unsure},
		{"no interval", 0, math.Inf(1), Unsure},
	} {
		require.Equal(t, c.want, Ratio{Center: 1, Lo: c.lo, Hi: c.hi}.Verdict(0.01), c.why)
	}
}

// TestUnpaired has a case that can be counted by hand.
func TestUnpaired(t *testing.T) {
	a := []float64{1.1, 1.2, 1.3, 1.4, 1.5}
	b := []float64{1.0, 1.01, 1.02, 1.03, 1.04}
	r := Unpaired(a, b, 0.95)
	require.InDelta(t, 1.3/1.02, r.Center, 1e-12)
	// Of 25 ratios the critical value 2 of U for 5 and 5 at 95 % leaves out 2 on either side.
	require.InDelta(t, 1.1/1.02, r.Lo, 1e-12)
	require.InDelta(t, 1.5/1.02, r.Hi, 1e-12)
	require.InDelta(t, 0.0079365, r.P, 1e-6)
	require.Equal(t, Faster, r.Verdict(0.01))

	few := Unpaired(a[:2], b[:2], 0.95)
	require.Equal(t, Unsure, few.Verdict(0.01), "two of each say nothing")
	require.True(t, few.Lo == 0 && math.IsInf(few.Hi, 1))
	text, err := json.Marshal(few)
	require.NoError(t, err)
	require.Contains(t, string(text), `"lo":0,"hi":null`)

	require.Equal(t, 1.0, Unpaired([]float64{3}, []float64{3}, 0.95).Center)
}

// TestRefused has values of tables of the Mann-Whitney test, and the approximation near its limit.
func TestRefused(t *testing.T) {
	for _, c := range []struct{ n, m, critical int }{{5, 5, 2}, {8, 8, 13}, {10, 7, 14}, {20, 20, 127}} {
		require.Equal(t, c.critical, refused(c.n, c.m, 0.025), "%d and %d", c.n, c.m)
	}
	require.Equal(t, -1, refused(3, 3, 0.025))
	require.InDelta(t, refused(50, 50, 0.025), refused(51, 50, 0.025), 30)
}

func TestPaired(t *testing.T) {
	a, b := make([]float64, 40), make([]float64, 40)
	for i := range a {
		load := 1 + float64(i%7) // of the machine, on both
		a[i], b[i] = load*1.1, load
	}
	r := Paired(a, b, 0.99)
	require.InDelta(t, 1.1, r.Center, 1e-12)
	require.InDelta(t, 1.1, r.Lo, 1e-12)
	require.InDelta(t, 1.1, r.Hi, 1e-12)
	require.Equal(t, 40, r.N)
	require.Equal(t, Unsure, Paired(a[:2], b[:2], 0.99).Verdict(0.01))
	require.InDelta(t, 1.1, a[0], 1e-12, "the order of the pairs stays")
}

// TestSeries holds that looking again and again is seldom wrong: of 200 series of equal sides, whose noise has
// a long tail and whose rounds have a bias of their own, at most the promised 1 % show a difference at any look.
func TestSeries(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	wrong, looks := 0, 0
	for range 200 {
		s := Series{Confidence: 0.99}
		for range 100 {
			if s.Add(round(random, 1)) && s.Ratio().Verdict(0) != Unsure {
				wrong++
				break
			}
		}
		looks += s.looks
	}
	require.LessOrEqual(t, wrong, 2)
	require.Greater(t, looks, 200*8, "they were looked at")

	s := Series{}
	for range firstLook - 1 {
		require.False(t, s.Add([]float64{1}, []float64{1}))
	}
	require.True(t, s.Add([]float64{3, 9, 4}, []float64{2, 1, 2}))
	require.Equal(t, []float64{1, 1.75 * 2}, []float64{s.A[0], s.A[firstLook-1]}, "the median of the quieter two")
	require.False(t, math.IsInf(s.Ratio().Hi, 1), "the first look has an interval")

	spent := 0.0
	for k := 1; k <= 100_000; k++ {
		spent += 1 - Look(0.99, k)
	}
	require.InDelta(t, 0.01, spent, 1e-6)

	a, b := quieter([]float64{1, 9, 2, 1, 5}, []float64{4, 9, 1, 2, 5})
	require.Equal(t, []float64{2, 1, 1}, a, "of equals the first")
	require.Equal(t, []float64{1, 2, 4}, b)
}

// round makes up a round of 20 slices in which B takes as long as A, divided by speed.
func round(random *rand.Rand, speed float64) (a, b []float64) {
	noise := func() float64 { return 1 + 0.05*random.ExpFloat64()*random.ExpFloat64() }
	bias := math.Exp(0.02 * random.NormFloat64())
	for range 20 {
		a, b = append(a, noise()), append(b, noise()*bias/speed)
	}
	return a, b
}
