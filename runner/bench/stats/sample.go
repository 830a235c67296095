package stats

import (
	"math"
	"slices"

	"golang.org/x/perf/benchmath"
)

// Summary describes a sample.
type Summary struct {
	N      int
	Mean   float64
	Dev    float64 // standard deviation of the sample, divided by N-1; 0 for one value
	Median float64
	// Lo and Hi are the interval of the median at the confidence that was asked for, infinite where there
	// are too few values for one: 95 % need six.
	Lo, Hi float64
}

// Summarize describes values, of which there is at least one.
func Summarize(values []float64, confidence float64) Summary {
	s := Summary{N: len(values)}
	for _, v := range values {
		s.Mean += v / float64(s.N)
	}
	if s.N > 1 {
		for _, v := range values {
			s.Dev += (v - s.Mean) * (v - s.Mean)
		}
		s.Dev = math.Sqrt(s.Dev / float64(s.N-1))
	}
	m := benchmath.AssumeNothing.Summary(sample(values), confidence)
	s.Median, s.Lo, s.Hi = m.Center, m.Lo, m.Hi
	return s
}

// Median is the middle of values, of which there is at least one.
func Median(values []float64) float64 { return Quantile(values, 0.5) }

// Quantile is the value below which a share q of the values lies, interpolated linearly between two.
func Quantile(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	i := int(at)
	next := min(i+1, len(sorted)-1)
	part := at - float64(i)
	return (1-part)*sorted[i] + part*sorted[next]
}

// GeometricMean is the mean for ratios: a line twice as fast and one half as fast make 1. It is 1 for
// none.
func GeometricMean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += math.Log(v)
	}
	if len(values) == 0 {
		return 1
	}
	return math.Exp(sum / float64(len(values)))
}

// sample leaves values in their order: benchmath sorts what it is given.
func sample(values []float64) *benchmath.Sample {
	return benchmath.NewSample(slices.Clone(values), &benchmath.DefaultThresholds)
}
