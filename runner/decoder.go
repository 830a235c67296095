package runner

import "context"

// decoder is what a generation runs on: a row of tokens with its KV cache. A [Sequence] is one; a slot of a
// batch or a sequence that speculates can stand behind it as well. It is for one goroutine at a time, and the
// methods keep what Sequence says of them.
//
// Tokens are chosen one by one, each by the logits behind the one before. A decoder that speculates runs
// several tokens in a step, keeps the rows of logits behind those that it guessed, and answers Decode from
// them as long as the tokens chosen are the guessed ones: the answer is then the same as without, whatever
// the sampling.
type decoder interface {
	Len() int
	Reserve(n int) error
	Prefill(ctx context.Context, tokens []int32) ([]float32, error)
	Decode(ctx context.Context, token int32) ([]float32, error)
	Truncate(n int) error
	Watch(ctx context.Context) (stop func())
	// fork gives another decoder with the same tokens.
	fork() (decoder, error)
	// report adds what it has to say about how the answer was made.
	report(r *Result)
	Close()
}

// newDecoder waits for a place in the batch, if there is one.
func (r *Runner) newDecoder(ctx context.Context, q *Request) (decoder, error) {
	d, err := r.newGuessing(ctx, q)
	if err != nil || !q.Shift {
		return d, err
	}
	return &shifter{decoder: d, keep: q.Keep, context: r.context}, nil
}

func (r *Runner) newGuessing(ctx context.Context, q *Request) (decoder, error) {
	if q.Speculate == 0 {
		return r.newVerifier(ctx)
	}
	var d drafter = promptLookup{}
	if q.Draft != nil {
		m, err := r.newDraft(q.Draft)
		if err != nil {
			return nil, err
		}
		d = m
	}
	v, err := r.newVerifier(ctx)
	if err != nil {
		d.close()
		return nil, err
	}
	return newSpeculator(v, d, min(q.Speculate, r.chunk-1), r.context), nil
}

func (r *Runner) newVerifier(ctx context.Context) (verifier, error) {
	if r.scheduler != nil {
		t, err := r.scheduler.open(ctx)
		if err != nil {
			return nil, err
		}
		return t, nil
	}
	s, err := r.NewSequence()
	if err != nil {
		return nil, err
	}
	s.prefix = r.prefix
	return s, nil
}

func (s *Sequence) report(r *Result) { r.CachedTokens = s.hit }

func (s *Sequence) fork() (decoder, error) {
	f, err := s.Fork()
	if err != nil {
		return nil, err
	}
	f.hit = s.hit
	return f, nil
}
