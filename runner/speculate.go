package runner

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/qwenrt/qwenrt/runner/sample"
)

// DefaultSpeculation is a good Request.Speculate on a CPU: a row more costs about a third of a step, so that
// longer guesses pay only where nearly all are right.
const DefaultSpeculation = 8

// maxSpeculation bounds the rows of logits of a run.
const maxSpeculation = 64

// speculator is a decoder that guesses. It runs the token that was chosen together with guesses of those
// behind it, and answers from the rows of logits that this gave as long as the tokens chosen are the guessed
// ones. What is chosen, and how, is the caller's matter: each row is what the model gives behind the tokens
// before it, so the answer has the same distribution as without guesses, whatever the sampling. For a guess
// that is one certain token this is what speculative sampling comes to (Leviathan et al. 2023, section
// 2.3): it is taken with the probability that the model gives it.
type speculator struct {
	verifier
	drafter drafter
	limit   int     // of guesses in a run
	context int     // of the model
	tokens  []int32 // prompt and chosen ones
	guesses []int32 // those that inner has run behind them
	run     []int32
	row     int // of logits, behind the last of tokens

	// width is how many guesses the next run has, rest for how many steps there are none: right guesses
	// make the one longer, a run in which none is right makes the other longer.
	width, rest, pause  int
	right               int // guesses that were right in this run
	drafted, acceptance int
}

// verifier is a decoder that can run some tokens at once and show the logits behind each.
type verifier interface {
	decoder
	// verify appends tokens. Row i is then what follows the token i, until the next call.
	verify(ctx context.Context, tokens []int32) error
	row(i int) []float32
}

// drafter guesses tokens.
type drafter interface {
	// draft appends at most n tokens to dst that may follow tokens.
	draft(ctx context.Context, dst, tokens []int32, n int) ([]int32, error)
	fork() drafter
	close()
}

func newSpeculator(v verifier, d drafter, limit, context int) *speculator {
	return &speculator{verifier: v, drafter: d, limit: limit, context: context, width: min(4, limit)}
}

func (s *speculator) Len() int { return len(s.tokens) }

func (s *speculator) Prefill(ctx context.Context, tokens []int32) ([]float32, error) {
	if err := s.forget(); err != nil {
		return nil, err
	}
	logits, err := s.verifier.Prefill(ctx, tokens)
	if err != nil {
		return nil, err
	}
	s.tokens = append(s.tokens, tokens...)
	return logits, nil
}

func (s *speculator) Decode(ctx context.Context, token int32) ([]float32, error) {
	if len(s.guesses) > 0 && s.guesses[0] == token {
		s.guesses = s.guesses[1:]
		s.tokens = append(s.tokens, token)
		s.right++
		s.acceptance++
		s.row++
		return s.verifier.row(s.row), nil
	}
	if err := s.forget(); err != nil {
		return nil, err
	}
	s.tokens = append(s.tokens, token)
	if err := s.guess(ctx); err != nil {
		s.tokens = s.tokens[:len(s.tokens)-1]
		return nil, err
	}
	if len(s.run) == 1 {
		logits, err := s.verifier.Decode(ctx, token)
		if err != nil {
			s.tokens = s.tokens[:len(s.tokens)-1]
		}
		return logits, err
	}
	if err := s.verify(ctx, s.run); err != nil {
		s.tokens = s.tokens[:len(s.tokens)-1]
		return nil, err
	}
	s.guesses, s.row, s.right = s.run[1:], 0, 0
	s.drafted += len(s.guesses)
	return s.verifier.row(0), nil
}

// guess makes the next run: the last token, and guesses behind it.
func (s *speculator) guess(ctx context.Context) (err error) {
	s.run = append(s.run[:0], s.tokens[len(s.tokens)-1])
	n := min(s.width, s.context-len(s.tokens))
	if s.rest > 0 {
		s.rest--
		return nil
	}
	if n > 0 {
		s.run, err = s.drafter.draft(ctx, s.run, s.tokens, n)
	}
	return err
}

// maxPause is for how many steps at most there are no guesses after one that was wrong.
const maxPause = 32

// forget takes back the guesses that were not chosen, and learns from the run that is over.
func (s *speculator) forget() error {
	if len(s.run) > 1 {
		switch {
		case s.right == len(s.run)-1:
			s.width, s.pause = min(2*s.width, s.limit), 0
		case s.right > 0:
			s.width, s.pause = min(s.right+1, s.limit), 0
		default:
			s.width = max(s.width/2, 1)
			s.pause = min(2*s.pause+1, maxPause)
			s.rest = s.pause - 1
		}
		s.run = s.run[:0]
	}
	if len(s.guesses) == 0 {
		return nil
	}
	s.guesses = nil
	return s.verifier.Truncate(len(s.tokens))
}

func (s *speculator) Truncate(n int) error {
	if n < 0 || n > len(s.tokens) {
		return fmt.Errorf("runner: %w: truncate a sequence of %d tokens to %d", ErrRequest, len(s.tokens), n)
	}
	s.guesses, s.run = nil, s.run[:0]
	if err := s.verifier.Truncate(n); err != nil {
		return err
	}
	s.tokens = s.tokens[:n]
	return nil
}

func (s *speculator) fork() (decoder, error) {
	if err := s.forget(); err != nil {
		return nil, err
	}
	inner, err := s.verifier.fork()
	if err != nil {
		return nil, err
	}
	f := newSpeculator(inner.(verifier), s.drafter.fork(), s.limit, s.context)
	f.tokens = slices.Clone(s.tokens)
	return f, nil
}

func (s *speculator) report(r *Result) {
	s.verifier.report(r)
	r.DraftedTokens, r.AcceptedTokens = s.drafted, s.acceptance
	s.drafted, s.acceptance = 0, 0 // the next answer's are its own
}

func (s *speculator) Close() {
	_ = s.forget() // what was not chosen is not for the prefix cache; fails on a closed sequence alone
	s.drafter.close()
	s.verifier.Close()
}

func (s *Sequence) verify(ctx context.Context, tokens []int32) error {
	if err := s.admit(tokens); err != nil {
		return err
	}
	defer s.Watch(ctx)()
	return s.step(tokens, len(tokens))
}

func (t *slot) verify(ctx context.Context, tokens []int32) error {
	return t.do(ctx, job{ctx: ctx, tokens: tokens, all: true})
}

func (t *slot) row(i int) []float32 {
	v := int(t.s.r.layout.vocab)
	return t.logits[i*v : (i+1)*v : (i+1)*v]
}

// promptLookup guesses that what followed these last tokens before will follow them again (Saxena, "Prompt
// Lookup Decoding", 2023): the copies of an answer that quotes, edits or sums up its prompt.
type promptLookup struct{}

// Of the last tokens, minMatch have to be found for a guess; the place is taken where most are, up to
// maxMatch, and of those the last.
const (
	minMatch = 2
	maxMatch = 16
)

func (promptLookup) draft(_ context.Context, dst, tokens []int32, n int) ([]int32, error) {
	end := len(tokens)
	best, length := 0, minMatch-1
	for i := end - 1; i > length && length < maxMatch; i-- {
		m := 0
		for m < maxMatch && m < i && tokens[i-1-m] == tokens[end-1-m] {
			m++
		}
		if m > length {
			best, length = i, m
		}
	}
	if best == 0 {
		return dst, nil
	}
	for i := range n { // behind the end, what was guessed goes on: a loop of two tokens goes on as one
		if best+i < end {
			dst = append(dst, tokens[best+i])
		} else {
			dst = append(dst, dst[len(dst)-(end-best)])
		}
	}
	return dst, nil
}

func (promptLookup) fork() drafter { return promptLookup{} }
func (promptLookup) close()        {}

// draftModel guesses what a smaller model finds most likely.
type draftModel struct {
	r   *Runner
	seq *Sequence // nil until it is needed
	max int32     // tokens of the model that it guesses for
}

func (d *draftModel) draft(ctx context.Context, dst, tokens []int32, n int) ([]int32, error) {
	if d.seq == nil {
		s, err := d.r.NewSequence()
		if err != nil {
			return dst, err
		}
		d.seq = s
	}
	same := 0
	for known := d.seq.Tokens(); same < min(len(known), len(tokens)-1) && known[same] == tokens[same]; same++ {
	}
	if err := d.seq.Truncate(same); err != nil {
		return dst, err
	}
	n = min(n, d.r.context-len(tokens))
	if n <= 0 || slices.Max(tokens[same:]) >= int32(d.r.layout.vocab) {
		return dst, nil
	}
	logits, err := d.seq.Prefill(ctx, tokens[same:])
	for i := 0; err == nil; i++ {
		token := int32(max(0, sample.Argmax(logits))) // of logits that are all NaN, any guess is as good
		if token >= d.max {
			return dst, nil
		}
		if dst = append(dst, token); i == n-1 {
			return dst, nil
		}
		logits, err = d.seq.Decode(ctx, token)
	}
	return dst, err
}

func (d *draftModel) fork() drafter {
	d.r.generations.Add(1) // d is one itself
	return &draftModel{r: d.r, max: d.max}
}

func (d *draftModel) close() {
	if d.seq != nil {
		d.seq.Close()
	}
	d.r.generations.Done()
}

// newDraft checks that d can guess for r. Close gives it back.
func (r *Runner) newDraft(d *Runner) (*draftModel, error) {
	mine, err := r.tokenizerHash()
	if err != nil {
		return nil, err
	}
	its, err := d.tokenizerHash()
	if err != nil {
		return nil, err
	}
	if mine != its {
		return nil, fmt.Errorf("runner: %w: the tokenizer of the draft model %s is not that of %s", ErrRequest, d.dir, r.dir)
	}
	if err := d.enter(); err != nil {
		return nil, err
	}
	return &draftModel{r: d, max: int32(r.layout.vocab)}, nil
}

const tokenizerFile = "tokenizer.json"

// tokenizerHash tells tokenizers apart; those of models that have none are one.
func (r *Runner) tokenizerHash() (sum [sha256.Size]byte, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tokHash == nil {
		b, err := os.ReadFile(filepath.Join(r.dir, tokenizerFile))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return sum, fmt.Errorf("runner: %w", err)
		}
		r.tokHash = new(sha256.Sum256(b))
	}
	return *r.tokHash, nil
}
