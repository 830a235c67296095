package runner

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Short runs come before prompts, prompts in their order, and a generation that guesses again and again has one run
// between two chunks.
func TestTurns(t *testing.T) {
	s := &scheduler{}
	ids := []int32{1}
	waits := func(j job) *slot {
		w := &slot{s: s, job: j}
		s.alone, s.owners = append(s.alone, w), append(s.owners, w)
		return w
	}
	first, guess := waits(job{tokens: ids}), waits(job{tokens: ids, all: true})
	second, fork := waits(job{tokens: ids}), waits(job{from: first})
	order := func(want ...*slot) {
		t.Helper()
		for i, w := range want {
			require.Same(t, w, s.next(), "run %d", i)
		}
	}
	order(guess, fork, first, guess, fork, first, guess)
	s.alone = []*slot{first, second} // the run of the guesses is over, and the fork is made
	order(first)
	s.alone = append(s.alone, guess) // the next ones come behind the chunk
	order(guess, first, guess)
	s.forget(first)
	order(second, guess, second, guess)
	s.forget(second)
	order(guess, guess)
}
