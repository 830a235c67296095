package runner

import (
	"context"
	"time"

	"github.com/qwenrt/qwenrt/ort"
)

// Decoder is what a generation runs on: a sequence, or a slot of a batch.
type Decoder = decoder

func NewDecoder(ctx context.Context, r *Runner) (Decoder, error) { return r.newVerifier(ctx) }

func Fork(d Decoder) (Decoder, error) { return d.fork() }

// LoseRoom leaves the cache as one that could not grow: it counts as having no room.
func LoseRoom(d Decoder) {
	switch d := d.(type) {
	case *Sequence:
		d.cache.capacity = 0
	case *slot:
		d.s.mu.Lock()
		defer d.s.mu.Unlock()
		d.s.pool.capacity = 0
	}
}

// Capacity is that of the cache of all slots, in tokens.
func Capacity(r *Runner) int {
	r.scheduler.mu.Lock()
	defer r.scheduler.mu.Unlock()
	return r.scheduler.pool.capacity
}

// Took says how long ago a slot had its last logits, of a grace of an hour.
func Took(d Decoder, t time.Duration) {
	s := d.(*slot)
	s.s.mu.Lock()
	defer s.s.mu.Unlock()
	s.had, s.s.grace = time.Now().Add(-t), time.Hour
}

// Expected tells whether the next common step waits for a slot.
func Expected(d Decoder) bool {
	s := d.(*slot)
	s.s.mu.Lock()
	defer s.s.mu.Unlock()
	return s.expected
}

// LargestFirst opens a graph in the form that does without the order of ONNX.
func LargestFirst(file string) error {
	s, err := newSessionLargestFirst(file, SessionConfig(Options{}))
	if err == nil {
		s.Close()
	}
	return err
}

// Residence is where the cache of a model like r would lie, and its logits, and why, if its session had inputs and outputs
// elsewhere.
func Residence(r *Runner, input, output func(string) (ort.Location, error)) (kv, logits ort.Location, reason string, err error) {
	l := *r.layout
	l.at = residence{}
	err = l.readResidence(input, output)
	return l.at.kv, l.at.logits, l.at.reason, err
}

// Session is that of r.
func Session(r *Runner) *ort.Session { return r.session }
