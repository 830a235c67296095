package runner

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/qwenrt/qwenrt/runner/sample"
	"github.com/qwenrt/qwenrt/runner/tokenizer"
)

// Generate gives an answer as events, one for each token, while it is made. The last event has a
// Result; when the generation fails or ctx ends, it comes together with the error. Leaving the loop
// ends the generation.
//
// Errors: ErrRequest, ErrContext (the prompt does not fit), ErrToken, ErrClosed, those of the
// tokenizer, the chat template and the sampler, and the context's.
func (r *Runner) Generate(ctx context.Context, q Request) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		g := &generation{r: r, q: q, start: time.Now()}
		err := r.enter()
		if err == nil {
			defer r.generations.Done()
			defer g.close()
			err = g.open(ctx)
		}
		reason := reasonOf(err)
		if err == nil {
			reason, err = g.answer(ctx, yield)
		}
		if reason != left {
			yield(g.last(reason), err)
		}
	}
}

// Text gives the whole answer at once. On error it gives what there is by then.
func (r *Runner) Text(ctx context.Context, q Request) (string, Result, error) {
	var text strings.Builder
	var result Result
	for ev, err := range r.Generate(ctx, q) {
		text.WriteString(ev.Text)
		if ev.Result != nil {
			result = *ev.Result
		}
		if err != nil {
			return text.String(), result, err
		}
	}
	return text.String(), result, nil
}

// left is the reason of a generation whose caller has left the loop: there is nobody to tell.
const left Reason = ""

func reasonOf(err error) Reason {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return Cancelled
	}
	return Failed
}

// generation is one call of Generate.
type generation struct {
	r       *Runner
	q       Request
	seq     decoder
	sampler *sample.Sampler
	limits  Constraint        // nil: none
	mask    []uint32          // of the tokens that it allows
	end     []int32           // tokens that end the answer
	stream  *tokenizer.Stream // nil without a tokenizer
	tokens  []int32           // prompt and answer
	prompt  int               // length of the prompt
	budget  int               // tokens that the answer may have

	start, first time.Time // of the call; when the first token was there
	prefill      time.Duration
	decode       time.Duration // from the first token to the last, of
	decoded      int           // steps
}

// open does what comes before the first run.
func (g *generation) open(ctx context.Context) (err error) {
	if err := g.q.validate(); err != nil {
		return err
	}
	prompt, err := g.r.tokens(ctx, &g.q)
	if err != nil {
		return err
	}
	if len(prompt) >= g.r.context {
		return fmt.Errorf("runner: %w: the prompt has %d tokens, the context %d", ErrContext, len(prompt), g.r.context)
	}
	g.prompt = len(prompt)
	g.budget = g.r.context - g.prompt
	if g.q.MaxTokens > 0 {
		g.budget = min(g.budget, g.q.MaxTokens)
	}
	soon := g.prompt + min(g.budget, cacheStep)
	g.tokens = append(make([]int32, 0, soon), prompt...)
	params := g.r.config.sampling
	if g.q.Sampling != nil {
		params = *g.q.Sampling
	}
	if g.sampler, err = sample.New(params, int(g.r.layout.vocab)); err != nil {
		return wrap(err)
	}
	if g.r.tok != nil {
		g.stream = g.r.tok.NewStream(tokenizer.DecodeOptions{ShowSpecial: g.q.ShowSpecial})
	}
	if !g.q.IgnoreEOS {
		g.end = g.r.config.stop
	}
	g.end = slices.Concat(g.end, g.q.StopTokens)
	if g.q.Constraint != nil {
		g.limits = g.q.Constraint.Clone()
		g.mask = make([]uint32, (g.r.layout.vocab+31)/32)
	}
	if g.seq, err = g.r.newDecoder(ctx); err != nil {
		return err
	}
	return g.seq.Reserve(soon) // or a prompt that just fits would be copied for the first token
}

func (g *generation) close() {
	if g.seq != nil {
		g.seq.Close()
	}
}

// answer shows tokens as they are made, until something ends the answer.
func (g *generation) answer(ctx context.Context, show func(Event, error) bool) (Reason, error) {
	logits, err := g.runPrompt(ctx)
	defer g.seq.Watch(ctx)() // once, so that a step costs nothing for it
	for err == nil {
		if g.limits != nil && g.limits.Done() {
			return Stop, nil
		}
		var ev Event
		if ev.Token, err = g.choose(logits); err != nil {
			break
		}
		if slices.Contains(g.end, ev.Token) {
			return Stop, nil
		}
		if err = g.accept(ev.Token); err != nil {
			break
		}
		g.tokens = append(g.tokens, ev.Token)
		if ev.Text, err = g.text(ev.Token); err != nil {
			break
		}
		if !show(ev, nil) {
			return left, nil
		}
		if len(g.tokens)-g.prompt == g.budget {
			return Length, nil
		}
		if err = ctx.Err(); err != nil { // ended by the caller: no token more
			err = wrap(err)
			break
		}
		logits, err = g.seq.Decode(context.Background(), ev.Token)
	}
	return reasonOf(err), err
}

func (g *generation) runPrompt(ctx context.Context) ([]float32, error) {
	start := time.Now()
	logits, err := g.seq.Prefill(ctx, g.tokens)
	g.prefill = time.Since(start)
	return logits, err
}

// choose takes a token, and its time.
func (g *generation) choose(logits []float32) (int32, error) {
	if g.r.tok != nil {
		for i := g.r.tok.VocabSize(); i < len(logits); i++ {
			logits[i] = float32(math.Inf(-1))
		}
	}
	if g.limits != nil {
		if err := constrain(g.limits, g.mask, logits, g.end); err != nil {
			return 0, err
		}
	}
	token, err := g.sampler.Next(logits, g.tokens, g.prompt)
	if err != nil {
		return 0, wrap(err)
	}
	if now := time.Now(); g.first.IsZero() {
		g.first = now
	} else {
		g.decode = now.Sub(g.first)
		g.decoded++
	}
	return token, nil
}

// accept tells the constraint of a token.
func (g *generation) accept(token int32) error {
	if g.limits == nil {
		return nil
	}
	return wrap(g.limits.Accept(token))
}

// text is what can be shown with one token more. An id between others that no token has, such as one
// left free in a tokenizer, has no text.
func (g *generation) text(token int32) (string, error) {
	if g.stream == nil {
		return "", nil
	}
	text, err := g.stream.Next(token)
	if err != nil && !errors.Is(err, tokenizer.ErrTokenRange) {
		return "", wrap(err)
	}
	return text, nil
}

// last is the event that ends the answer.
func (g *generation) last(reason Reason) Event {
	ev := Event{Token: -1, Result: &Result{
		Reason:          reason,
		PromptTokens:    g.prompt,
		Total:           time.Since(g.start),
		TokensPerSecond: rate(g.decoded, g.decode),
	}}
	if !g.first.IsZero() {
		ev.Result.GeneratedTokens = len(g.tokens) - g.prompt
		ev.Result.TTFT = g.first.Sub(g.start)
		ev.Result.PromptPerSecond = rate(g.prompt, g.prefill)
		ev.Result.CachedTokens = g.seq.cached()
	}
	if g.stream != nil {
		ev.Text = g.stream.Flush()
	}
	return ev
}

func rate(n int, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}
