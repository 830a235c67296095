package eval

import (
	"context"
	"fmt"

	"github.com/qwenrt/qwenrt/runner"
)

// Reference is what a model is compared with: ModelReference or a LogitsFile.
type Reference interface {
	// text gives the tokens to measure on, and settles the context where o leaves it open.
	text(tokens []int32, o *Options) ([]int32, error)
	// open starts a pass over the chunks.
	open(vocabulary int) (source, error)
}

// source gives distributions chunk by chunk, from the first on.
type source interface {
	// chunk computes the scored rows of the next chunk. They are valid until the next call.
	chunk(ctx context.Context, tokens []int32) error
	// row is scored row i, as a distribution.
	row(i int) (distribution, error)
	close()
}

// ModelReference compares with another model of the same vocabulary, which runs beside the one measured.
func ModelReference(r *runner.Runner) Reference { return modelReference{r} }

type modelReference struct{ r *runner.Runner }

func (m modelReference) text(tokens []int32, _ *Options) ([]int32, error) { return tokens, nil }

func (m modelReference) open(vocabulary int) (source, error) {
	if n := m.r.Info().Vocabulary; n != vocabulary {
		return nil, fmt.Errorf("%w: it has a vocabulary of %d tokens, the model %d", ErrReference, n, vocabulary)
	}
	return newScorer(m.r)
}

// scorer runs chunks through a model.
type scorer struct {
	seq    *runner.Sequence
	vocab  int
	logits []float32 // of the scored rows [rows, vocab]
}

func newScorer(r *runner.Runner) (*scorer, error) {
	seq, err := r.NewSequence()
	if err != nil {
		return nil, err
	}
	return &scorer{seq: seq, vocab: r.Info().Vocabulary}, nil
}

func (s *scorer) close() { s.seq.Close() }

func (s *scorer) chunk(ctx context.Context, tokens []int32) error {
	if err := s.seq.Truncate(0); err != nil {
		return err
	}
	s.logits = s.logits[:0]
	first, last := firstScored(len(tokens)), len(tokens)-2
	return s.seq.Score(ctx, tokens, func(i int, logits []float32) error {
		if first <= i && i <= last {
			s.logits = append(s.logits, logits...)
		}
		return nil
	})
}

func (s *scorer) row(i int) (distribution, error) {
	d := fromLogits(s.logits[i*s.vocab : (i+1)*s.vocab])
	if !d.finite() {
		return d, ErrNotFinite
	}
	return d, nil
}
