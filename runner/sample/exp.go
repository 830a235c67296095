package sample

import "math"

// A token's depth is how far it lies below the best one: its weight is e to minus the depth, counted in steps of
// 1/64. Depths are cut into slots around whole numbers of steps: the slot says which entry of a table
// the weight is made of, and filters add up weights by slots.
const (
	stepsPerUnit = 64
	slots        = 4096

	// maxDepth is where weights count as zero: all tokens of a large vocabulary there (150,000 times e^-50) are
	// less than half a unit in the last place of the largest weight, 1.
	maxDepth = 50 * stepsPerUnit

	// shifter added to a number of small magnitude rounds it to an integer, which is
	// then in the low bits: 1.5 * 2^52.
	shifter = 6755399441055744.0
)

// powers are e^(-n/64). They are products, and not computed by math.Exp, to be the same everywhere.
var powers = func() (p [slots]float64) {
	p[0], p[1] = 1, 0.9844964370054085
	for n := 2; n < slots; n++ {
		p[n] = p[n/2] * p[n-n/2]
	}
	return p
}()

// weight gives e^(-depth/64) for a depth from 0 to maxDepth, and the slot: within 2e-8 of the value, which is a third of what a
// float32 is rounded by, falling as depths rise, and 1 at 0. math.Exp differs in the last bits between processors, and
// so would the tokens. The conversions keep the compiler from fusing a product with a sum, which some processors can
// do (language specification, floating-point operators).
func weight(depth float64) (w float64, slot uint64) {
	// Taylor series within a slot, |f| <= 1/2, whose third term is replaced by the multiple of f that is nearest to it:
	// f^3 by 3/16 f (Chebyshev).
	const (
		c1 = -1.0 / stepsPerUnit * (1 + 1.0/(32*stepsPerUnit*stepsPerUnit))
		c2 = 1.0 / (2 * stepsPerUnit * stepsPerUnit)
	)
	shifted := depth + shifter
	slot = math.Float64bits(shifted) % slots
	f := depth - (shifted - shifter)
	return powers[slot] * (1 + float64(f*(c1+float64(f*c2)))), slot
}
