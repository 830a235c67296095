package sample

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// ErrLogits is wrapped by the errors of Next for logits that leave no choice.
var ErrLogits = errors.New("sample: bad logits")

// stream is the second word of the generator's seed: any constant does.
const stream = 0x9e3779b97f4a7c15

// A Sampler chooses the tokens of one sequence. It is not safe for use by several
// goroutines.
type Sampler struct {
	params Params
	vocab  int
	random rand.PCG

	alteration // of the logits

	best, scale float64 // exponents are differences to the best score times scale

	heap    []float32 // the top-k logits, smallest first
	ids     []int32   // candidates, by id
	weights []float64 // of the candidates: 1 for the most probable
	keys    []float64 // of the candidates, for typical sampling: 1 for the most typical
	nucleus nucleus
	span    [span]float64
	sums    []float64 // of spans
}

// New returns a sampler for logits of vocab tokens. Its buffers take at most 40 bytes
// a token; a greedy one has none.
func New(params Params, vocab int) (*Sampler, error) {
	if vocab <= 0 || vocab > math.MaxInt32 {
		return nil, fmt.Errorf("sample: a vocabulary of %d tokens: it must have at least one and fit 32 bits", vocab)
	}
	s := &Sampler{vocab: vocab}
	if err := s.Reset(params); err != nil {
		return nil, err
	}
	return s, nil
}

// Reset makes the sampler as New would make it with params, and keeps its buffers.
func (s *Sampler) Reset(params Params) error {
	if err := params.ValidateFor(s.vocab); err != nil {
		return err
	}
	s.params = params
	s.random.Seed(params.Seed, stream)
	s.alteration.reset(params, s.vocab)
	if params.Temperature == 0 {
		return nil
	}
	if s.sums == nil {
		s.sums = make([]float64, 0, (s.vocab+span-1)/span)
	}
	if !params.open() && s.ids == nil {
		s.ids = make([]int32, s.vocab)
		s.weights = make([]float64, s.vocab)
	}
	if k := params.TopK; k < s.vocab && k > cap(s.heap) {
		s.heap = make([]float32, 0, k)
	}
	if (params.nucleus() || params.typical()) && s.nucleus.tied == nil {
		s.nucleus.tied = make([]int32, s.vocab)
	}
	if params.typical() && s.keys == nil {
		s.keys = make([]float64, s.vocab)
	}
	return nil
}

// Next returns the next token. logits are [vocab], and stay as they are; text are the tokens so far, of which
// the first ones, prompt in number, are the prompt's: penalties alone read them. A NaN is taken as minus
// infinity, a token that cannot be chosen; logits without any token to choose, or with plus
// infinity, are ErrLogits.
func (s *Sampler) Next(logits []float32, text []int32, prompt int) (int32, error) {
	scores, err := s.Alter(logits, text, prompt)
	if err != nil {
		return 0, err
	}
	best := argmax(scores)
	if best < 0 {
		return 0, fmt.Errorf("%w: every one is NaN or minus infinity", ErrLogits)
	}
	if math.IsInf(float64(scores[best]), 1) {
		return 0, fmt.Errorf("%w: token %d has plus infinity", ErrLogits, best)
	}
	if s.params.Temperature == 0 {
		return int32(best), nil
	}
	s.measure(scores[best])
	if s.params.open() {
		return s.drawAny(scores), nil
	}
	return s.draw(s.shortlist(scores)), nil
}

// measure sets what exponents are measured by.
func (s *Sampler) measure(best float32) {
	s.best = float64(best)
	s.scale = min(1/s.params.Temperature, math.MaxFloat64) // finite, so that 0 * scale is 0
}

// exponent is the logarithm of a token's weight.
func (s *Sampler) exponent(score float32) float64 {
	return float64((float64(score) - s.best) * s.scale)
}

// shortlist fills ids and weights with the candidates and returns their number.
func (s *Sampler) shortlist(scores []float32) int {
	n := s.first(scores)
	if s.params.MinP > 0 {
		n = s.atLeast(n, s.params.MinP)
	}
	if s.params.typical() {
		n = s.typical(n, scores)
	}
	return n
}

// first collects candidates and applies top-k and top-p.
func (s *Sampler) first(scores []float32) int {
	k, p := s.params.TopK, s.params.TopP
	top := k > 0 && k < len(scores)
	switch {
	case top && s.params.nucleus():
		n := s.gather(scores, kthLargest(scores, s.heap[:0], k), cutoff)
		return s.nucleus.reduce(s.ids[:n], s.weights[:n], s.weights[:n], p*sum(s.weights[:n]), false)
	case s.params.nucleus():
		return s.firstOfAll(scores, p)
	}
	least, lowest := float32(math.Inf(-1)), float64(cutoff)
	if top {
		least = kthLargest(scores, s.heap[:0], k)
	}
	if s.params.MinP > 0 {
		// Spares the exponential for what min-p removes; atLeast decides near the edge.
		lowest = max(lowest, math.Log(s.params.MinP)-1e-6)
	}
	return s.gather(scores, least, lowest)
}

// firstOfAll applies top-p to the whole vocabulary. Few tokens are in the nucleus mostly: it adds up all,
// and then collects no more than it takes.
func (s *Sampler) firstOfAll(scores []float32, p float64) int {
	target := p * sum(s.spanSums(scores))
	for lowest := -8.0; ; lowest *= 2 {
		n := s.gather(scores, float32(math.Inf(-1)), max(lowest, cutoff))
		if lowest <= cutoff || sum(s.weights[:n]) >= target {
			return s.nucleus.reduce(s.ids[:n], s.weights[:n], s.weights[:n], target, false)
		}
	}
}

// Alter gives the logits with bias, penalties and bans, as Next compares them: logits themselves where there
// is none of these, and otherwise a copy that is valid until the next call. The arguments are those of
// Next.
func (s *Sampler) Alter(logits []float32, text []int32, prompt int) ([]float32, error) {
	if len(logits) != s.vocab {
		return nil, fmt.Errorf("%w: %d for a vocabulary of %d", ErrLogits, len(logits), s.vocab)
	}
	if !s.params.alters() {
		return logits, nil
	}
	return s.alteration.apply(&s.params, logits, text, prompt)
}

// gather collects the candidates of at least a score and an exponent, and returns their number.
func (s *Sampler) gather(scores []float32, least float32, lowest float64) int {
	down := float32(math.Inf(-1))
	bound := math.Nextafter32(least, down)
	if edge := float32(s.best + lowest/s.scale); edge > least { // rounded, so go two steps down
		bound = math.Nextafter32(math.Nextafter32(edge, down), down)
	}
	n := 0
	for i := nextAbove(scores, 0, bound); i >= 0; i = nextAbove(scores, i+1, bound) {
		if x := s.exponent(scores[i]); x >= lowest {
			s.ids[n], s.weights[n] = int32(i), x
			n++
		}
	}
	exps(s.weights[:n])
	return n
}

// span is the number of tokens that are weighed at a time, so that no more than that is in memory.
const span = 512

// weigh gives the weights of a span of scores.
func (s *Sampler) weigh(scores []float32) []float64 {
	weights := s.span[:len(scores)]
	for i, score := range scores {
		weights[i] = s.exponent(score)
	}
	exps(weights)
	return weights
}

// spanSums gives the weight of each span.
func (s *Sampler) spanSums(scores []float32) []float64 {
	sums := s.sums[:0]
	for part := range slices.Chunk(scores, span) {
		sums = append(sums, sum(s.weigh(part)))
	}
	return sums
}

// drawAny returns one of all tokens: it draws a span, and weighs that again to draw from it.
func (s *Sampler) drawAny(scores []float32) int32 {
	sums := s.spanSums(scores)
	at, rest := pick(sums, s.uniform()*sum(sums))
	first := at * span
	i, _ := pick(s.weigh(scores[first:min(first+span, len(scores))]), rest)
	return int32(first + i)
}

// typical keeps the candidates nearest to the entropy and returns their number. A candidate's
// information is z - x, for its exponent x and the same z for all, and the entropy is the mean of that: their
// distance is that of x from the mean of x.
func (s *Sampler) typical(n int, scores []float32) int {
	total, mean := 0.0, 0.0
	for i, w := range s.weights[:n] {
		s.keys[i] = s.exponent(scores[s.ids[i]])
		mean += float64(w * s.keys[i])
		total += w
	}
	mean /= total
	for i, x := range s.keys[:n] {
		s.keys[i] = 1 / (1 + math.Abs(x-mean))
	}
	return s.nucleus.reduce(s.ids[:n], s.weights[:n], s.keys[:n], s.params.TypicalP*total, true)
}

// atLeast keeps the candidates of a weight and returns their number.
func (s *Sampler) atLeast(n int, weight float64) int {
	kept := 0
	for i, w := range s.weights[:n] {
		if w >= weight {
			s.ids[kept], s.weights[kept] = s.ids[i], w
			kept++
		}
	}
	return kept
}

// draw returns one candidate, each with the probability of its weight.
func (s *Sampler) draw(n int) int32 {
	weights := s.weights[:n]
	i, _ := pick(weights, s.uniform()*sum(weights))
	return s.ids[i]
}

// uniform draws from [0, 1).
func (s *Sampler) uniform() float64 { return float64(s.random.Uint64()>>11) / (1 << 53) }

// pick returns where the running sum of weights exceeds target, and what is left of target there. Rounding
// may leave no such place; then it is the last weight above zero.
func pick(weights []float64, target float64) (at int, rest float64) {
	total := 0.0
	for i, w := range weights {
		if w == 0 {
			continue
		}
		at, rest = i, target-total
		if total += w; target < total {
			break
		}
	}
	return at, rest
}

func sum(v []float64) float64 {
	total := 0.0
	for _, x := range v {
		total += x
	}
	return total
}
