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
	at, ok := t.largest()
	if !ok {
		return span
	}
	near := q.around(t.grid[at])
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

// largest is the trial that explains most.
func (t *trials) largest() (at int, ok bool) {
	most := float32(0)
	for i, s := range t.sum[:t.n] {
		if x := s.qw * s.qw / s.qq; x > most && x <= math.MaxFloat32 {
			most, at, ok = x, i, true
		}
	}
	return at, ok
}

// around are trials near one.
func (q *rtn) around(g trial) trials {
	var near trials
	for _, f := range neighbours {
		near.add(g.recip*f, g.lo, g.hi)
		if q.Symmetric {
			continue
		}
		if g.lo < 0 {
			near.add(g.recip*f, g.lo+1, g.hi+1)
		}
		if g.hi > 0 {
			near.add(g.recip*f, g.lo-1, g.hi-1)
		}
	}
	return near
}

// runWeighted is run with the sums Σ count·q·w and Σ count·q².
func (t *trials) runWeighted(w, counts []float32) {
	counts = counts[:len(w)]
	for j, g := range t.grid[:t.n] {
		var qw, qq [2]float32 // two chains of additions side by side
		for i, v := range w {
			q := float32(v*g.recip) + rounder - rounder
			if q < g.lo { // seldom: cheaper than min and max, which mind NaN
				q = g.lo
			}
			if q > g.hi {
				q = g.hi
			}
			c := float32(q * counts[i])
			qw[i&1] += float32(c * v)
			qq[i&1] += float32(c * q)
		}
		t.sum[j] = sum{qw[0] + qw[1], qq[0] + qq[1]}
	}
}

// rounder added and subtracted rounds to nearest, see round.
const rounder = float32(3 << 22)

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
