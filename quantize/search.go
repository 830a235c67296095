package quantize

import "math"

// solver finds the grid of a block, given its extremes, which are finite, and the grid that spans it.
type solver func(q *rtn, w []float32, l extremes, span grid) grid

// solver of a form; nil where the grid that spans a block is the one to use.
func (f form) solver() solver {
	switch {
	case f.method == HQQ:
		return (*rtn).halfQuadratic
	case f.scale == ScaleMSE:
		return (*rtn).search
	}
	return nil
}

// The scales that are tried, as parts of the reciprocal of the one that spans the block. On the
// projections of a trained model those for 4 bits leave an error 1 % above that of a search ten times
// as fine; at 8 bits a block is cut off less, and it matters less.
var (
	spans4 = []float32{0.94, 0.98, 1.02, 1.07, 1.12, 1.17, 1.23, 1.3}
	spans8 = []float32{0.985, 0.99, 0.995, 1, 1.005, 1.01}
)

// search finds the grid with the least mean squared error, or nearly so. A scale that spans the block
// wastes levels on its one largest weight: a narrower one, by which that weight is cut off, is better for
// the others, and one a little off places the levels differently. For some such scales it asks which
// levels the weights would get. With the levels q given the best scale is (Σqw)/(Σq²), and the squared error
// with it Σw² - (Σqw)²/(Σq²); so the candidate with the largest (Σqw)²/(Σq²) wins, and rounding to the scale
// that goes with it makes the error smaller still.
//
// Symmetric grids reach from -8 to 7 (in 4 bits), or, with a negative scale, from -7 to 8: both are tried. With zero
// points the middle of the grid is laid on the middle of the block.
func (q *rtn) search(w []float32, l extremes, span grid) grid {
	if !span.fast || span.scale == 0 {
		return span // weights that are all 0, or so small that a float32 has few of their digits
	}
	var t trials
	if q.Symmetric {
		t.symmetric(span, q.spans(), float32(q.middle()))
	} else {
		t.asymmetric(span, q.spans(), float32(q.top()), l)
	}
	t.run(w)
	return t.best(q, span)
}

func (q *rtn) spans() []float32 {
	if q.Bits == 8 {
		return spans8
	}
	return spans4
}

// trials are grids to be compared on one block. Levels are q = round(w*recip), cut off at lo and hi, which are whole
// numbers.
type trials struct {
	n             int
	recip, lo, hi [maxTrials]float32
	qw, qq        [maxTrials]float32 // Σqw and Σq² over the block
	// at is the trial whose levels explain most of Σw², the first in a tie, and most is how much, (Σqw)²/Σq². It is 0
	// where none explains anything: sums that overflow, or no level but 0.
	at   int
	most float32
}

const maxTrials = 16 // two vector registers

func (t *trials) add(recip, lo, hi float32) {
	t.recip[t.n], t.lo[t.n], t.hi[t.n] = recip, lo, hi // no more than maxTrials: the kernels rely on it
	t.n++
}

func (t *trials) symmetric(span grid, spans []float32, middle float32) {
	for _, f := range spans {
		recip := span.recip * f
		t.add(recip, -middle, middle-1)
		t.add(-recip, -middle, middle-1)
	}
}

func (t *trials) asymmetric(span grid, spans []float32, top float32, l extremes) {
	hi, lo := l.bounds()
	centre := math.Float32frombits(hi)/2 + math.Float32frombits(lo)/2
	for _, f := range spans {
		recip := span.recip * f
		zero := min(max(round(top/2-float32(centre*recip)), 0), top)
		t.add(recip, -zero, top-zero)
	}
}

// best is the grid of the trial that explains most, as the format stores it; otherwise where there is none.
func (t *trials) best(q *rtn, otherwise grid) grid {
	if t.most == 0 {
		return otherwise
	}
	at := t.at & (maxTrials - 1)
	g, ok := q.finish(t.qw[at]/t.qq[at], int32(-t.lo[at]))
	if !ok || g.scale == 0 {
		return otherwise
	}
	g.cut = true
	return g
}

// round rounds to nearest, to even in a tie, numbers whose magnitude is below 2^22: a sum with this number
// has no bits for a fraction.
func round(x float32) float32 {
	const shift = 3 << 22
	return x + shift - shift
}

// runPortable is run in Go. The eight sums are those of a vector register; as the order of additions is fixed and
// none is fused with a product, every CPU gives the same.
func (t *trials) runPortable(w []float32) {
	for j := range t.n {
		recip, lo, hi := t.recip[j], t.lo[j], t.hi[j]
		var qw, qq [8]float32
		for i, v := range w {
			q := min(max(round(v*recip), lo), hi)
			qw[i&7] += float32(q * v)
			qq[i&7] += float32(q * q)
		}
		t.qw[j], t.qq[j] = tree(&qw), tree(&qq)
	}
	t.compare()
}

// runWeightedPortable is runWeighted in Go.
func (t *trials) runWeightedPortable(w, counts []float32) {
	counts = counts[:len(w)]
	for j := range t.n {
		recip, lo, hi := t.recip[j], t.lo[j], t.hi[j]
		var qw, qq [8]float32
		for i, v := range w {
			q := min(max(round(v*recip), lo), hi)
			c := float32(q * counts[i])
			qw[i&7] += float32(c * v)
			qq[i&7] += float32(c * q)
		}
		t.qw[j], t.qq[j] = tree(&qw), tree(&qq)
	}
	t.compare()
}

// compare finds the trial that explains most.
func (t *trials) compare() {
	t.at, t.most = 0, 0
	for j, qw := range t.qw[:t.n] {
		if x := float32(qw*qw) / t.qq[j]; x > t.most && x <= math.MaxFloat32 {
			t.at, t.most = j, x
		}
	}
}

func tree(x *[8]float32) float32 {
	return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]))
}
