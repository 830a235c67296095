package runner

import (
	"context"
	"errors"
	"fmt"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/ort"
)

// Sequence is a row of tokens with its KV cache. It is for one goroutine at a time.
//
// All its tensors lie outside Go's heap and are bound to the session once: a decode step changes the
// token, the length, and nothing else.
type Sequence struct {
	r       *Runner
	binding *ort.Binding
	control *ort.RunControl
	cache   cache
	length  int
	broken  error // set when the cache is not what length says

	ids, mask, positions, keep, logits         *ort.Tensor
	idsIn, maskIn, positionsIn, logitsOut      *ort.Slot
	boundIDs, boundTotal, boundRows, sizedRows int // shapes as bound
	wide                                       []float32
}

// NewSequence starts an empty sequence.
func (r *Runner) NewSequence() (*Sequence, error) {
	if err := r.enter(); err != nil {
		return nil, err
	}
	s := &Sequence{r: r}
	if err := s.open(); err != nil {
		s.Close()
		return nil, fmt.Errorf("runner: %w", err)
	}
	return s, nil
}

func (s *Sequence) open() (err error) {
	l := s.r.layout
	if s.binding, err = s.r.session.NewBinding(); err != nil {
		return err
	}
	if s.control, err = ort.NewRunControl(); err != nil {
		return err
	}
	if s.idsIn, err = s.binding.Input(inputIDs); err != nil {
		return err
	}
	if s.maskIn, err = s.binding.Input(attentionMask); err != nil {
		return err
	}
	if s.logitsOut, err = s.binding.Output(logitsOutput); err != nil {
		return err
	}
	if s.ids, err = ort.NewTensor(ort.Int64, 1, int64(s.r.chunk)); err != nil {
		return err
	}
	if l.positions {
		if s.positionsIn, err = s.binding.Input(positionIDs); err != nil {
			return err
		}
		if s.positions, err = ort.NewTensor(ort.Int64, 1, int64(s.r.chunk)); err != nil {
			return err
		}
	}
	if l.keep {
		if s.keep, err = ort.NewTensor(ort.Int64, 1); err != nil {
			return err
		}
		if err = s.binding.BindInput(logitsToKeep, s.keep); err != nil {
			return err
		}
	}
	if l.logits != ort.Float32 {
		s.wide = make([]float32, l.vocab)
	}
	return s.cache.open(s.binding, l)
}

// Close releases the sequence. A second Close does nothing.
func (s *Sequence) Close() {
	if s.r == nil {
		return
	}
	if s.binding != nil {
		s.binding.Close()
	}
	if s.control != nil {
		s.control.Close()
	}
	s.cache.close()
	for _, t := range []*ort.Tensor{s.ids, s.mask, s.positions, s.keep, s.logits} {
		if t != nil {
			t.Close()
		}
	}
	s.r.active.Done()
	s.r = nil
}

// Len is the number of tokens in the sequence.
func (s *Sequence) Len() int { return s.length }

// Capacity is the number of tokens for which the cache has memory.
func (s *Sequence) Capacity() int { return s.cache.capacity }

// Left is the number of tokens that still fit the context.
func (s *Sequence) Left() int {
	if s.r == nil {
		return 0
	}
	return s.r.context - s.length
}

// Truncate cuts the sequence back to its first n tokens. With a shared cache it costs nothing.
func (s *Sequence) Truncate(n int) error {
	if err := s.usable(); err != nil {
		return err
	}
	if n < 0 || n > s.length {
		return fmt.Errorf("runner: %w: truncate a sequence of %d tokens to %d", ErrRequest, s.length, n)
	}
	if err := s.cache.truncate(n); err != nil {
		s.broken = err
		return fmt.Errorf("runner: %w", err)
	}
	s.length = n
	return nil
}

// Watch lets ctx stop the runs of s until stop is called. Prefill and Decode watch their own
// context; where one Watch serves many steps, they cost less with context.Background().
func (s *Sequence) Watch(ctx context.Context) (stop func()) { return s.control.Watch(ctx) }

// Reserve makes room in the cache for n tokens in all, so that it does not grow on the way.
func (s *Sequence) Reserve(n int) error {
	if err := s.usable(); err != nil {
		return err
	}
	return s.reserve(min(n, s.r.context))
}

func (s *Sequence) usable() error {
	if s.r == nil {
		return fmt.Errorf("runner: sequence: %w", ErrClosed)
	}
	if s.broken != nil {
		return fmt.Errorf("runner: the sequence is no longer usable: %w", s.broken)
	}
	return nil
}

// Prefill appends tokens and gives the logits [vocabulary] behind the last of them. They stay valid
// until the next call. Tokens are run in chunks; when ctx ends, or a run fails, the sequence is as
// long as before the call.
//
// Errors: ErrContext, ErrToken, ErrRequest (no tokens), ErrClosed, and the context's.
func (s *Sequence) Prefill(ctx context.Context, tokens []int32) ([]float32, error) {
	if err := s.admit(tokens); err != nil {
		return nil, err
	}
	if ctx.Done() != nil {
		defer s.Watch(ctx)()
	}
	before := s.length
	for len(tokens) > 0 {
		n := min(len(tokens), s.r.chunk)
		if err := s.run(tokens[:n], 1); err != nil {
			return nil, errors.Join(err, s.Truncate(before))
		}
		tokens = tokens[n:]
	}
	return s.row(s.boundRows - 1), nil
}

// Decode appends one token and gives the logits [vocabulary] behind it. They stay valid until the
// next call. It does not allocate on Go's heap, except when the cache grows.
func (s *Sequence) Decode(ctx context.Context, token int32) ([]float32, error) {
	one := [1]int32{token}
	if err := s.admit(one[:]); err != nil {
		return nil, err
	}
	if ctx.Done() != nil {
		defer s.Watch(ctx)()
	}
	if err := s.run(one[:], 1); err != nil {
		return nil, err
	}
	return s.row(s.boundRows - 1), nil
}

// Score appends tokens and calls row for each of them, in order, with the logits [vocabulary] behind it.
// The slice is valid during the call only.
func (s *Sequence) Score(ctx context.Context, tokens []int32, row func(i int, logits []float32) error) error {
	if err := s.admit(tokens); err != nil {
		return err
	}
	if ctx.Done() != nil {
		defer s.Watch(ctx)()
	}
	before := s.length
	for done := 0; done < len(tokens); {
		n := min(len(tokens)-done, s.r.chunk)
		if err := s.run(tokens[done:done+n], n); err != nil {
			return errors.Join(err, s.Truncate(before))
		}
		for i := range n {
			if err := row(done+i, s.row(i)); err != nil {
				return err
			}
		}
		done += n
	}
	return nil
}

// admit checks tokens before anything is run.
func (s *Sequence) admit(tokens []int32) error {
	if err := s.usable(); err != nil {
		return err
	}
	if len(tokens) == 0 {
		return fmt.Errorf("runner: %w: no tokens", ErrRequest)
	}
	if len(tokens) > s.Left() {
		return fmt.Errorf("runner: %w: %d tokens in the sequence and %d more do not fit %d", ErrContext, s.length, len(tokens), s.r.context)
	}
	for _, t := range tokens {
		if t < 0 || int64(t) >= s.r.layout.vocab {
			return fmt.Errorf("runner: %w: %d is not one of 0 to %d", ErrToken, t, s.r.layout.vocab-1)
		}
	}
	return nil
}

// run appends tokens, at most a chunk, and computes the last rows of logits.
func (s *Sequence) run(tokens []int32, rows int) error {
	total := s.length + len(tokens)
	if err := s.reserve(total); err != nil {
		return err
	}
	if err := s.bind(tokens, total, rows); err != nil {
		return fmt.Errorf("runner: %w", err)
	}
	if err := s.cache.before(s.length, total); err != nil {
		return fmt.Errorf("runner: %w", err)
	}
	if err := s.binding.Run(s.control); err != nil {
		return fmt.Errorf("runner: %w", err)
	}
	if err := s.cache.after(); err != nil {
		s.broken = err
		return fmt.Errorf("runner: %w", err)
	}
	s.length = total
	return nil
}

// bind sets the inputs of a step, and rebinds those whose shape is not that of the last one.
func (s *Sequence) bind(tokens []int32, total, rows int) error {
	n := len(tokens)
	if s.boundIDs != n {
		if err := s.ids.Reshape(1, int64(n)); err != nil {
			return err
		}
		if err := s.idsIn.Set(s.ids); err != nil {
			return err
		}
		if s.positions != nil {
			if err := s.positions.Reshape(1, int64(n)); err != nil {
				return err
			}
			if err := s.positionsIn.Set(s.positions); err != nil {
				return err
			}
		}
		s.boundIDs = n
	}
	ids := ort.Data[int64](s.ids)
	for i, t := range tokens {
		ids[i] = int64(t)
	}
	if s.positions != nil {
		for i, p := 0, ort.Data[int64](s.positions); i < n; i++ {
			p[i] = int64(s.length + i)
		}
	}
	if s.boundTotal != total {
		if err := s.mask.Reshape(1, int64(total)); err != nil {
			return err
		}
		if err := s.maskIn.Set(s.mask); err != nil {
			return err
		}
		s.boundTotal = total
	}
	if s.keep != nil {
		ort.Data[int64](s.keep)[0] = int64(rows)
	} else {
		rows = n
	}
	return s.bindLogits(rows)
}

func (s *Sequence) bindLogits(rows int) error {
	if s.boundRows == rows {
		return nil
	}
	if s.logits == nil || rows > s.sizedRows {
		t, err := ort.NewTensor(s.r.layout.logits, 1, int64(rows), s.r.layout.vocab)
		if err != nil {
			return err
		}
		if s.logits != nil {
			s.logits.Close()
		}
		s.logits, s.sizedRows = t, rows
	} else if err := s.logits.Reshape(1, int64(rows), s.r.layout.vocab); err != nil {
		return err
	}
	s.boundRows = rows
	return s.logitsOut.Set(s.logits)
}

// row gives row i of the logits as float32: in place, or widened.
func (s *Sequence) row(i int) []float32 {
	v := int(s.r.layout.vocab)
	if s.wide == nil {
		return ort.Data[float32](s.logits)[i*v : (i+1)*v : (i+1)*v]
	}
	half := ort.Data[uint16](s.logits)[i*v : (i+1)*v]
	ir.WidenHalf(s.wide, half, s.r.layout.logits == ort.BFloat16)
	return s.wide
}

// reserve grows cache and mask for n tokens.
func (s *Sequence) reserve(n int) error {
	if n <= s.cache.capacity {
		return nil
	}
	capacity := s.cache.next(n, s.r.context)
	mask, err := ort.NewTensor(ort.Int64, 1, int64(capacity))
	if err != nil {
		return fmt.Errorf("runner: %w", err)
	}
	for i, m := 0, ort.Data[int64](mask); i < len(m); i++ {
		m[i] = 1
	}
	if s.mask != nil {
		s.mask.Close()
	}
	s.mask, s.boundTotal = mask, 0
	if err := s.cache.grow(capacity, s.length); err != nil {
		s.broken = err
		return fmt.Errorf("runner: grow the KV cache to %d tokens: %w", capacity, err)
	}
	return nil
}
