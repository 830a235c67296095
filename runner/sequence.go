package runner

import (
	"context"
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

	ids, mask, positions, keep, logits         *ort.Tensor
	idsIn, maskIn, positionsIn, logitsOut      *ort.Slot
	boundIDs, boundTotal, boundRows, sizedRows int // shapes as bound
	wide                                       []float32
}

// NewSequence starts an empty sequence. Close it: the garbage collector does not see its memory.
func (r *Runner) NewSequence() (*Sequence, error) {
	s := &Sequence{r: r}
	if err := s.open(); err != nil {
		s.Close()
		return nil, wrap(err)
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
	closeAll([]*ort.Tensor{s.ids, s.mask, s.positions, s.keep, s.logits})
	s.r = nil
}

// Len is the number of tokens in the sequence.
func (s *Sequence) Len() int { return s.length }

// Capacity is the number of tokens for which the cache has memory; see [Info.KVBytes].
func (s *Sequence) Capacity() int {
	if s.r == nil {
		return 0
	}
	if !s.r.layout.shared {
		return s.length
	}
	return s.cache.capacity
}

// Left is the number of tokens that still fit the context.
func (s *Sequence) Left() int {
	if s.r == nil {
		return 0
	}
	return s.r.context - s.length
}

// Fork starts a second sequence with the same tokens: both go on from here, each on its own. It copies the
// cache of the tokens in use, where the graph writes to it in place; others are shared until they differ.
// The logits of the last call stay with s.
func (s *Sequence) Fork() (*Sequence, error) {
	if s.r == nil {
		return nil, errSequenceClosed
	}
	f, err := s.r.NewSequence()
	if err != nil {
		return nil, err
	}
	if err := f.adopt(s); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// adopt takes over the tokens of another sequence. s is empty.
func (s *Sequence) adopt(other *Sequence) error {
	if other.length == 0 {
		return nil
	}
	if err := s.reserve(other.length); err != nil {
		return err
	}
	if err := s.cache.clone(&other.cache, other.length); err != nil {
		return wrap(err)
	}
	s.length = other.length
	return nil
}

// Truncate cuts the sequence back to its first n tokens. With a shared cache it costs nothing; other
// caches are copied.
//
// Errors: ErrRequest (n is not from 0 to Len), ErrClosed.
func (s *Sequence) Truncate(n int) error {
	if s.r == nil {
		return errSequenceClosed
	}
	if n < 0 || n > s.length {
		return fmt.Errorf("runner: %w: truncate a sequence of %d tokens to %d", ErrRequest, s.length, n)
	}
	if err := s.cache.truncate(s.length, n); err != nil {
		return wrap(err)
	}
	s.length = n
	return nil
}

// Watch lets ctx stop the runs of s until stop is called. Prefill, Decode and Score watch the context
// that they are given, at the price of some allocations; where one context serves many steps, Watch it
// once and give them context.Background().
func (s *Sequence) Watch(ctx context.Context) (stop func()) {
	if ctx.Done() == nil {
		return func() {}
	}
	end := s.control.Watch(ctx)
	return func() {
		end()
		_ = s.control.Reset() // or the next run would be stopped too; fails on a closed sequence alone
	}
}

// Reserve makes room in the cache for n tokens in all, at most the context, so that it does not grow
// on the way. Memory that the system has not yet been asked for by use is not resident.
func (s *Sequence) Reserve(n int) error {
	if s.r == nil {
		return errSequenceClosed
	}
	return s.reserve(min(n, s.r.context))
}

var errSequenceClosed = fmt.Errorf("runner: sequence: %w", ErrClosed)

// Prefill appends tokens and gives the logits [vocabulary] behind the last of them. They stay valid
// until the next call. Tokens are run in chunks of Options.PrefillChunk; after an error the sequence is
// as long as before.
//
// Errors: ErrContext, ErrToken, ErrRequest (no tokens), ErrClosed, and the context's.
func (s *Sequence) Prefill(ctx context.Context, tokens []int32) ([]float32, error) {
	if err := s.extend(ctx, tokens, nil); err != nil {
		return nil, err
	}
	return s.row(s.boundRows - 1), nil
}

// Score appends tokens and calls row for each of them, in order, with the logits [vocabulary] behind it.
// The slice is valid during the call only, and row must not use s. An error of row ends Score and is
// returned as it is. The logits of a whole chunk are in memory: for Qwen3 311 MB at the default of 512
// tokens.
//
// Errors are those of Prefill; after any the sequence is as long as before.
func (s *Sequence) Score(ctx context.Context, tokens []int32, row func(i int, logits []float32) error) error {
	return s.extend(ctx, tokens, row)
}

// Decode appends one token and gives the logits [vocabulary] behind it. They stay valid until the next
// call. With a context that cannot end, it does not allocate on Go's heap, except when the cache grows
// and for graphs without a shared cache. Errors are those of Prefill.
func (s *Sequence) Decode(ctx context.Context, token int32) ([]float32, error) {
	one := [1]int32{token}
	if err := s.admit(one[:]); err != nil {
		return nil, err
	}
	defer s.Watch(ctx)()
	if err := s.step(one[:], 1); err != nil {
		return nil, err
	}
	return s.row(s.boundRows - 1), nil
}

// extend appends tokens in chunks, and shows all rows of logits if there is somebody to see them.
func (s *Sequence) extend(ctx context.Context, tokens []int32, row func(i int, logits []float32) error) error {
	if err := s.admit(tokens); err != nil {
		return err
	}
	defer s.Watch(ctx)()
	before := s.length
	if err := s.reserve(before + len(tokens)); err != nil { // at once: growing copies
		return err
	}
	for done := 0; done < len(tokens); {
		n := min(len(tokens)-done, s.r.chunk)
		if err := s.chunk(ctx, tokens[done:done+n], done, row); err != nil {
			if back := s.Truncate(before); back != nil {
				err = fmt.Errorf("%w; %w", err, back)
			}
			return err
		}
		done += n
	}
	return nil
}

func (s *Sequence) chunk(ctx context.Context, tokens []int32, first int, row func(i int, logits []float32) error) error {
	if err := ctx.Err(); err != nil {
		return wrap(err)
	}
	if row == nil {
		return s.step(tokens, 1)
	}
	if err := s.step(tokens, len(tokens)); err != nil {
		return err
	}
	for i := range tokens {
		if err := row(first+i, s.row(i)); err != nil {
			return err
		}
	}
	return nil
}

// admit checks tokens before anything is run.
func (s *Sequence) admit(tokens []int32) error {
	if s.r == nil {
		return errSequenceClosed
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

// step appends tokens, at most a chunk, and computes the last rows of logits.
func (s *Sequence) step(tokens []int32, rows int) error {
	total := s.length + len(tokens)
	if err := s.reserve(total); err != nil {
		return err
	}
	if err := s.bind(tokens, total, rows); err != nil {
		return wrap(err)
	}
	if err := s.cache.before(s.length, total); err != nil {
		return wrap(err)
	}
	if err := s.binding.Run(s.control); err != nil {
		return wrap(err)
	}
	s.cache.after()
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
	s.boundRows = 0 // until it is true again
	if rows > s.sizedRows {
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
	if err := s.logitsOut.Set(s.logits); err != nil {
		return err
	}
	s.boundRows = rows
	return nil
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

// reserve grows cache and mask for n tokens. When it fails, the sequence is as it was and can be used:
// what it then lacks it asks for again.
func (s *Sequence) reserve(n int) error {
	if n <= s.cache.capacity {
		return nil
	}
	capacity := s.cache.next(n, s.r.context)
	err := s.growMask(capacity)
	if err == nil {
		err = s.cache.grow(capacity, s.length)
	}
	if err != nil {
		return wrap(fmt.Errorf("grow the KV cache to %d tokens: %w", capacity, err))
	}
	return nil
}

// growMask makes an attention mask of ones. A step binds as much of it as there are tokens.
func (s *Sequence) growMask(tokens int) error {
	mask, err := ort.NewTensor(ort.Int64, 1, int64(tokens))
	if err != nil {
		return err
	}
	for i, m := 0, ort.Data[int64](mask); i < len(m); i++ {
		m[i] = 1
	}
	if s.mask != nil {
		s.mask.Close()
	}
	s.mask, s.boundTotal = mask, 0
	return nil
}
