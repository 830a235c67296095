package quantize

import "math"

// noisePrecision is what the error of a product depends on.
type noisePrecision struct {
	integers Precision // DynamicInt8, StaticInt8, or "" for blocks
	levels   float64   // of integers: the largest
	format   Format    // of blocks
	rounded  bool      // of blocks: MatMulNBits rounds activations too, by block and token
}

func (p *Plan) noisePrecision(s site) noisePrecision {
	return noisePrecision{
		integers: s.w.asked, levels: float64(p.set.Int8.Weights.top()),
		format: s.w.format, rounded: s.level == 4,
	}
}

// noise is the expected squared error of a product's results, summed over the outputs, for one token.
type noise struct {
	noisePrecision
	energy  []float32   // mean squares of the input channels
	ranges  []Extremes  // of calls
	samples [][]float32 // outputs of the weights
	each    []float64   // how many outputs each of them stands for
	squares []float64   // sums over the outputs, by input channel
	largest []float64   // by input channel
}

func newNoise(g *group, energy []float32, ranges []Extremes, rows int64) (*noise, error) {
	k := g.k()
	e := &noise{noisePrecision: g.precision, energy: energy, ranges: ranges, squares: make([]float64, k), largest: make([]float64, k)}
	for _, w := range g.weights {
		some, err := sampleRows(w, rows)
		if err != nil {
			return nil, err
		}
		each := float64(w.n()*k) / float64(len(some))
		for at := 0; at < len(some); at += int(k) {
			row := some[at:][:k]
			e.samples, e.each = append(e.samples, row), append(e.each, each)
			for j, v := range row {
				v := math.Abs(float64(v))
				e.squares[j] += each * v * v
				e.largest[j] = max(e.largest[j], v)
			}
		}
	}
	return e, nil
}

func (e *noise) signal() float64 {
	sum := 0.0
	for j, q := range e.energy {
		sum += float64(q) * e.squares[j]
	}
	return sum
}

// of is the error with channels divided by s. A step of d has the mean squared error d²/12.
func (e *noise) of(s []float64) float64 {
	if e.integers != "" {
		return (e.step(s, 0, len(s))/(255*255)*e.through(s, 0, len(s)) + e.weights(s, 0, len(s), e.levels)) / 12
	}
	sum := 0.0
	for at := 0; at < len(s); at += e.format.BlockSize {
		to := min(at+e.format.BlockSize, len(s))
		sum += e.weights(s, at, to, float64(e.format.top())/2)
		if e.rounded { // to ±127
			sum += e.step(s, at, to) / (254 * 254) * e.through(s, at, to)
		}
	}
	return sum / 12
}

// step is the square of the range of channels from one on to another, the mean over the calls.
func (e *noise) step(s []float64, from, to int) float64 {
	sum := 0.0
	for _, b := range e.ranges {
		lo, hi := 0.0, 0.0
		for j := from; j < to; j++ {
			lo, hi = min(lo, float64(b.Min[j])/s[j]), max(hi, float64(b.Max[j])/s[j])
		}
		sum += (hi - lo) * (hi - lo)
	}
	return sum / float64(len(e.ranges))
}

// through is what a unit of error in channels from one on to another becomes in the outputs.
func (e *noise) through(s []float64, from, to int) float64 {
	sum := 0.0
	for j := from; j < to; j++ {
		sum += s[j] * s[j] * e.squares[j]
	}
	return sum
}

// weights is the error of weights with a scale for these channels of each output.
func (e *noise) weights(s []float64, from, to int, levels float64) float64 {
	energy, steps := 0.0, 0.0
	for j := from; j < to; j++ {
		energy += float64(e.energy[j]) / (s[j] * s[j])
	}
	factors := s[from:to]
	for i, row := range e.samples {
		largest := 0.0
		for j, v := range row[from:to] {
			largest = max(largest, math.Abs(float64(v))*factors[j])
		}
		steps += e.each[i] * largest * largest
	}
	return steps / (levels * levels) * energy
}
