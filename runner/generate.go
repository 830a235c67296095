package runner

import (
	"context"
	"errors"
	"fmt"
	"iter"
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
		g, err := r.prepare(ctx, q)
		if err != nil {
			yield(Event{Token: -1, Result: &Result{Reason: reasonOf(err)}}, err)
			return
		}
		defer g.seq.Close()
		g.run(ctx, yield)
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
	start   time.Time
	seq     *Sequence
	sampler *sample.Sampler
	stream  *tokenizer.Stream // nil without a tokenizer
	tokens  []int32           // prompt and answer
	prompt  int
	budget  int // tokens that the answer may have
	first   time.Time
}

func (r *Runner) prepare(ctx context.Context, q Request) (*generation, error) {
	g := &generation{r: r, q: q, start: time.Now()}
	prompt, err := r.tokens(ctx, &q)
	if err != nil {
		return nil, err
	}
	params := r.config.sampling
	if q.Sampling != nil {
		params = *q.Sampling
	}
	if g.sampler, err = sample.New(params, int(r.layout.vocab)); err != nil {
		return nil, fmt.Errorf("runner: %w: %w", ErrRequest, err)
	}
	if r.tok != nil {
		g.stream = r.tok.NewStream(tokenizer.DecodeOptions{ShowSpecial: q.ShowSpecial})
	}
	if len(prompt) >= r.context {
		return nil, fmt.Errorf("runner: %w: the prompt has %d tokens, the context %d", ErrContext, len(prompt), r.context)
	}
	g.prompt = len(prompt)
	// The last token of an answer needs no place in the cache, but is not worth an exception.
	g.budget = r.context - g.prompt
	if q.MaxTokens > 0 {
		g.budget = min(g.budget, q.MaxTokens)
	}
	g.tokens = append(make([]int32, 0, g.prompt+min(g.budget, cacheStep)), prompt...)
	g.seq, err = r.NewSequence()
	return g, err
}

func (g *generation) run(ctx context.Context, yield func(Event, error) bool) {
	defer g.seq.Watch(ctx)() // once, so that a step costs nothing for it
	unwatched := context.Background()
	logits, err := g.seq.Prefill(unwatched, g.tokens)
	reason := Length
	for err == nil {
		var token int32
		if token, err = g.sampler.Next(logits, g.tokens); err != nil {
			err = fmt.Errorf("runner: %w", err)
			break
		}
		if g.first.IsZero() {
			g.first = time.Now()
		}
		if g.r.ends(&g.q, token) {
			reason = Stop
			break
		}
		g.tokens = append(g.tokens, token)
		ev := Event{Token: token}
		if g.stream != nil {
			if ev.Text, err = g.stream.Next(token); err != nil {
				// Rows of the embedding beyond the tokenizer's last token have no text.
				ev.Text, err = "", nil
			}
		}
		if !yield(ev, nil) {
			return
		}
		if len(g.tokens)-g.prompt >= g.budget {
			break
		}
		if err = ctx.Err(); err == nil {
			logits, err = g.seq.Decode(unwatched, token)
		}
	}
	if cause := ctx.Err(); cause != nil && err != nil {
		err = fmt.Errorf("runner: %w", cause)
	}
	if err != nil {
		reason = reasonOf(err)
	}
	last := Event{Token: -1, Result: g.result(reason)}
	if g.stream != nil {
		last.Text = g.stream.Flush()
	}
	yield(last, err)
}

func (g *generation) result(reason Reason) *Result {
	now := time.Now()
	n := len(g.tokens) - g.prompt
	res := &Result{Reason: reason, PromptTokens: g.prompt, GeneratedTokens: n, Total: now.Sub(g.start)}
	if !g.first.IsZero() {
		res.TTFT = g.first.Sub(g.start)
		res.PromptPerSecond = float64(g.prompt) / res.TTFT.Seconds()
		if n > 1 {
			res.TokensPerSecond = float64(n-1) / now.Sub(g.first).Seconds()
		}
	}
	return res
}
