package quantize

import "math"

const (
	hqqNorm       = 0.7 // p
	hqqBeta       = 10  // β at first: errors below 0.17 steps, where |x| = |x|^(p-1)/β, count as none
	hqqGrowth     = 1.01
	hqqIterations = 20 // at most: it ends when the norm no longer falls, mostly after three or four
)

// halfQuadratic is half-quadratic quantization (Badri and Shaji, 2023): scale and zero point of a block minimise
// Σ|w - ŵ|^p with p = 0.7, for which a few weights that are far off count for little. An auxiliary variable for
// the error splits that into two steps, which alternate:
//
//	e ← shrink(w - ŵ, β), with shrink(x, β) = sign(x)·max(0, |x| - |x|^(p-1)/β)
//	s, z ← least squares of w - e on the levels
//
// while β grows. Two things differ from the paper, both because of the formats. Zero points are rounded to whole
// levels within the loop: MatMulNBits has a fast kernel for those alone, and rounding once at the end would undo what the
// loop has found. And the scale is fitted along with the zero point, which symmetric formats lack. Errors
// are measured in steps of the grid, so that β means the same for every tensor.
func (q *rtn) halfQuadratic(w []float32, _ extremes, span grid) grid {
	if !span.fast || span.scale == 0 {
		return span
	}
	best, g := span, span
	least, beta := float32(math.Inf(1)), float32(hqqBeta)
	for range hqqIterations {
		fit := q.fit(w, g, span, beta)
		if !(fit.norm < least) {
			break
		}
		best, least = g, fit.norm
		var ok bool
		if g, ok = fit.next(q, g, len(w)); !ok {
			break
		}
		beta *= hqqGrowth
	}
	best.cut = true
	return best
}

// fit is what one pass over a block finds.
type fit struct {
	norm         float32 // Σ|w - ŵ|^p, in steps of the grid that spans the block
	r, t, rr, rt float32 // Σr, Σt, Σr², Σrt of levels r less zero point and targets t, in steps of the grid
}

func (q *rtn) fit(w []float32, g, span grid, beta float32) fit {
	lo, hi, recip := float32(-g.zero), float32(q.top()-g.zero), g.recip
	weight, unit := 1/beta, abs(g.scale*span.recip)
	var norm, sumR, sumT, sumRR, sumRT float32 // in registers, which fields would not be
	for _, v := range w {
		x := v * recip
		r := round(x)
		if r > hi {
			r = hi
		} else if r < lo {
			r = lo
		}
		d := x - r
		e := abs(d)
		shrunk := e - float32(power(e, hqqNorm-1)*weight)
		shrunk = math.Float32frombits(uint32(max(int32(math.Float32bits(shrunk)), 0))) // at least 0, without a branch
		t := x - copySign(shrunk, d)
		norm += power(float32(e*unit), hqqNorm)
		sumR += r
		sumT += t
		sumRR += float32(r * r)
		sumRT += float32(r * t)
	}
	return fit{norm, sumR, sumT, sumRR, sumRT}
}

// next is the grid of least squares: zero point first, then the scale that goes with it. ok is false where there is
// none.
func (f fit) next(q *rtn, g grid, n int) (next grid, ok bool) {
	zero := g.zero
	if !q.Symmetric {
		zero = int32(min(max(round(float32(g.zero)+(f.r-f.t)/float32(n)), 0), float32(q.top())))
	}
	moved := float32(g.zero - zero) // of all levels
	rt := f.rt + float32(moved*f.t)
	rr := f.rr + float32(2*moved*f.r) + float32(moved*moved*float32(n))
	if rr == 0 || rt == 0 {
		return g, false
	}
	next, ok = q.finish(g.scale*(rt/rr), zero)
	return next, ok && next.fast && next.scale != 0
}

// power is x^p for x ≥ 0, within 8 %, which is as well as p is known: the bits of a float32 are nearly
// its logarithm.
func power(x, p float32) float32 {
	const one = 127 << 23
	return math.Float32frombits(uint32(int32(p*float32(int32(math.Float32bits(x))-one)) + one))
}

func abs(x float32) float32 { return math.Float32frombits(math.Float32bits(x) &^ signBit) }

// copySign is x, which is not negative, with the sign of y.
func copySign(x, y float32) float32 {
	return math.Float32frombits(math.Float32bits(x) | math.Float32bits(y)&signBit)
}
