package quantize

import "math"

// blockGrid is the weighted grid of a block of any weights. ok is false for blocks that have no grid: they hold
// what is not finite, or are wider than float32.
func (q *rtn) blockGrid(w, counts []float32) (g grid, ok bool) {
	l := extremes{math.MinInt32, 0}
	for i := range w {
		l.add(w, i, math.Float32bits(w[i]))
	}
	if !l.finite() {
		return grid{}, false
	}
	span, ok := q.grid(l, w[0])
	return q.weighted(w, counts, l, span), ok
}

// weighted is search where errors do not count the same: it finds the grid with the least Σ count · (w - value)²,
// or nearly so. Counts should be around 1, as their squares are formed.
func (q *rtn) weighted(w, counts []float32, l extremes, span grid) grid {
	if !span.fast || span.scale == 0 {
		return span
	}
	var t trials
	if q.Symmetric {
		t.symmetric(span, wideSpans, float32(q.middle()))
	} else {
		t.asymmetric(span, wideSpans, float32(q.top()), l)
	}
	t.runWeighted(w, counts)
	if t.most == 0 {
		return span
	}
	near := q.around(&t)
	near.runWeighted(w, counts)
	return near.best(q, t.best(q, span))
}

// wideSpans are tried first, as parts of the reciprocal of the scale that spans the block: where its large weights
// count for little, half of the range may be cut off. neighbours are then tried around the best of them, and,
// of grids with zero points, those that lie a level lower or higher.
var (
	wideSpans  = []float32{0.96, 1.04, 1.14, 1.25, 1.38, 1.54, 1.74, 2}
	neighbours = []float32{0.95, 0.975, 1, 1.025, 1.05}
)

// around are trials near the one that explains most.
func (q *rtn) around(t *trials) trials {
	recip, lo, hi := t.recip[t.at], t.lo[t.at], t.hi[t.at]
	var near trials
	for _, f := range neighbours {
		near.add(recip*f, lo, hi)
		if q.Symmetric {
			continue
		}
		if lo < 0 {
			near.add(recip*f, lo+1, hi+1)
		}
		if hi > 0 {
			near.add(recip*f, lo-1, hi-1)
		}
	}
	return near
}

// normalised divides weights of errors by their mean.
func normalised(counts []float32) []float32 {
	mean := 0.0
	for _, c := range counts {
		mean += float64(c) / float64(len(counts))
	}
	out := make([]float32, len(counts))
	if mean > 0 {
		for i, c := range counts {
			out[i] = float32(float64(c) / mean)
		}
	}
	return out
}
