package runner

import (
	"context"
	"fmt"
	"slices"

	"github.com/qwenrt/qwenrt/ort"
)

// Sequence is a row of tokens with its KV cache. It is for one goroutine at a time.
//
// All its tensors lie outside Go's heap and are bound to the session once: a decode step changes the
// token, the length, and nothing else.
type Sequence struct {
	feed   // its runner is nil once the sequence is closed
	cache  cache
	fixed  *fixture // nil: steps have the shape that the tokens give them
	ran    *feed    // what the last run was bound to
	tokens []int32
	prefix *prefixCache // that prompts begin with; nil: none
	hit    int          // tokens that the last prompt had from there
	unkept bool         // the prefix cache has not yet been given what the last Prefill ran
}

// NewSequence starts an empty sequence. Close it: the garbage collector does not see its memory.
func (r *Runner) NewSequence() (*Sequence, error) {
	fix := false
	if r.thread != nil {
		var s *Sequence
		if s, fix = r.fixtures.take(); s != nil {
			return s, nil
		}
	}
	s, err := r.newSequence()
	switch {
	case err != nil:
	case fix:
		err = wrap(s.fix())
	case r.reserve && r.layout.shared:
		err = s.reserve(r.context)
	}
	if err == nil {
		return s, nil
	}
	if s != nil {
		s.free()
	}
	if fix {
		r.fixtures.give()
	}
	return nil, err
}

// newSequence is NewSequence without a cache.
func (r *Runner) newSequence() (*Sequence, error) {
	s := &Sequence{}
	c, err := newControl()
	if err == nil {
		err = s.feed.open(r, r.chunk, c)
	}
	if err == nil {
		err = s.bindKeep()
	}
	if err == nil {
		err = s.cache.open(s.binding, r.layout)
	}
	if err != nil {
		s.free()
		return nil, wrap(err)
	}
	return s, nil
}

// Close releases the sequence. A second Close does nothing.
func (s *Sequence) Close() {
	if s.r == nil {
		return
	}
	s.keep()
	if s.fixed == nil || !s.r.fixtures.keep(s) {
		s.free()
	}
}

// free releases what s is bound to.
func (s *Sequence) free() {
	if s.fixed != nil {
		s.fixed.close()
	}
	s.feed.close()
	s.cache.close()
	s.r = nil
}

// Len is the number of tokens in the sequence.
func (s *Sequence) Len() int { return len(s.tokens) }

// Tokens are the tokens of the sequence: its own, until the next call.
func (s *Sequence) Tokens() []int32 { return s.tokens }

// Capacity is the number of tokens for which the cache has memory; see [Info.KVBytes].
func (s *Sequence) Capacity() int {
	if s.r == nil {
		return 0
	}
	if !s.r.layout.shared {
		return s.Len()
	}
	return s.cache.capacity
}

// Left is the number of tokens that still fit the context.
func (s *Sequence) Left() int {
	if s.r == nil {
		return 0
	}
	return s.r.context - s.Len()
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
	if other.Len() == 0 {
		return nil
	}
	if err := s.reserve(other.Len()); err != nil {
		return err
	}
	if err := s.cache.clone(&other.cache, other.Len()); err != nil {
		return wrap(err)
	}
	s.tokens = append(s.tokens, other.tokens...)
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
	if n < 0 || n > s.Len() {
		return fmt.Errorf("runner: %w: truncate a sequence of %d tokens to %d", ErrRequest, s.Len(), n)
	}
	if s.unkept && n < s.Len() {
		s.keep()
	}
	if err := s.cache.truncate(s.Len(), n); err != nil {
		return wrap(err)
	}
	s.tokens = s.tokens[:n]
	return nil
}

// keep gives the prefix cache what there is. Behind a prompt that waits for the next step, which is when
// its caller has the logits.
func (s *Sequence) keep() {
	if s.unkept = false; s.prefix != nil {
		s.prefix.store(s.tokens, &s.cache)
	}
}

// Watch lets ctx stop the runs of s until stop is called. Prefill, Decode and Score watch the context
// that they are given, at the price of some allocations; where one context serves many steps, Watch it
// once and give them context.Background().
func (s *Sequence) Watch(ctx context.Context) (stop func()) {
	if ctx.Done() == nil || s.r == nil {
		return func() {}
	}
	c := s.control
	end := c.Watch(ctx)
	return func() {
		end()
		_ = c.Reset() // or the next run would be stopped too; fails on a closed sequence alone
	}
}

// Reserve makes room in the cache for n tokens in all, at most the context, so that it does not grow
// on the way. Memory that the system has not yet been asked for by use is not resident.
func (s *Sequence) Reserve(n int) error {
	if s.r == nil {
		return errSequenceClosed
	}
	return s.reserve(min(max(n, s.Len()), s.r.context)) // Len: a cache that could not grow counts as having no room
}

var errSequenceClosed = fmt.Errorf("runner: sequence: %w", ErrClosed)

// Prefill appends tokens and gives the logits [vocabulary] behind the last of them. They stay valid
// until the next call. Tokens are run in chunks of Options.PrefillChunk; after an error the sequence is
// as long as before.
//
// Errors: ErrContext, ErrToken, ErrRequest (no tokens), ErrClosed, and the context's.
func (s *Sequence) Prefill(ctx context.Context, tokens []int32) ([]float32, error) {
	known, err := s.recall(tokens)
	if err != nil {
		return nil, err
	}
	if err := s.extend(ctx, tokens[known:], nil); err != nil {
		if back := s.Truncate(s.Len() - known); back != nil {
			err = fmt.Errorf("%w; %w", err, back)
		}
		return nil, err
	}
	s.unkept = s.prefix != nil
	return s.row(0), nil
}

// recall takes what the prefix cache has of a prompt, and says of how many tokens.
func (s *Sequence) recall(tokens []int32) (int, error) {
	s.hit = 0
	if s.prefix == nil || s.Len() > 0 {
		return 0, nil
	}
	if err := s.admit(tokens); err != nil {
		return 0, err
	}
	if err := s.reserve(len(tokens)); err != nil {
		return 0, err
	}
	var err error
	s.hit, err = s.prefix.load(s, tokens)
	return s.hit, wrap(err)
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
	return s.row(0), nil
}

// extend appends tokens in chunks, and shows all rows of logits if there is somebody to see them.
func (s *Sequence) extend(ctx context.Context, tokens []int32, row func(i int, logits []float32) error) error {
	if err := s.admit(tokens); err != nil {
		return err
	}
	defer s.Watch(ctx)()
	before := s.Len()
	if err := s.reserve(before + len(tokens)); err != nil { // at once: growing copies
		return err
	}
	for done := 0; done < len(tokens); {
		n := min(len(tokens)-done, s.r.chunkAt(s.Len()))
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
		return fmt.Errorf("runner: %w: %d tokens in the sequence and %d more do not fit %d", ErrContext, s.Len(), len(tokens), s.r.context)
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
	if s.unkept {
		s.keep()
	}
	total := s.Len() + len(tokens)
	if err := s.reserve(total); err != nil {
		return err
	}
	if err := s.prepare(tokens, total, rows); err != nil {
		return wrap(err)
	}
	if err := s.ran.run(); err != nil {
		return wrap(err)
	}
	s.cache.after()
	s.tokens = append(s.tokens, tokens...)
	return nil
}

// prepare binds a step.
func (s *Sequence) prepare(tokens []int32, total, rows int) error {
	if s.fixed != nil && len(tokens) == 1 {
		s.ran = &s.fixed.step.feed
		at := [1]int{s.Len()}
		return s.fixed.step.fill(tokens, at[:])
	}
	s.ran = &s.feed
	if err := s.bind(tokens, total, rows); err != nil {
		return err
	}
	return s.cache.before(s.Len(), total)
}

// row is a row of logits of the last run.
func (s *Sequence) row(i int) []float32 { return s.ran.row(i) }

// bind sets the inputs of a step.
func (s *Sequence) bind(tokens []int32, total, rows int) error {
	if err := s.shape(1, len(tokens), total, rows); err != nil {
		return err
	}
	ids := ort.Data[int64](s.ids.seen)
	for i, t := range tokens {
		ids[i] = int64(t)
	}
	if s.positions.bound != nil {
		p := ort.Data[int64](s.positions.seen)
		for i := range tokens {
			p[i] = int64(len(s.tokens) + i)
		}
	}
	return nil
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
		err = s.cache.grow(capacity, s.Len())
	}
	if err == nil {
		s.tokens = slices.Grow(s.tokens, capacity-s.Len())
	}
	if err != nil {
		return wrap(fmt.Errorf("grow the KV cache to %d tokens: %w", capacity, err))
	}
	return nil
}
