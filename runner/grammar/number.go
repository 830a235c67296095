package grammar

import (
	"fmt"
	"math/big"
	"strings"
)

// numbers are bounds of a number, and what it must be a multiple of.
type numbers struct {
	integer        bool
	lo, hi         *big.Rat // nil: none
	loOpen, hiOpen bool     // the bound itself is out
	multiples      []*big.Rat
}

// atLeast and atMost narrow the bounds.
func (n *numbers) atLeast(r *big.Rat, open bool) {
	if c := 1; n.lo != nil {
		if c = r.Cmp(n.lo); c < 0 || c == 0 && !open {
			return
		}
	}
	n.lo, n.loOpen = r, open
}

func (n *numbers) atMost(r *big.Rat, open bool) {
	if c := -1; n.hi != nil {
		if c = r.Cmp(n.hi); c > 0 || c == 0 && !open {
			return
		}
	}
	n.hi, n.hiOpen = r, open
}

// numberTerm is the numbers within bounds. Free ones may have an exponent, others are spelled without.
func (j *jsonTerms) numberTerm(n numbers) (id, error) {
	if len(n.multiples) == 0 && n.lo == nil && n.hi == nil {
		if n.integer {
			return j.lexeme(j.integer()), nil
		}
		return j.number, nil
	}
	shape, err := j.multiples(n)
	if err != nil {
		return nothing, err
	}
	var parts []id
	if n.hi == nil || n.hi.Sign() > 0 || n.hi.Sign() == 0 && !n.hiOpen {
		above := []id{shape}
		if n.lo != nil && n.lo.Sign() >= 0 {
			above = append(above, j.beyond(n.lo, n.loOpen, true))
		}
		if n.hi != nil {
			above = append(above, j.beyond(n.hi, n.hiOpen, false))
		}
		parts = append(parts, j.nonEmpty(above))
	}
	if n.lo == nil || n.lo.Sign() < 0 {
		below := []id{shape}
		if n.lo != nil {
			below = append(below, j.beyond(new(big.Rat).Neg(n.lo), n.loOpen, false))
		}
		if n.hi != nil && (n.hi.Sign() < 0 || n.hi.Sign() == 0 && n.hiOpen) {
			below = append(below, j.beyond(new(big.Rat).Neg(n.hi), n.hiOpen, true))
		}
		parts = append(parts, j.cat(j.text("-"), j.nonEmpty(below)))
	}
	return j.lexeme(j.alt(parts...)), nil
}

// nonEmpty is an intersection, or nothing where no text is in all parts.
func (a *arena) nonEmpty(parts []id) id {
	n := a.and(parts...)
	if !a.lives(n) {
		return nothing
	}
	return n
}

// multiples is numbers without a sign that are multiples of all that is asked for.
func (j *jsonTerms) multiples(n numbers) (id, error) {
	natural := j.natural()
	point := func(min, max int32) id { return j.cat(j.text("."), j.repeat(j.bytes('0', '9'), min, max)) }
	if len(n.multiples) == 0 {
		if n.integer {
			return natural, nil
		}
		return j.cat(natural, j.optional(point(1, maxDigits))), nil
	}
	all := n.multiples[0]
	for _, m := range n.multiples[1:] {
		all = leastMultiple(all, m)
	}
	if n.integer { // multiples of p/q that are integers are multiples of p
		all = new(big.Rat).SetInt(all.Num())
	}
	// With k decimals a multiple of m is an integer multiple of m times 10^k, without its point.
	decimals, _ := all.FloatPrec()
	var parts []id
	for k := range decimals + 1 {
		scale := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(k)), nil)
		step := new(big.Rat).Mul(all, new(big.Rat).SetInt(scale)).Num()
		if !step.IsInt64() || step.Int64() > maxModulus {
			return nothing, fmt.Errorf("multipleOf %s: what it comes to, with its decimals, is above %d", numberText(all), maxModulus)
		}
		digits := j.digits(int32(step.Int64()), 0)
		if k == 0 {
			parts = append(parts, j.and(natural, digits))
		} else {
			parts = append(parts, j.and(j.cat(natural, point(int32(k), int32(k))), digits))
		}
	}
	return j.alt(parts...), nil
}

// leastMultiple is the least common multiple of two fractions: of the numerators, once both have one
// denominator.
func leastMultiple(x, y *big.Rat) *big.Rat {
	a := new(big.Int).Mul(x.Num(), y.Denom())
	b := new(big.Int).Mul(y.Num(), x.Denom())
	gcd := new(big.Int).GCD(nil, nil, a, b)
	lcm := new(big.Int).Mul(a, new(big.Int).Quo(b, gcd))
	return new(big.Rat).SetFrac(lcm, new(big.Int).Mul(x.Denom(), y.Denom()))
}

// beyond is the spellings of numbers, without sign and leading zeros, that are above a bound, or below it.
// open leaves the bound itself out.
func (j *jsonTerms) beyond(bound *big.Rat, open, above bool) id {
	whole, fraction, _ := strings.Cut(numberText(bound), ".")
	digit := j.bytes('0', '9')
	point := j.optional(j.cat(j.text("."), j.repeat(digit, 1, unbounded)))
	// further is any digit beyond c in the direction.
	further := func(c byte) id {
		switch {
		case above && c < '9':
			return j.bytes(c+1, '9')
		case !above && c > '0':
			return j.bytes('0', c-1)
		}
		return nothing
	}

	// From the last digit of the fraction to its first: what may follow if all before it is equal.
	zeros := j.repeat(j.text("0"), 0, unbounded)
	rest := zeros // behind all digits, and a point
	if above {
		rest = j.repeat(digit, 0, unbounded)
	}
	if open {
		rest = nothing
		if above {
			rest = j.sequence(zeros, j.bytes('1', '9'), j.repeat(digit, 0, unbounded))
		}
	}
	for i := len(fraction) - 1; i >= 0; i-- {
		rest = j.alt(j.cat(j.text(fraction[i:i+1]), rest), j.cat(further(fraction[i]), j.repeat(digit, 0, unbounded)))
		if !above { // fewer digits are less
			rest = j.optional(rest)
		}
	}
	end := j.cat(j.text("."), j.and(rest, j.repeat(digit, 1, unbounded)))
	if fraction == "" && !open || fraction != "" && !above { // an integer equal to the bound's
		end = j.optional(end)
	}

	for i := len(whole) - 1; i >= 0; i-- {
		left := int32(len(whole) - 1 - i)
		end = j.alt(j.cat(j.text(whole[i:i+1]), end), j.sequence(further(whole[i]), j.repeat(digit, left, left), point))
	}
	// Numbers of another length.
	n := int32(len(whole))
	if above {
		return j.alt(end, j.sequence(j.bytes('1', '9'), j.repeat(digit, n, unbounded), point))
	}
	if n > 1 {
		end = j.alt(end, j.sequence(j.repeat(digit, 1, n-1), point))
	}
	return end
}
