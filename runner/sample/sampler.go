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

	// scores is the penalised copy of the logits, and seen tells in which call a
	// token was last found in the history: only with a repetition penalty.
	scores []float32
	seen   []uint32
	call   uint32

	heap    []float32 // the top-k logits, smallest first
	ids     []int32   // candidates, by id
	weights []float64 // of the candidates: 1 for the most probable
	nucleus nucleus
}

// New returns a sampler for logits of vocab tokens. Its buffers take at most 35 bytes
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
	if err := params.Validate(); err != nil {
		return err
	}
	s.params = params
	s.random.Seed(params.Seed, stream)
	if params.penalises() && s.scores == nil {
		s.scores = make([]float32, s.vocab)
		s.seen = make([]uint32, s.vocab)
	}
	if params.Temperature == 0 {
		return nil
	}
	if s.ids == nil {
		s.ids = make([]int32, s.vocab)
		s.weights = make([]float64, s.vocab)
	}
	if k := params.TopK; k < s.vocab && k > cap(s.heap) {
		s.heap = make([]float32, 0, k)
	}
	if params.nucleus() && s.nucleus.tied == nil {
		s.nucleus.tied = make([]int32, s.vocab)
	}
	return nil
}

// Next returns the next token. logits are [vocab], and stay as they are; history are
// the tokens so far, the prompt's included, which only the repetition penalty reads.
// A NaN is taken as minus infinity, a token that cannot be chosen; logits without any
// token to choose, or with plus infinity, are ErrLogits.
func (s *Sampler) Next(logits []float32, history []int32) (int32, error) {
	if len(logits) != s.vocab {
		return 0, fmt.Errorf("%w: %d for a vocabulary of %d", ErrLogits, len(logits), s.vocab)
	}
	scores := logits
	if s.params.penalises() {
		if err := s.penalise(logits, history); err != nil {
			return 0, err
		}
		scores = s.scores
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
	return s.draw(s.shortlist(scores, scores[best])), nil
}

// shortlist fills ids and weights with the candidates and returns their number.
func (s *Sampler) shortlist(scores []float32, best float32) int {
	n := s.gather(scores, best)
	if s.params.nucleus() {
		n = s.nucleus.reduce(s.ids[:n], s.weights[:n], s.params.TopP)
	}
	if s.params.MinP > 0 {
		n = s.atLeast(n, s.params.MinP)
	}
	return n
}

// penalise fills scores, as RepetitionPenaltyLogitsProcessor does in float32.
func (s *Sampler) penalise(logits []float32, history []int32) error {
	copy(s.scores, logits)
	s.call++
	if s.call == 0 { // after 2^32 calls the marks would lie
		clear(s.seen)
		s.call = 1
	}
	penalty := float32(s.params.RepetitionPenalty)
	for i, id := range history {
		if uint32(id) >= uint32(s.vocab) {
			return fmt.Errorf("sample: history has the token %d at %d, outside a vocabulary of %d", id, i, s.vocab)
		}
		if s.seen[id] == s.call {
			continue
		}
		s.seen[id] = s.call
		if s.scores[id] < 0 {
			s.scores[id] *= penalty
		} else {
			s.scores[id] /= penalty
		}
	}
	return nil
}

// gather collects the top-k candidates and returns their number.
func (s *Sampler) gather(scores []float32, best float32) int {
	least := float32(math.Inf(-1))
	if k := s.params.TopK; k > 0 && k < len(scores) {
		least = kthLargest(scores, s.heap[:0], k)
	}
	scale := min(1/s.params.Temperature, math.MaxFloat64) // finite, so that 0 * scale is 0
	lowest := float64(cutoff)
	if s.params.MinP > 0 && !s.params.nucleus() {
		// Spares the exponential for what min-p removes; atLeast decides near the edge.
		lowest = max(lowest, math.Log(s.params.MinP)-1e-6)
	}
	n := 0
	add := func(i int) {
		x := float64((float64(scores[i]) - float64(best)) * scale)
		if x >= lowest { // false for NaN
			s.ids[n] = int32(i)
			s.weights[n] = exp(x)
			n++
		}
	}
	if math.IsInf(float64(least), -1) {
		for i := range scores {
			add(i)
		}
		return n
	}
	below := math.Nextafter32(least, float32(math.Inf(-1)))
	for i := nextAbove(scores, 0, below); i >= 0; i = nextAbove(scores, i+1, below) {
		add(i)
	}
	return n
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
	total := 0.0
	for _, w := range s.weights[:n] {
		total += w
	}
	target := float64(s.random.Uint64()>>11) / (1 << 53) * total
	sum := 0.0
	for i, w := range s.weights[:n] {
		sum += w
		if target < sum {
			return s.ids[i]
		}
	}
	return s.ids[n-1] // not reached: target < total, and sum ends as total
}
