package sample

import "math"

// cutoff is the exponent below which a weight counts as zero: all tokens of a large
// vocabulary there (150,000 times e^-50) are less than half a unit in the last place
// of the largest weight, 1.
const cutoff = -50

const (
	log2e = 1.44269504088896338700
	ln2Hi = 6.93147180369123816490e-01 // upper bits, so that products with small integers are exact
	ln2Lo = 1.90821492927058770002e-10

	// shifter added to a number of small magnitude rounds it to an integer, which is
	// then in the low bits: 1.5 * 2^52.
	shifter = 6755399441055744.0
)

// exp returns e^x for cutoff <= x <= 0, within 1e-13 of the value. math.Exp differs
// in the last bits between processors, and so would the tokens. The conversions keep
// the compiler from fusing a product with a sum, which some processors can do
// (language specification, floating-point operators).
func exp(x float64) float64 {
	shifted := float64(x*log2e) + shifter
	n := shifted - shifter
	r := x - float64(n*ln2Hi) - float64(n*ln2Lo) // |r| <= ln(2)/2
	// Taylor series: the first term left out is below 7e-15. Pairs of terms do not wait
	// for each other (Estrin's scheme), which takes half the time of Horner's.
	r2 := r * r
	r4 := r2 * r2
	r8 := r4 * r4
	low := 1 + r + float64(r2*(1.0/2+float64(r*(1.0/6))))
	mid := 1.0/24 + float64(r*(1.0/120)) + float64(r2*(1.0/720+float64(r*(1.0/5040))))
	high := 1.0/40320 + float64(r*(1.0/362880)) + float64(r2*(1.0/3628800+float64(r*(1.0/39916800))))
	p := low + float64(r4*mid) + float64(r8*high)
	return p * math.Float64frombits(uint64(1023+int64(n))<<52)
}
