package runner

import (
	"fmt"
	"math"
	"math/bits"
)

// Constraint restricts an answer to what a grammar allows. It sees tokens, not text, and is for one answer:
// a generation works on clones, so that one value serves many requests. The methods of a clone are called one
// after the other, but not all from one goroutine: Mask may run while the model does.
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

// restriction is a constraint at work. Its mask depends on the tokens so far only: it can be found while the model
// runs the last of them.
type restriction struct {
	Constraint
	mask []uint32
	over bool // the answer may end here
	err  error

	asked    bool // for the mask
	ready    bool // it is there, and was not used
	found    chan struct{}
	panicked any
}

func newRestriction(c Constraint, words int) *restriction {
	return &restriction{Constraint: c, mask: make([]uint32, words), found: make(chan struct{}, 1)}
}

func (r *restriction) clone() *restriction { return newRestriction(r.Clone(), len(r.mask)) }

// ask begins to find the mask, and returns at once. Nothing else may be asked of the constraint before settle.
func (r *restriction) ask() {
	r.asked = true
	go func() {
		defer func() {
			r.panicked = recover() // for the goroutine that asked
			r.found <- struct{}{}
		}()
		r.over, r.err = r.Mask(r.mask)
	}()
}

// settle waits for the mask that was asked for, if one was.
func (r *restriction) settle() {
	if r == nil || !r.asked {
		return
	}
	<-r.found
	r.asked, r.ready = false, true
	if r.panicked != nil {
		panic(r.panicked)
	}
}

// apply takes from logits what the constraint does not allow. end are the tokens that end the answer,
// if it may end here (may).
func (r *restriction) apply(logits []float32, end []int32, may bool) error {
	if r.settle(); !r.ready {
		r.over, r.err = r.Mask(r.mask)
	}
	r.ready = false
	if r.err != nil {
		return wrap(r.err)
	}
	for _, id := range end {
		if uint(id) < uint(len(logits)) {
			bit := uint32(1) << (id % 32)
			r.mask[id/32] &^= bit
			if may && r.over {
				r.mask[id/32] |= bit
			}
		}
	}
	some := uint32(0)
	for i, word := range r.mask {
		some |= word
		if word != math.MaxUint32 {
			keepOnly(logits[32*i:min(32*i+32, len(logits))], word)
		}
	}
	if some == 0 {
		return fmt.Errorf("runner: %w: the constraint allows no token, and no end here", ErrRequest)
	}
	return nil
}

// never is the logit of tokens that cannot come, times 32.
var never = func() (v [32]float32) {
	for i := range v {
		v[i] = float32(math.Inf(-1))
	}
	return v
}()

// keepOnly leaves at most 32 logits as they are where bits say so. One by one it handles those of which there are fewer.
func keepOnly(logits []float32, keep uint32) {
	if bits.OnesCount32(keep) > 16 {
		for gone := ^keep; gone != 0; gone &= gone - 1 {
			if i := bits.TrailingZeros32(gone); i < len(logits) {
				logits[i] = never[0]
			}
		}
		return
	}
	var kept [16]float32
	n := 0
	for left := keep; left != 0; left &= left - 1 {
		if i := bits.TrailingZeros32(left); i < len(logits) {
			kept[n] = logits[i]
		}
		n++
	}
	copy(logits, never[:])
	n = 0
	for left := keep; left != 0; left &= left - 1 {
		if i := bits.TrailingZeros32(left); i < len(logits) {
			logits[i] = kept[n]
		}
		n++
	}
}
