package quantize

import (
	"context"
	"fmt"
	"math"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// AWQ (Lin et al. 2023, arXiv:2306.00978): a weight whose input is large does more harm when it is rounded, so
// it is made larger, and its input smaller, before rounding; what comes out is the same. Scales are
//
//	s = a^α          a: mean magnitude of the input channel
//	s = a^α / b^(1-α)  b: mean magnitude of its weights, relative to the largest of their block
//
// with the α of either form, from 0 to 1, that makes the error of the product smallest. The second form also
// undoes outlier channels, whose weights are small because their inputs are large.
//
// The error is taken as Σ E[x²] (w' - w)², over the weights of all products that read the input: errors of
// rounding are as good as independent, so what is left out, products of two of them, is zero on average.

// Channels are statistics of an activation's channels over all calibration tokens.
type Channels struct {
	Mean   []float32 `json:"mean"`   // mean of |x|
	Square []float32 `json:"square"` // mean of x²
	Max    []float32 `json:"max"`    // largest |x|
}

// Statistics are the channels of activations, by the name that the graph gives them.
type Statistics map[string]*Channels

// Folded is one activation that has been rescaled.
type Folded struct {
	Activation string   `json:"activation"`
	Into       string   `json:"into"` // what takes the inverse: norm, values or product
	Tensors    []string `json:"tensors"`
	Alpha      float64  `json:"alpha"`
	Balanced   bool     `json:"balanced"` // the second form
	// Before and After are the estimated errors of the products, relative to their outputs.
	Before float64 `json:"before"`
	After  float64 `json:"after"`
}

const (
	alphaSteps = 20  // α is tried in steps of 1/20
	searchRows = 512 // of each weight, evenly spread, on which scales are tried
	// worthwhile is by how much an error must shrink: below that a scale is an accident of the rows.
	worthwhile = 0.99
)

// FoldAWQ rescales activations of m where the plan's targets then have less error, and puts the inverse
// into the norms and products that these come from: m computes the same function as before. The plan was
// made for m, has not been applied, and is not valid afterwards: make it anew.
//
// Statistics of activations that have been rescaled are changed along.
func FoldAWQ(ctx context.Context, m *ir.Model, p *Plan, stats Statistics) ([]Folded, error) {
	if m != p.model || p.applied {
		return nil, fmt.Errorf("quantize: the plan is not for this model as it is")
	}
	f := newFolder(p)
	var all []Folded
	for _, c := range f.folds() {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("quantize: %w", err)
		}
		s := stats[c.x.Name]
		if s == nil || !c.weights[0].method.Rescales() {
			continue
		}
		if len(s.Mean) != len(c.share) || len(s.Square) != len(c.share) {
			return nil, fmt.Errorf("quantize: statistics of %s have %d channels, want %d", c.x.Name, len(s.Mean), len(c.share))
		}
		found, scale, err := f.searchScale(c, s)
		if err != nil {
			return nil, err
		}
		if scale == nil {
			continue
		}
		f.scale(c, scale)
		for i, at := range c.share {
			s.Mean[i] /= scale[at]
			s.Square[i] /= scale[at] * scale[at]
			if i < len(s.Max) {
				s.Max[i] /= scale[at]
			}
		}
		all = append(all, found)
	}
	return all, f.commit()
}

// sampled is some rows of a weight.
type sampled struct {
	q    *rtn
	rows []float32 // [n, k]
}

// searchScale finds the scales of a fold; nil if none is worth it.
func (f *folder) searchScale(c fold, s *Channels) (Folded, []float32, error) {
	found := Folded{Activation: c.x.Name, Into: string(c.kind)}
	k := len(c.share)
	var samples []sampled
	for _, w := range c.weights {
		found.Tensors = append(found.Tensors, w.name)
		rows, err := sampleRows(w, searchRows)
		if err != nil {
			return found, nil, err
		}
		samples = append(samples, sampled{&rtn{w.format, w.scales}, rows})
	}
	inputs := shared(c, s.Mean)
	magnitudes := shared(c, relativeMagnitudes(samples, k))
	energy := 0.0
	for _, w := range samples {
		for i, v := range w.rows {
			energy += float64(v) * float64(v) * float64(s.Square[i%k])
		}
	}
	if energy == 0 {
		return found, nil, nil
	}
	type candidate struct {
		alpha    float64
		balanced bool
	}
	var candidates []candidate
	for i := range alphaSteps + 1 {
		a := float64(i) / alphaSteps
		candidates = append(candidates, candidate{a, false}, candidate{a, true})
	}
	losses := make([]float64, len(candidates))
	scales := make([][]float32, len(candidates))
	parallel(len(candidates), 1, func(i, _ int) {
		scales[i] = scaleOf(inputs, magnitudes, candidates[i].alpha, candidates[i].balanced)
		for _, w := range samples {
			losses[i] += w.loss(c.share, scales[i], s.Square)
		}
	})
	best := 0 // α = 0 of the first form: nothing changes
	for i, l := range losses {
		if l < losses[best] {
			best = i
		}
	}
	found.Alpha, found.Balanced = candidates[best].alpha, candidates[best].balanced
	found.Before, found.After = losses[0]/energy, losses[best]/energy
	if !(losses[best] < worthwhile*losses[0]) {
		return found, nil, nil
	}
	return found, scales[best], nil
}

// sampleRows reads rows of a weight, evenly spread, so many at most.
func sampleRows(w *weight, most int64) ([]float32, error) {
	n, k := w.n(), w.k()
	count := min(n, most)
	rows := make([]float32, count*k)
	for i := range count {
		r := i * n / count
		if err := w.rows.ReadFloat32(rows[i*k:][:k], r*k); err != nil {
			return nil, fmt.Errorf("quantize: read %s: %w", w.name, err)
		}
		for _, v := range rows[i*k:][:k] {
			if v-v != 0 {
				return nil, notFiniteRow(w.name, rows[i*k:][:k], r)
			}
		}
	}
	return rows, nil
}

// shared is the mean over the channels that share a scale.
func shared(c fold, v []float32) []float32 {
	sum, count := make([]float32, c.scales), make([]float32, c.scales)
	for i, at := range c.share {
		sum[at] += v[i]
		count[at]++
	}
	for i := range sum {
		sum[i] /= count[i]
	}
	return sum
}

// relativeMagnitudes is for each input the mean of |w| over the largest of its block.
func relativeMagnitudes(samples []sampled, k int) []float32 {
	mean := make([]float32, k)
	rows := 0
	for _, s := range samples {
		rows += len(s.rows) / k
		for at := 0; at < len(s.rows); at += k {
			row := s.rows[at : at+k]
			for b := 0; b < k; b += s.q.BlockSize {
				block := row[b:min(b+s.q.BlockSize, k)]
				largest := float32(0)
				for _, v := range block {
					largest = max(largest, float32(math.Abs(float64(v))))
				}
				if largest == 0 {
					continue
				}
				for i, v := range block {
					mean[b+i] += float32(math.Abs(float64(v))) / largest
				}
			}
		}
	}
	for i := range mean {
		mean[i] /= float32(rows)
	}
	return mean
}

// scaleOf gives the scales of one candidate, around 1.
func scaleOf(inputs, magnitudes []float32, alpha float64, balanced bool) []float32 {
	logs := make([]float64, len(inputs))
	lo, hi := math.Inf(1), math.Inf(-1)
	floorIn, floorMag := floor(inputs), floor(magnitudes)
	for i := range logs {
		logs[i] = alpha * math.Log2(max(float64(inputs[i]), floorIn))
		if balanced {
			logs[i] -= (1 - alpha) * math.Log2(max(float64(magnitudes[i]), floorMag))
		}
		lo, hi = min(lo, logs[i]), max(hi, logs[i])
	}
	s := make([]float32, len(logs))
	for i, l := range logs {
		s[i] = float32(math.Exp2(l - (lo+hi)/2))
	}
	return s
}

// floor is the size below which channels count as this large: they may be zero.
func floor(v []float32) float64 {
	largest := float32(0)
	for _, x := range v {
		largest = max(largest, x)
	}
	return max(float64(largest)*1e-5, math.SmallestNonzeroFloat32)
}

// loss is the error of the rows when they are rounded at a scale.
func (s sampled) loss(share []int, scale, square []float32) float64 {
	k := len(share)
	var buf [maxBlock]float32
	sum := 0.0
	for at := 0; at < len(s.rows); at += k {
		row := s.rows[at : at+k]
		for b := 0; b < k; b += s.q.BlockSize {
			block := row[b:min(b+s.q.BlockSize, k)]
			w := buf[:len(block)]
			l := extremes{math.MinInt32, 0}
			for i, v := range block {
				l.add(w, i, math.Float32bits(v*scale[share[b+i]]))
			}
			g, _ := s.q.grid(l, w[0])
			top, zero := float32(s.q.top()), float32(g.zero)
			for i, v := range w {
				x := min(max(float32(v*g.recip)+zero+0.5, 0), top)
				d := (v - (float32(int32(x))-zero)*g.scale) / scale[share[b+i]]
				sum += float64(d * d * square[b+i])
			}
		}
	}
	return sum
}
