package runner

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/qwenrt/qwenrt/runner/chat"
	"github.com/qwenrt/qwenrt/runner/sample"
)

// Generate gives an answer, or N of them, as events, one for each token, while it is made. The last event of
// an answer has a Result; when the generation fails or ctx ends, it comes together with the error.
// Leaving the loop ends the generation.
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
		switch {
		case err == nil && q.Beams > 1:
			g.beams(ctx, yield)
			return
		case err == nil:
			g.answers(ctx, yield)
			return
		}
		yield(Event{Token: -1, Result: &Result{Reason: reasonOf(err), Total: time.Since(g.start)}}, err)
	}
}

// GenerateBatch gives the answers to several requests: as many at a time as there are Options.Slots, and
// without them one after the other, as side by side they would take no less time. Event.Request says to
// which one an event belongs. An error is of that request alone; the others go on.
func (r *Runner) GenerateBatch(ctx context.Context, requests []Request) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		var next atomic.Int64
		sideBySide(min(r.lanes(), len(requests)), yield, func(_ int, show func(Event, error) bool) {
			for i := int(next.Add(1)) - 1; i < len(requests); i = int(next.Add(1)) - 1 {
				for ev, err := range r.Generate(ctx, requests[i]) {
					ev.Request = i
					if !show(ev, err) {
						return
					}
				}
			}
		})
	}
}

// lanes is the number of answers that are faster together than one after the other.
func (r *Runner) lanes() int {
	if r.scheduler == nil {
		return 1
	}
	return len(r.scheduler.owners)
}

// sideBySide runs lanes at once, and yields what all of them show, from the caller's goroutine. It returns
// when all have ended; show is false when the caller has left, or a lane has panicked, whose panic is then the caller's.
func sideBySide(lanes int, yield func(Event, error) bool, run func(lane int, show func(Event, error) bool)) {
	if lanes <= 1 {
		run(0, yield)
		return
	}
	type shown struct {
		ev  Event
		err error
	}
	events, gone := make(chan shown), make(chan struct{})
	leave := sync.OnceFunc(func() { close(gone) })
	panics := make(chan any, lanes)
	show := func(ev Event, err error) bool {
		select {
		case events <- shown{ev, err}:
			return true
		case <-gone:
			return false
		}
	}
	var group sync.WaitGroup
	for lane := range lanes {
		group.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					panics <- p
					leave()
				}
			}()
			run(lane, show)
		})
	}
	go func() {
		group.Wait()
		close(events)
	}()
	func() {
		defer func() { // also if the caller panics
			leave()
			for range events {
			}
		}()
		for e := range events {
			if !yield(e.ev, e.err) {
				return
			}
		}
	}()
	select {
	case p := <-panics:
		panic(p)
	default:
	}
}

// Answer is a whole answer.
type Answer struct {
	Text      string
	Reasoning string
	ToolCalls []chat.ToolCall
	Tokens    []int32     // with Echo, the prompt's too
	Logprobs  []*Logprobs // for each of Tokens, if they were asked for
	Result    Result
}

// Collector puts the events of one answer together. Its zero value has none.
type Collector struct {
	answer          Answer
	text, reasoning strings.Builder
}

// Add takes the next event.
func (c *Collector) Add(ev Event) {
	c.text.WriteString(ev.Text)
	c.reasoning.WriteString(ev.Reasoning)
	a := &c.answer
	a.ToolCalls = append(a.ToolCalls, ev.ToolCalls...)
	if ev.Result != nil {
		a.Result = *ev.Result
		return
	}
	a.Tokens = append(a.Tokens, ev.Token)
	if ev.Logprobs != nil {
		for len(a.Logprobs) < len(a.Tokens)-1 { // the first token of a prompt has none
			a.Logprobs = append(a.Logprobs, nil)
		}
		a.Logprobs = append(a.Logprobs, ev.Logprobs)
	}
}

// Answer is what there is by now.
func (c *Collector) Answer() Answer {
	c.answer.Text, c.answer.Reasoning = c.text.String(), c.reasoning.String()
	return c.answer
}

// Answers gives all answers at once. On error it gives what there is by then.
func (r *Runner) Answers(ctx context.Context, q Request) (all []Answer, err error) {
	var answers []*Collector
	for ev, e := range r.Generate(ctx, q) {
		for len(answers) <= ev.Answer {
			answers = append(answers, new(Collector))
		}
		answers[ev.Answer].Add(ev)
		if e != nil {
			err = e
		}
	}
	for _, a := range answers {
		all = append(all, a.Answer())
	}
	return all, err
}

// Text gives the text of one answer at once; N does not count. On error it gives what there is by then.
func (r *Runner) Text(ctx context.Context, q Request) (string, Result, error) {
	q.N = 0
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

// Reasons that nobody is told.
const (
	left  Reason = ""      // the caller has left the loop
	going Reason = "going" // the answer goes on
)

func reasonOf(err error) Reason {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return Cancelled
	}
	return Failed
}

// generation is one call of Generate.
type generation struct {
	r        *Runner
	q        Request
	seq      decoder   // with the prompt, on which the first answer goes on
	forks    []decoder // of it, for answers side by side
	prompt   prompt
	end      []int32 // tokens that end an answer
	never    []int32 // tokens that no answer has
	budget   int     // tokens that an answer may have
	sampling sample.Params

	behind []float32   // logits behind the prompt, where more than one answer begins with them
	echoes []*Logprobs // of the prompt's tokens

	start   time.Time // of the call
	prefill time.Duration
}

// open does what comes before the first run.
func (g *generation) open(ctx context.Context) (err error) {
	vocab := int(g.r.layout.vocab)
	if err := g.q.validate(vocab); err != nil {
		return err
	}
	if g.q.mustCall() {
		if g.q.Constraint, err = g.r.callConstraint(&g.q); err != nil {
			return err
		}
	}
	if g.q.ToolChoice == ToolNone {
		g.never = g.r.withoutCalls()
	}
	if g.prompt, err = g.r.prompt(ctx, &g.q); err != nil {
		return err
	}
	n := len(g.prompt.tokens)
	if n >= g.r.context {
		return fmt.Errorf("runner: %w: the prompt has %d tokens, the context %d", ErrContext, n, g.r.context)
	}
	switch g.budget = g.r.context - n; {
	case g.q.Shift && g.q.Keep >= g.r.context:
		return fmt.Errorf("runner: %w: Keep is %d, and the context is %d", ErrRequest, g.q.Keep, g.r.context)
	case g.q.Shift:
		g.budget = g.q.MaxTokens
	case g.q.MaxTokens > 0:
		g.budget = min(g.budget, g.q.MaxTokens)
	}
	if !g.q.IgnoreEOS {
		g.end = g.r.config.stop
	}
	g.end = slices.Concat(g.end, g.q.StopTokens)
	g.sampling = g.q.sampling(g.r)
	if err := g.sampling.ValidateFor(vocab); err != nil {
		return wrap(err)
	}
	if g.seq, err = g.r.newDecoder(ctx, &g.q); err != nil {
		return err
	}
	return g.seq.Reserve(n + min(g.budget, cacheStep)) // or a prompt that just fits would be copied for the first token
}

func (g *generation) close() {
	for _, f := range g.forks {
		f.Close()
	}
	if g.seq != nil {
		g.seq.Close()
	}
}

// answers gives all answers.
func (g *generation) answers(ctx context.Context, show func(Event, error) bool) {
	n := max(1, g.q.N)
	lanes := min(n, g.r.lanes())
	first := g.answer(0, g.seq)
	if !first.over() {
		first.lookAhead()
	}
	defer first.limits.settle()
	logits, err := g.runPrompt(ctx, lanes)
	if err != nil {
		show(first.last(reasonOf(err)), err)
		return
	}
	if n > 1 {
		g.behind = slices.Clone(logits)
	}
	sideBySide(lanes, show, func(lane int, show func(Event, error) bool) {
		seq := g.seq
		if lane > 0 {
			seq = g.forks[lane-1]
		}
		defer seq.Watch(ctx)() // once, so that a step costs nothing for it
		for i := lane; i < n; i += lanes {
			a := first
			if i > 0 {
				a = g.answer(i, seq)
			}
			reason, err := a.begin(ctx, logits, show)
			if reason == left || !show(a.last(reason), err) || err != nil {
				return
			}
		}
	})
}

// runPrompt does what all answers share. The logits are those behind the prompt.
func (g *generation) runPrompt(ctx context.Context, lanes int) (logits []float32, err error) {
	start := time.Now()
	if logits, err = g.seq.Prefill(ctx, g.prompt.tokens); err != nil {
		return nil, err
	}
	g.prefill = time.Since(start)
	for len(g.forks) < lanes-1 {
		f, err := g.seq.fork()
		if err != nil {
			return nil, err
		}
		g.forks = append(g.forks, f)
	}
	if g.q.Echo && g.q.Logprobs {
		return logits, g.scorePrompt(ctx)
	}
	return logits, nil
}

// scorePrompt finds the log-probabilities of the prompt's tokens. The sequence of a generation runs the last
// row only, and may have taken its prompt from a cache: so this is a sequence of its own.
func (g *generation) scorePrompt(ctx context.Context) error {
	s, err := g.r.NewSequence()
	if err != nil {
		return err
	}
	defer s.Close()
	tokens := g.prompt.tokens
	g.echoes = make([]*Logprobs, len(tokens))
	return s.Score(ctx, tokens, func(i int, logits []float32) error {
		if i+1 < len(tokens) {
			g.r.withoutPadding(logits)
			g.echoes[i+1] = g.logprobs(logits)
			g.echoes[i+1].Token += float64(logits[tokens[i+1]])
		}
		return nil
	})
}

// logprobs gives the likeliest tokens, and in Token what is to be added to the logit of the chosen one.
func (g *generation) logprobs(logits []float32) *Logprobs {
	total := sample.LogSum(logits)
	p := &Logprobs{Token: -total}
	for _, id := range sample.Best(logits, g.q.TopLogprobs) {
		p.Top = append(p.Top, sample.Logprob{Token: id, Logprob: float64(logits[id]) - total})
	}
	return p
}

// withoutPadding takes out the rows of the model's tables for which the tokenizer has no token.
func (r *Runner) withoutPadding(logits []float32) {
	if r.tok == nil {
		return
	}
	for i := r.tok.VocabSize(); i < len(logits); i++ {
		logits[i] = float32(math.Inf(-1))
	}
}

// answer is one answer of a generation.
type answer struct {
	g       *generation
	seq     decoder
	sampler *sample.Sampler
	index   int
	text    []int32 // tokens of prompt and answer
	transcript
	called bool // the answer has tool calls

	first   time.Time     // when the first token was there
	took    time.Duration // from the first token to the last
	decoded int           // steps in that time
}

func (g *generation) answer(index int, seq decoder) *answer {
	a := &answer{g: g, seq: seq, index: index, transcript: g.transcript()}
	n := len(g.prompt.tokens)
	a.text = append(make([]int32, 0, n+min(g.budget, cacheStep)), g.prompt.tokens...)
	return a
}

// begin goes back behind the prompt, where another answer has been before, and runs. The logits behind the
// prompt are its own where there is but one answer: they are changed.
func (a *answer) begin(ctx context.Context, logits []float32, show func(Event, error) bool) (reason Reason, err error) {
	params := a.g.sampling
	params.Seed += uint64(a.index)
	if a.sampler, err = sample.New(params, len(logits)); err != nil {
		return Failed, wrap(err)
	}
	if a.g.behind != nil {
		logits = slices.Clone(a.g.behind)
	}
	if err := a.seq.Truncate(len(a.g.prompt.tokens)); err != nil {
		return Failed, err
	}
	return a.run(ctx, logits, show)
}

// run shows tokens as they are made, until something ends the answer.
func (a *answer) run(ctx context.Context, logits []float32, show func(Event, error) bool) (Reason, error) {
	if a.g.q.Echo {
		if reason, err := a.echo(show); reason != going {
			return reason, err
		}
	}
	if a.over() {
		return Stop, nil
	}
	for {
		ev := Event{Answer: a.index}
		if err := a.choose(logits, &ev); err != nil {
			return reasonOf(err), err
		}
		if slices.Contains(a.g.end, ev.Token) {
			return Stop, nil
		}
		stopped, err := a.add(&ev)
		if err != nil {
			return reasonOf(err), err
		}
		if !show(ev, nil) {
			return left, nil
		}
		switch {
		case stopped || a.over():
			return Stop, nil
		case a.tokens == a.g.budget:
			return Length, nil
		case ctx.Err() != nil: // ended by the caller: no token more
			return Cancelled, wrap(ctx.Err())
		}
		a.lookAhead()
		if logits, err = a.seq.Decode(context.Background(), ev.Token); err != nil {
			a.limits.settle()
			return reasonOf(err), err
		}
	}
}

// echo shows the prompt.
func (a *answer) echo(show func(Event, error) bool) (Reason, error) {
	for i, token := range a.g.prompt.tokens {
		ev := Event{Answer: a.index, Token: token, Prompt: true}
		if a.g.echoes != nil {
			ev.Logprobs = a.g.echoes[i]
		}
		var err error
		if ev.Text, err = a.decode(token); err != nil {
			return reasonOf(err), err
		}
		if !show(ev, nil) {
			return left, nil
		}
	}
	return going, nil
}

// choose takes a token, its probability, and its time.
func (a *answer) choose(logits []float32, ev *Event) (err error) {
	a.g.r.withoutPadding(logits)
	if a.g.q.Logprobs {
		ev.Logprobs = a.g.logprobs(logits)
	}
	forbid(logits, a.g.never)
	if err := a.restrict(logits, a.g.end); err != nil {
		return err
	}
	if ev.Token, err = a.sampler.Next(logits, a.text, len(a.g.prompt.tokens)); err != nil {
		return wrap(err)
	}
	if ev.Logprobs != nil {
		ev.Logprobs.Token += float64(logits[ev.Token])
	}
	if now := time.Now(); a.first.IsZero() {
		a.first = now
	} else {
		a.took = now.Sub(a.first)
		a.decoded++
	}
	return nil
}

// add makes the token of an event part of the answer, fills in what can be shown with it, and reports whether
// a stop string has ended the answer.
func (a *answer) add(ev *Event) (stopped bool, err error) {
	d, stopped, err := a.transcript.add(ev.Token)
	if err != nil {
		return false, err
	}
	a.text = append(a.text, ev.Token)
	a.put(d, ev)
	return stopped, nil
}

func (a *answer) put(d chat.Delta, ev *Event) {
	ev.Text += d.Text
	ev.Reasoning += d.Reasoning
	ev.ToolCalls = append(ev.ToolCalls, d.ToolCalls...)
	a.called = a.called || len(d.ToolCalls) > 0
}

// last is the event that ends the answer.
func (a *answer) last(reason Reason) Event {
	g := a.g
	ev := Event{Answer: a.index, Token: -1}
	for _, d := range a.rest() {
		a.put(d, &ev)
	}
	if reason == Stop && a.called {
		reason = ToolCalls
	}
	ev.Result = &Result{
		Reason:          reason,
		PromptTokens:    len(g.prompt.tokens),
		Total:           time.Since(g.start),
		TokensPerSecond: rate(a.decoded, a.took),
	}
	if !a.first.IsZero() {
		ev.Result.GeneratedTokens = a.tokens
		ev.Result.TTFT = a.first.Sub(g.start)
		ev.Result.PromptPerSecond = rate(len(g.prompt.tokens), g.prefill)
		a.seq.report(ev.Result)
	}
	return ev
}

func rate(n int, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}
