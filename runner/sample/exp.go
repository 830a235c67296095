package sample

import "math"

// cutoff is the exponent below which a weight counts as zero: all tokens of a large
// vocabulary there (150,000 times e^-50) are less than half a unit in the last place
// of the largest weight, 1.
const cutoff = -50

const (
	// steps of the table in an octave.
	steps    = 32
	stepBits = 5

	stepsPerE = steps * math.Log2E
	stepSize  = math.Ln2 / steps

	// shifter added to a number of small magnitude rounds it to an integer, which is
	// then in the low bits: 1.5 * 2^52.
	shifter = 6755399441055744.0
)

// octave has the bits of 2^(i/steps). It is written out, and not computed, to be the same everywhere.
var octave = [steps]uint64{
	0x3ff0000000000000, 0x3ff059b0d3158574, 0x3ff0b5586cf9890f, 0x3ff11301d0125b51,
	0x3ff172b83c7d517b, 0x3ff1d4873168b9aa, 0x3ff2387a6e756238, 0x3ff29e9df51fdee1,
	0x3ff306fe0a31b715, 0x3ff371a7373aa9cb, 0x3ff3dea64c123422, 0x3ff44e086061892d,
	0x3ff4bfdad5362a27, 0x3ff5342b569d4f82, 0x3ff5ab07dd485429, 0x3ff6247eb03a5585,
	0x3ff6a09e667f3bcd, 0x3ff71f75e8ec5f74, 0x3ff7a11473eb0187, 0x3ff82589994cce13,
	0x3ff8ace5422aa0db, 0x3ff93737b0cdc5e5, 0x3ff9c49182a3f090, 0x3ffa5503b23e255d,
	0x3ffae89f995ad3ad, 0x3ffb7f76f2fb5e47, 0x3ffc199bdd85529c, 0x3ffcb720dcef9069,
	0x3ffd5818dcfba487, 0x3ffdfc97337b9b5f, 0x3ffea4afa2a490da, 0x3fff50765b6e4540,
}

// exps replaces each x <= 0 by e^x, within 1e-13 of the value, and by 0 below cutoff and for NaN. math.Exp
// differs in the last bits between processors, and so would the tokens. The conversions keep
// the compiler from fusing a product with a sum, which some processors can do
// (language specification, floating-point operators).
func exps(v []float64) {
	// Taylor series of 2^(f/steps): |f| <= 1/2, so the first term left out is below 3e-15.
	const (
		c1 = stepSize
		c2 = c1 * stepSize / 2
		c3 = c2 * stepSize / 3
		c4 = c3 * stepSize / 4
		c5 = c4 * stepSize / 5
	)
	for i, x := range v {
		if !(x >= cutoff) {
			v[i] = 0
			continue
		}
		y := float64(x * stepsPerE)
		shifted := y + shifter
		f := y - (shifted - shifter)
		f2 := f * f
		// Pairs of terms do not wait for each other (Estrin's scheme), unlike Horner's.
		p := 1 + float64(f*c1) + float64(f2*(c2+float64(f*c3))) + float64(float64(f2*f2)*(c4+float64(f*c5)))
		n := math.Float64bits(shifted)
		v[i] = p * math.Float64frombits(octave[n%steps]+n>>stepBits<<52)
	}
}
