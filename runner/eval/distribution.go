package eval

import (
	"math"

	"github.com/qwenrt/qwenrt/runner/sample"
)

// distribution is what a model says of the token behind one position: the probability of token i is
// exp(values[i]-shift)/norm.
type distribution struct {
	values []float32 // logits, or log-probabilities
	shift  float64
	norm   float64
	// floor is the value at and below which a token counts as impossible.
	floor float32
	top   int // the most likely token, the first of equals
}

// negligible is how far below the largest logit all tokens of a large vocabulary together (150,000 times
// e^-50) are less than half a unit in the last place of the largest's weight.
const negligible = 50

// fromLogits makes a distribution of logits; norm is NaN or infinite where they are not finite.
func fromLogits(logits []float32) distribution {
	top := argmax(logits)
	highest := float64(logits[top])
	return distribution{
		values: logits, top: top, shift: highest, floor: float32(highest - negligible),
		norm: sumExp(logits, highest),
	}
}

// argmax is the most likely token, 0 where none has a value.
func argmax(values []float32) int { return max(0, sample.Argmax(values)) }

// sumExp is the sum of exp(v-highest), NaN if one of the values is.
func sumExp(values []float32, highest float64) float64 {
	var a, b float64 // two sums, which do not wait for each other
	i := 0
	for ; i+1 < len(values); i += 2 {
		a += exp(float64(values[i]) - highest)
		b += exp(float64(values[i+1]) - highest)
	}
	if i < len(values) {
		a += exp(float64(values[i]) - highest)
	}
	return a + b
}

// logNorm is what is to be taken from values for log-probabilities.
func (d *distribution) logNorm() float64 { return d.shift + math.Log(d.norm) }

func (d *distribution) finite() bool {
	return d.norm > 0 && !math.IsInf(d.norm, 0) && !math.IsInf(d.shift, 0) && !math.IsNaN(d.shift)
}

// nll is the negative log-likelihood of a token, in nats.
func (d *distribution) nll(token int32) float64 { return d.logNorm() - float64(d.values[token]) }

// divergence is KL(p || q) in nats: the sum of p_i (ln p_i - ln q_i).
func divergence(p, q *distribution) float64 {
	var weight, difference float64
	other := q.values[:len(p.values)]
	for i, v := range p.values {
		if v <= p.floor {
			continue
		}
		w := exp(float64(v) - p.shift)
		weight += w
		difference += w * (float64(v) - float64(other[i]))
	}
	return (difference + weight*(q.logNorm()-p.logNorm())) / p.norm
}

const (
	log2e = 1.44269504088896338700
	ln2Hi = 6.93147180369123816490e-01 // upper bits: products with small integers are exact
	ln2Lo = 1.90821492927058770002e-10

	// shifter added to a number of small magnitude rounds it to an integer, which is then in the low
	// bits: 1.5 * 2^52.
	shifter = 6755399441055744.0
	// smallest is the exponent below which exp gives 0.
	smallest = -700
)

// exp gives e^x for x up to 700, within 1e-9 of the value. It takes about half of math.Exp's time, which
// counts over vocabularies of 150,000 tokens.
func exp(x float64) float64 {
	if x < smallest {
		return 0
	}
	shifted := x*log2e + shifter
	n := shifted - shifter
	r := x - n*ln2Hi - n*ln2Lo // |r| <= ln(2)/2
	// Taylor series; the first term left out is below 6e-10. Pairs of terms do not wait for each other.
	r2 := r * r
	low := 1 + r + r2*(1.0/2+r*(1.0/6))
	high := 1.0/24 + r*(1.0/120) + r2*(1.0/720+r*(1.0/5040)+r2*(1.0/40320))
	p := low + r2*r2*high
	return p * math.Float64frombits(uint64(1023+int64(n))<<52)
}
