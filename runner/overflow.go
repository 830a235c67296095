package runner

import (
	"context"
	"fmt"
	"slices"
)

// shifter is a decoder whose tokens may be more than the context takes. Where it ends, the older half of those
// behind the first keep goes, and the rest is run again behind them: keys are kept with their rotary position,
// and what deeper layers made of the dropped tokens is in the values, so that moving a cache would give
// what no run gives. This is what the model gives for the tokens that are left, on every graph and for every
// type of cache. For each token that it makes room for it runs another one in a prompt chunk, which costs
// about a fifth of a step.
type shifter struct {
	decoder
	keep, context int
	tokens        []int32 // all of them
	shifted       bool    // the decoder has not all of them
	stale         bool    // it has at most the first keep
	shifts        int
	hit           int // tokens that the prompt had from the prefix cache
}

func (s *shifter) Len() int { return len(s.tokens) }

func (s *shifter) Prefill(ctx context.Context, tokens []int32) ([]float32, error) {
	logits, err := s.decoder.Prefill(ctx, tokens)
	if err == nil {
		s.tokens = append(s.tokens, tokens...)
		var r Result
		s.decoder.report(&r) // later runs have hits of their own
		s.hit = r.CachedTokens
	}
	return logits, err
}

func (s *shifter) Decode(ctx context.Context, token int32) (logits []float32, err error) {
	if s.stale || s.decoder.Len() == s.context {
		logits, err = s.rerun(ctx, token)
	} else {
		logits, err = s.decoder.Decode(ctx, token)
	}
	if err == nil {
		s.tokens = append(s.tokens, token)
	}
	return logits, err
}

// rerun runs token behind as many of those before it as there are to be.
func (s *shifter) rerun(ctx context.Context, token int32) ([]float32, error) {
	tokens := append(slices.Clone(s.tokens), token)
	kept := min(s.keep, len(s.tokens), s.decoder.Len())
	if err := s.decoder.Truncate(kept); err != nil {
		return nil, err
	}
	s.stale = true
	shifted := len(tokens) > s.context
	if shifted {
		left := (s.context - s.keep + 1) / 2
		tokens = slices.Concat(tokens[:s.keep], tokens[len(tokens)-left:])
	}
	logits, err := s.decoder.Prefill(ctx, tokens[kept:])
	if err != nil {
		return nil, err
	}
	s.stale, s.shifted = false, shifted
	if shifted {
		s.shifts++
	}
	return logits, nil
}

func (s *shifter) Truncate(n int) error {
	if n < 0 || n > len(s.tokens) {
		return fmt.Errorf("runner: %w: truncate a sequence of %d tokens to %d", ErrRequest, len(s.tokens), n)
	}
	inner := n
	if s.shifted || s.stale {
		s.stale, inner = true, min(s.keep, n, s.decoder.Len())
	}
	if err := s.decoder.Truncate(inner); err != nil {
		return err
	}
	s.tokens = s.tokens[:n]
	return nil
}

func (s *shifter) fork() (decoder, error) {
	inner, err := s.decoder.fork()
	if err != nil {
		return nil, err
	}
	f := *s
	f.decoder, f.tokens, f.shifts = inner, slices.Clone(s.tokens), 0
	return &f, nil
}

func (s *shifter) report(r *Result) {
	s.decoder.report(r)
	r.CachedTokens = s.hit
	r.Shifts, s.shifts = s.shifts, 0
}
