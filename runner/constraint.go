package runner

import (
	"fmt"
	"math"
	"math/bits"
)

// Constraint restricts an answer to what a grammar allows. It sees tokens, not text, and is for one answer:
// a generation works on clones, so that one value serves many requests.
type Constraint interface {
	// Mask sets bit i%32 of mask[i/32] for each token i that may follow, and clears all other bits. mask has
	// room for the model's vocabulary. The model's end tokens are not the constraint's to allow: end reports
	// whether the answer may be over here.
	Mask(mask []uint32) (end bool, err error)
	// Accept is told the token that was chosen, one of those that Mask allowed.
	Accept(token int32) error
	// Done reports that nothing may follow. The answer then ends without a further step.
	Done() bool
	// Clone gives a constraint in the same state, which goes its own way.
	Clone() Constraint
}

// constrain takes from logits what the constraint does not allow. end are the tokens that end the answer,
// if it may end here (may).
func constrain(c Constraint, mask []uint32, logits []float32, end []int32, may bool) error {
	over, err := c.Mask(mask)
	if err != nil {
		return wrap(err)
	}
	for _, id := range end {
		if uint(id) < uint(len(logits)) {
			bit := uint32(1) << (id % 32)
			mask[id/32] &^= bit
			if may && over {
				mask[id/32] |= bit
			}
		}
	}
	never := float32(math.Inf(-1))
	some := false
	for i, word := range mask {
		some = some || word != 0
		if word == math.MaxUint32 {
			continue
		}
		part := logits[32*i : min(32*i+32, len(logits))]
		if word == 0 { // most are, where punctuation must come
			for j := range part {
				part[j] = never
			}
			continue
		}
		for gone := ^word; gone != 0; gone &= gone - 1 {
			if j := bits.TrailingZeros32(gone); j < len(part) {
				part[j] = never
			}
		}
	}
	if !some {
		return fmt.Errorf("runner: %w: the constraint allows no token, and no end here", ErrRequest)
	}
	return nil
}
