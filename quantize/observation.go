package quantize

import (
	"fmt"
	"math"
	"slices"
)

// Observation is what calibration saw of a tensor of activations [..., K].
type Observation struct {
	Extremes              // of each channel
	MeanSquare []float32  // of each channel; tokens that are far louder than the rest are left out
	Batches    []Extremes // of each channel in the batches one by one
	// Tokens are some of the activations [T, K], evenly spread, for RangePercentile, RangeEntropy and
	// RangeMSE.
	Tokens []float32
}

// Extremes are the smallest and largest values of each channel.
type Extremes struct{ Min, Max []float32 }

// halves are the extremes of every other batch, together, and those of the rest, one by one. Factors that
// are found from one half and judged by the other are not those that fit only what they are found from.
// Of fewer than two batches both halves are all.
func (o *Observation) halves() (fit Extremes, judge []Extremes) {
	if len(o.Batches) < 2 {
		return o.Extremes, []Extremes{o.Extremes}
	}
	fit = newExtremes(len(o.Min))
	for i, b := range o.Batches {
		if i%2 == 1 {
			judge = append(judge, b)
		} else {
			fit.include(b)
		}
	}
	return fit, judge
}

// newExtremes are those of nothing.
func newExtremes(k int) Extremes {
	inf := float32(math.Inf(1))
	return Extremes{slices.Repeat([]float32{inf}, k), slices.Repeat([]float32{-inf}, k)}
}

func (e Extremes) include(other Extremes) {
	for j := range e.Min {
		e.Min[j], e.Max[j] = min(e.Min[j], other.Min[j]), max(e.Max[j], other.Max[j])
	}
}

// check refuses what is not for k channels, and what no finite activations give.
func (o *Observation) check(k int64) error {
	if int64(len(o.Min)) != k || int64(len(o.Max)) != k || int64(len(o.MeanSquare)) != k || int64(len(o.Tokens))%k != 0 {
		return fmt.Errorf("%d channels were seen, where there are %d", len(o.Max), k)
	}
	for j := range o.Max {
		if lo, hi, sq := o.Min[j], o.Max[j], o.MeanSquare[j]; lo-lo != 0 || hi-hi != 0 || sq-sq != 0 || lo > hi || sq < 0 {
			return fmt.Errorf("channel %d was seen from %v to %v with a mean square of %v: want finite numbers", j, lo, hi, sq)
		}
	}
	for i, b := range o.Batches {
		if int64(len(b.Min)) != k || int64(len(b.Max)) != k {
			return fmt.Errorf("%d channels were seen in batch %d, where there are %d", len(b.Max), i, k)
		}
		for j, lo := range b.Min {
			if hi := b.Max[j]; lo-lo != 0 || hi-hi != 0 || lo > hi {
				return fmt.Errorf("channel %d was seen from %v to %v in batch %d: want finite numbers", j, lo, hi, i)
			}
		}
	}
	for i, v := range o.Tokens {
		if v-v != 0 {
			return fmt.Errorf("channel %d was seen at %v: want finite numbers", int64(i)%k, v)
		}
	}
	return nil
}

// Observer sees activations batch by batch.
type Observer struct {
	k       int
	seen    Observation
	sums    []float64 // of squares, by channel
	counted int       // tokens in sums
	keep    int       // how many tokens are kept
	stride  int       // every stride-th token is
	next    int       // tokens until the next one that is
}

// NewObserver makes an observer of activations [..., k]. It keeps up to so many tokens.
func NewObserver(k, tokens int) *Observer {
	return &Observer{k: k, seen: Observation{Extremes: newExtremes(k)}, sums: make([]float64, k), keep: tokens, stride: 1}
}

// loud is how many times the median energy of a batch's tokens a token may have to count in the mean
// square. The first tokens of a text can be a thousand times as loud as all others (Sun et al., Massive
// Activations in Large Language Models, 2024): errors that are small beside them are not small.
const loud = 64

// Add takes a batch, [T, k].
func (o *Observer) Add(x []float32) error {
	if o.k == 0 || len(x)%o.k != 0 {
		return fmt.Errorf("quantize: %d activations are no rows of %d", len(x), o.k)
	}
	quiet := quietTokens(x, o.k)
	batch := newExtremes(o.k)
	const piece = 256 // channels; each is summed up in one order
	parallel(o.k, piece, func(lo, hi int) {
		low, high, sums := batch.Min[lo:hi], batch.Max[lo:hi], o.sums[lo:hi]
		for t, at := 0, lo; at < len(x); t, at = t+1, at+o.k {
			row := x[at:][:len(low)]
			for j, v := range row {
				low[j], high[j] = min(low[j], v), max(high[j], v) // NaN stays NaN
			}
			if quiet[t] {
				for j, v := range row {
					sums[j] += float64(v) * float64(v)
				}
			}
		}
	})
	for t, q := range quiet {
		if q {
			o.counted++
		}
		o.sample(x[t*o.k:][:o.k])
	}
	o.seen.include(batch)
	o.seen.Batches = append(o.seen.Batches, batch)
	return nil
}

// quietTokens says which rows are not far louder than the others.
func quietTokens(x []float32, k int) []bool {
	energies := make([]float32, len(x)/k)
	const piece = 64
	parallel(len(energies), piece, func(lo, hi int) {
		for t := lo; t < hi; t++ {
			var sums [4]float32 // additions side by side
			row := x[t*k:][:k]
			for j, v := range row {
				sums[j&3] += v * v
			}
			energies[t] = sums[0] + sums[1] + sums[2] + sums[3]
		}
	})
	sorted := slices.Sorted(slices.Values(energies))
	quiet := make([]bool, len(energies))
	for t, e := range energies {
		quiet[t] = !(e > loud*sorted[len(sorted)/2])
	}
	return quiet
}

// sample keeps a token now and then. When there is room for no more, every other one is dropped.
func (o *Observer) sample(row []float32) {
	if o.keep == 0 {
		return
	}
	if o.next > 0 {
		o.next--
		return
	}
	if len(o.seen.Tokens) >= o.keep*o.k {
		kept := o.seen.Tokens[:0]
		for at := 0; at < len(o.seen.Tokens); at += 2 * o.k {
			kept = append(kept, o.seen.Tokens[at:][:o.k]...)
		}
		o.seen.Tokens = kept
		o.stride *= 2
	}
	o.seen.Tokens = append(o.seen.Tokens, row...)
	o.next = o.stride - 1
}

// Observation is what has been seen. Nothing may be added after it.
func (o *Observer) Observation() *Observation {
	o.seen.MeanSquare = make([]float32, o.k)
	for j, s := range o.sums {
		o.seen.MeanSquare[j] = float32(s / float64(max(1, o.counted)))
	}
	return &o.seen
}
