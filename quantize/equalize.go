package quantize

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

const (
	// equalizeGain is what evening out by the weights alone must be worth, in decibels of a product: models
	// without outliers stay as they are, to the bit.
	equalizeGain = 3
	// equalizeRows is how many outputs of each weight stand for all: a gain of some decibels shows in few.
	equalizeRows = 64
)

// Equalize evens out channels as Smoother does, but reads no activations: how large they are is taken from
// what produces them, the weight of a norm, or the rows of the product before (after Nagel et al.,
// Data-Free Quantization, 2019). That finds outlier channels that weights make, and is done in no more
// time than it takes to read some of them. Of o, Off and what is about ranges do not count.
//
// Only what is expected to gain 3 decibels or more is changed, and reported.
func Equalize(ctx context.Context, m *ir.Model, o SmoothOptions) ([]Smoothing, error) {
	s, err := NewSmoother(m, o)
	if err != nil {
		return nil, err
	}
	s.rows = equalizeRows
	var changed []Smoothing
	for _, g := range s.groups {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("quantize: %w", err)
		}
		sizes, err := s.sizes(g)
		if err != nil {
			return nil, err
		}
		if !uneven(sizes) {
			continue
		}
		if err := s.search(g, guess(sizes)); err != nil {
			return nil, err
		}
		if g.result.After < g.result.Before+equalizeGain {
			g.factors = nil
			continue
		}
		changed = append(changed, g.result)
	}
	if len(changed) == 0 {
		return nil, nil
	}
	_, err = s.Fold()
	return changed, err
}

// uneven reports whether some channels are far larger than most: others have nothing to gain, and need not be searched.
func uneven(sizes []float64) bool {
	const outlier = 4
	sorted := slices.Sorted(slices.Values(sizes))
	return len(sizes) > 0 && sorted[len(sizes)-1] > outlier*sorted[len(sizes)/2]
}

// peak is how far activations go beyond their root mean square, as those of trained models do within some
// hundred tokens.
const peak = 6

// guess is what calibration would see of channels of these root mean squares.
func guess(sizes []float64) *Observation {
	o := &Observation{}
	for _, s := range sizes {
		o.Min, o.Max = append(o.Min, float32(-peak*s)), append(o.Max, float32(peak*s))
		o.MeanSquare = append(o.MeanSquare, float32(s*s))
	}
	return o
}

// sizes are the root mean squares of a group's channels, up to a factor of all; nil: nothing is known.
func (s *Smoother) sizes(g *group) ([]float64, error) {
	if !g.movable {
		return nil, nil
	}
	n := g.x.Producer()
	switch g.kind {
	case foldNorm:
		return normSizes(n, g.k())
	case foldValues:
		if n.Is("", "Slice") {
			n = n.Input(0).Producer()
		}
		some, err := s.productSizes(n.Input(2), g.scales)
		if err != nil || some == nil {
			return nil, err
		}
		return spread(g.fold, some), nil
	}
	for i := range 2 { // the product that one of the factors is
		if some, err := s.productSizes(n.Input(i), g.scales); err != nil || some != nil {
			return some, err
		}
	}
	return nil, nil
}

// normSizes are those of what a norm gives, by its weight.
func normSizes(n *ir.Node, k int64) ([]float64, error) {
	for _, v := range n.Inputs() {
		t := v.Constant()
		if t == nil || t.Len() != k || !t.DType.Float() {
			continue
		}
		w, err := t.Float32s()
		if err != nil {
			return nil, fmt.Errorf("quantize: %s: %w", v.Name, err)
		}
		sizes := make([]float64, k)
		for j, x := range w {
			sizes[j] = math.Abs(float64(x))
		}
		return sizes, nil
	}
	return nil, nil
}

// productSizes are those of v, k outputs of a product whose input comes from a norm; nil if v is none.
func (s *Smoother) productSizes(v *ir.Value, k int) ([]float64, error) {
	w, first, ok := s.folder.outputs(v, k)
	if !ok {
		return nil, nil
	}
	inputs := ones(int(w.k()))
	for _, g := range s.groups {
		if slices.Contains(g.weights, w) && g.kind == foldNorm {
			sizes, err := normSizes(g.x.Producer(), g.k())
			if err != nil {
				return nil, err
			}
			for j, x := range sizes {
				inputs[j] = float32(x)
			}
		}
	}
	sizes := make([]float64, k)
	const piece = 64 // rows
	faults := make([]error, k)
	parallel(k, piece, func(lo, hi int) {
		rows := make([]float32, (hi-lo)*len(inputs))
		if err := w.rows.ReadFloat32(rows, int64(first+lo)*w.k()); err != nil {
			faults[lo] = fmt.Errorf("quantize: read %s: %w", w.name, err)
			return
		}
		for i := lo; i < hi; i++ {
			row := rows[(i-lo)*len(inputs):][:len(inputs)]
			sum := float32(0)
			for j, x := range row {
				x *= inputs[j]
				sum += x * x
			}
			if sizes[i] = math.Sqrt(float64(sum)); sum-sum != 0 {
				faults[i] = notFiniteRow(w.name, row, int64(first+i))
			}
		}
	})
	if i := slices.IndexFunc(faults, func(err error) bool { return err != nil }); i >= 0 {
		return nil, faults[i]
	}
	return sizes, nil
}
