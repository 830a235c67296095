package sample

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
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

	best, scale float64 // depths are differences to the best score times scale

	ids     []int32   // of candidates that are not all tokens
	scores  []float32 // theirs
	weights []float64 // of candidates
	spans   []float64 // of the weights
	mass    *[slots]float64

	edge, left []int32 // candidates at the edge of what a filter keeps
	parts      *[edgeParts]float64
}

// New returns a sampler for logits of vocab tokens. Its buffers take at most 40 bytes
// a token; a greedy one that does not alter logits has none.
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
	if s.spans == nil {
		s.spans = make([]float64, 0, (s.vocab+span-1)/span)
		s.weights = make([]float64, s.vocab)
	}
	if !params.open() && s.ids == nil {
		s.ids = make([]int32, s.vocab)
		s.scores = make([]float32, s.vocab)
	}
	if (params.nucleus() || params.typical()) && s.mass == nil {
		s.mass = new([slots]float64)
		s.edge, s.left, s.parts = make([]int32, s.vocab), make([]int32, s.vocab), new([edgeParts]float64)
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
	best := Argmax(scores)
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
	c, k := s.shortlist(scores)
	return s.draw(&c, k), nil
}

// measure sets what depths are measured by.
func (s *Sampler) measure(best float32) {
	s.best = float64(best) + 0                                        // minus zero is zero
	s.scale = min(stepsPerUnit/s.params.Temperature, math.MaxFloat64) // finite, so that 0 * scale is 0
}

// everything keeps all candidates.
var everything = cut{radius: math.Inf(1)}

// shortlist applies the filters. What is left are the candidates that the cut keeps, and spans are their weights.
func (s *Sampler) shortlist(scores []float32) (candidates, cut) {
	p := &s.params
	c := s.first(scores)
	s.weigh(&c, s.massFor(p.nucleus() || p.typical()))
	k := everything
	if p.nucleus() {
		k = s.nearest(&c, 0, p.TopP, false)
		if p.MinP > 0 || p.typical() {
			least := s.leastScore(p.MinP)
			s.keep(&c, func(i int) bool { return s.kept(&c, k, i) && c.scores[i] >= least })
			s.weigh(&c, s.massFor(p.typical()))
			k = everything
		}
	}
	if p.typical() {
		// A candidate's information is z + depth, with the same z for all, and the entropy is the mean of that:
		// their distance is that of the depth from the mean of depths.
		k = s.nearest(&c, c.moment/c.total, p.TypicalP, true)
	}
	return c, k
}

func (s *Sampler) massFor(wanted bool) *[slots]float64 {
	if wanted {
		return s.mass
	}
	return nil
}

// first applies top-k, and min-p where it is the next.
func (s *Sampler) first(scores []float32) candidates {
	p := &s.params
	least := float32(math.Inf(-1))
	if p.TopK > 0 && p.TopK < len(scores) {
		least = kthLargest(scores, s.scores, p.TopK)
	}
	if !p.nucleus() {
		least = max(least, s.leastScore(p.MinP))
	}
	if math.IsInf(float64(least), -1) {
		return s.all(scores)
	}
	return s.atLeast(scores, least)
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

// draw returns one of the candidates that a cut keeps, each with the probability of its weight.
func (s *Sampler) draw(c *candidates, k cut) int32 {
	total := 0.0
	for _, w := range c.spans {
		total += w
	}
	target := s.uniform() * total
	at, rest := pick(len(c.spans), target, func(i int) float64 { return c.spans[i] })
	first := at * span
	i, _ := pick(min(span, len(c.scores)-first), rest, func(i int) float64 {
		if !s.kept(c, k, first+i) {
			return 0
		}
		return c.weights[first+i]
	})
	return c.id(first + i)
}

// uniform draws from [0, 1).
func (s *Sampler) uniform() float64 { return float64(s.random.Uint64()>>11) / (1 << 53) }

// pick returns where the running sum of n weights exceeds target, and what is left of target there. Rounding
// may leave no such place; then it is the last weight above zero.
func pick(n int, target float64, weight func(i int) float64) (at int, rest float64) {
	total := 0.0
	for i := range n {
		w := weight(i)
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
