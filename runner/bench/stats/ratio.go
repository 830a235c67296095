package stats

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"

	moremath "github.com/aclements/go-moremath/stats"
	"golang.org/x/perf/benchmath"
)

// Ratio says how much faster B is than A: 1.1 does in 10 s what takes A 11 s.
type Ratio struct {
	Center     float64
	Lo, Hi     float64 // 0 and +Inf where there are too few values for an interval
	Confidence float64 // that Lo and Hi were asked for
	P          float64 // of the Mann-Whitney test that A and B are the same
	N          int     // values of the smaller sample
}

// MarshalJSON writes null for a bound that is not finite.
func (r Ratio) MarshalJSON() ([]byte, error) {
	var hi *float64
	if !math.IsInf(r.Hi, 0) {
		hi = &r.Hi
	}
	return json.Marshal(struct {
		Ratio      float64  `json:"ratio"`
		Lo         float64  `json:"lo"`
		Hi         *float64 `json:"hi"`
		Confidence float64  `json:"confidence"`
		P          float64  `json:"p"`
		N          int      `json:"n"`
	}{r.Center, r.Lo, hi, r.Confidence, r.P, r.N})
}

// Verdict puts a ratio in a word.
type Verdict string

// The verdicts.
const (
	Faster Verdict = "faster"
	Slower Verdict = "slower"
	Same   Verdict = "same"   // the whole interval is within the margin
	Unsure Verdict = "unsure" // the interval has both 1 and more than the margin
)

// Verdict compares the interval with 1. Differences within the margin, 0.01 for 1 %, do not count.
func (r Ratio) Verdict(margin float64) Verdict {
	switch {
	case r.Lo >= 1/(1+margin) && r.Hi <= 1+margin:
		return Same
	case r.Lo > 1:
		return Faster
	case r.Hi < 1:
		return Slower
	}
	return Unsure
}

// Spread is half the width of the interval, relative to the center.
func (r Ratio) Spread() float64 { return (r.Hi - r.Lo) / 2 / r.Center }

func (r Ratio) String() string {
	return fmt.Sprintf("%.3fx (%.3f–%.3f)", r.Center, r.Lo, r.Hi)
}

// Paired compares times of which a[i] and b[i] were measured next to each other, so that the noise of the
// machine met both: the ratio is the median of the pairs' own, its interval that of the sign test. Both
// have the same length, 1 or more.
func Paired(a, b []float64, confidence float64) Ratio {
	ratios := make([]float64, len(a))
	for i := range a {
		ratios[i] = a[i] / b[i]
	}
	s := benchmath.AssumeNothing.Summary(sample(ratios), confidence)
	return Ratio{s.Center, math.Max(s.Lo, 0), s.Hi, confidence, pValue(a, b), len(a)}
}

// Unpaired compares times that were measured apart, one or more of each: the ratio is the median of all
// a[i]/b[j] (Hodges and Lehmann's estimate of a shift, of logarithms), the interval holds the ratios that
// the Mann-Whitney test does not refuse.
func Unpaired(a, b []float64, confidence float64) Ratio {
	ratios := make([]float64, 0, len(a)*len(b))
	for _, x := range a {
		for _, y := range b {
			ratios = append(ratios, x/y)
		}
	}
	slices.Sort(ratios)
	r := Ratio{Median(ratios), 0, math.Inf(1), confidence, pValue(a, b), min(len(a), len(b))}
	if k := refused(len(a), len(b), (1-confidence)/2); k >= 0 {
		r.Lo, r.Hi = ratios[k], ratios[len(ratios)-1-k]
	}
	return r
}

// exactLimit is the largest sample for which the distribution of U is counted out, as in benchmath.
const exactLimit = 50

// refused is the number of the smallest products of two samples that lie outside an interval with alpha on
// either side: P(U < k) <= alpha. It is -1 where there is no such interval.
func refused(n, m int, alpha float64) int {
	if n > exactLimit || m > exactLimit {
		mean, dev := float64(n*m)/2, math.Sqrt(float64(n*m)*float64(n+m+1)/12)
		return int(math.Floor(mean - dev*math.Sqrt2*math.Erfinv(1-2*alpha)))
	}
	u := moremath.UDist{N1: n, N2: m}
	k := 0
	for u.CDF(float64(k)) <= alpha {
		k++
	}
	return k - 1
}

func pValue(a, b []float64) float64 {
	return benchmath.AssumeNothing.Compare(sample(a), sample(b)).P
}
