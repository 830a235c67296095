package quantize

import "math"

// RangeMethod is how the range of activations with one scale is found. 0 is in every range.
type RangeMethod string

// The methods. All but the first give up rare large values for a finer step.
const (
	RangeMinMax     RangeMethod = "minmax"     // all values that were seen
	RangeAverage    RangeMethod = "average"    // ends of the batches, averaged; later batches count more
	RangePercentile RangeMethod = "percentile" // all but one value in 100,000
	// RangeEntropy has the smallest Kullback-Leibler divergence between the distributions of the values
	// and of what they are rounded to (Migacz, 8-bit inference with TensorRT, 2017).
	RangeEntropy RangeMethod = "entropy"
	RangeMSE     RangeMethod = "mse" // the smallest mean squared error
)

// RangeMethods lists what ParseRangeMethod takes.
func RangeMethods() []RangeMethod {
	return []RangeMethod{RangeMinMax, RangeAverage, RangePercentile, RangeEntropy, RangeMSE}
}

// ParseRangeMethod reads a method as a user writes it.
func ParseRangeMethod(s string) (RangeMethod, error) {
	return exported(parse("range", s, RangeMethods()))
}

// wantsTokens reports whether the method looks at values rather than at extremes.
func (m RangeMethod) wantsTokens() bool { return m != RangeMinMax && m != RangeAverage }

// activation is the form of the activations, with channels divided by s; nil is all ones.
func (o *Observation) activation(m RangeMethod, symmetric bool, s []float32) Activation {
	lo, hi := o.extent(s)
	switch {
	case m == RangeAverage && len(o.Batches) > 0:
		lo, hi = o.average(s)
	case m.wantsTokens() && len(o.Tokens) > 0 && hi > lo:
		lo, hi = o.histogram(lo, hi, s).clip(m)
	}
	return newActivation(lo, hi, symmetric)
}

// extent is the range of all channels divided by s, 0 included.
func (e Extremes) extent(s []float32) (lo, hi float64) {
	for j := range e.Min {
		f := 1.0
		if s != nil {
			f = 1 / float64(s[j])
		}
		lo, hi = min(lo, float64(e.Min[j])*f), max(hi, float64(e.Max[j])*f)
	}
	return lo, hi
}

// newActivation is the form for a range with 0 in it. Where nothing but zeros was seen the step is 1.
func newActivation(lo, hi float64, symmetric bool) Activation {
	a := Activation{Scale: float32((hi - lo) / 255)}
	if symmetric {
		a = Activation{Scale: float32(max(hi, -lo) / 127), Zero: 128}
	}
	if !(a.Scale > 0) {
		a.Scale = 1
	}
	if !symmetric {
		a.Zero = uint8(min(max(math.RoundToEven(-lo/float64(a.Scale)), 0), 255))
	}
	return a
}

// newest is the weight of the newest batch in RangeAverage.
const newest = 0.1

func (o *Observation) average(s []float32) (lo, hi float64) {
	for i, b := range o.Batches {
		l, h := b.extent(s)
		if i == 0 {
			lo, hi = l, h
		}
		lo += newest * (l - lo)
		hi += newest * (h - hi)
	}
	return lo, hi
}

// histogram counts values in bins of equal width, from lo on.
type histogram struct {
	lo, width float64
	counts    []float64
	total     float64
}

// histogramBins is a multiple of 256, so that an unclipped range has whole bins in each level.
const histogramBins = 2048

func (o *Observation) histogram(lo, hi float64, s []float32) *histogram {
	h := &histogram{lo: lo, width: (hi - lo) / histogramBins, counts: make([]float64, histogramBins)}
	k := len(o.Max)
	factors := make([]float64, k)
	for j := range factors {
		factors[j] = 1 / h.width
		if s != nil {
			factors[j] /= float64(s[j])
		}
	}
	for at := 0; at+k <= len(o.Tokens); at += k {
		for j, v := range o.Tokens[at:][:k] {
			h.counts[h.clamp(float64(v)*factors[j]-lo/h.width)]++
		}
	}
	h.total = float64(len(o.Tokens))
	return h
}

func (h *histogram) clamp(bin float64) int { return int(min(max(bin, 0), float64(len(h.counts)-1))) }

// center is the middle of bin i.
func (h *histogram) center(i int) float64 { return h.lo + (float64(i)+0.5)*h.width }

// clip is the range that the method chooses. Both ends are chosen by turns, each from fractions of its
// own extreme.
func (h *histogram) clip(m RangeMethod) (lo, hi float64) {
	cost := h.squares
	switch m {
	case RangePercentile:
		return h.percentile()
	case RangeEntropy:
		cost = h.divergence
	}
	const steps, turns = 64, 2
	lo, hi = h.lo, h.lo+h.width*float64(len(h.counts))
	low, high, best := lo, hi, cost(lo, hi)
	for range turns {
		for _, end := range []struct {
			at   *float64
			full float64
		}{{&lo, low}, {&hi, high}} {
			chosen := *end.at
			for i := 1; i <= steps && end.full != 0; i++ {
				*end.at = end.full * float64(i) / steps
				if c := cost(lo, hi); c < best {
					best, chosen = c, *end.at
				}
			}
			*end.at = chosen
		}
	}
	return lo, hi
}

// rare is the share of values beyond the ends of RangePercentile.
const rare = 1e-5

func (h *histogram) percentile() (lo, hi float64) {
	limit := rare * h.total / 2
	first, last := 0, len(h.counts)-1
	for sum := h.counts[first]; sum <= limit && first < last; sum += h.counts[first] {
		first++
	}
	for sum := h.counts[last]; sum <= limit && last > first; sum += h.counts[last] {
		last--
	}
	return min(0, h.lo+float64(first)*h.width), max(0, h.lo+float64(last+1)*h.width)
}

// squares is the squared error of a range: that of values evenly spread over a step within, the distance
// to the end beyond.
func (h *histogram) squares(lo, hi float64) float64 {
	step := (hi - lo) / 255
	sum := 0.0
	for i, n := range h.counts {
		if n == 0 {
			continue
		}
		d := max(lo-h.center(i), h.center(i)-hi, 0)
		if d == 0 {
			d = step / math.Sqrt(12)
		}
		sum += n * d * d
	}
	return sum
}

// divergence is the Kullback-Leibler divergence from the distribution of the clipped values to that of
// their levels, each level spread over the bins that it stands for and that are not empty.
func (h *histogram) divergence(lo, hi float64) float64 {
	step := (hi - lo) / 255
	if step <= 0 {
		return math.Inf(1)
	}
	first, last := h.clamp((lo-h.lo)/h.width), h.clamp((hi-h.lo)/h.width)
	var mass, bins [256]float64
	inside := 0.0
	levels := make([]int, len(h.counts))
	clipped := make([]float64, len(h.counts))
	for i, n := range h.counts {
		clipped[min(max(i, first), last)] += n
		if n == 0 || i < first || i > last { // what is cut off is in no level: that is the price
			continue
		}
		levels[i] = int(min(max(math.Round((h.center(i)-lo)/step), 0), 255))
		mass[levels[i]] += n
		bins[levels[i]]++
		inside += n
	}
	if inside == 0 {
		return math.Inf(1)
	}
	sum := 0.0
	for i := first; i <= last; i++ {
		p := clipped[i] / h.total
		if p == 0 {
			continue
		}
		q := 1e-12 // of a bin that has nothing but what was cut off
		if h.counts[i] > 0 {
			q = mass[levels[i]] / bins[levels[i]] / inside
		}
		sum += p * math.Log(p/q)
	}
	return sum
}
