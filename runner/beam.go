package runner

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/qwenrt/qwenrt/runner/sample"
)

// search is a beam search, after transformers' (generation/utils.py, _beam_search): each step takes the best
// continuations of all beams together, and keeps as many as there are beams.
type search struct {
	g       *generation
	sampler *sample.Sampler // greedy: for bias, penalties and bans
	width   int
	penalty float64 // a finished beam's score is divided by its length to this power
	running []beam  // the best first
	done    []beam  // the best first, at most width
	open    bool    // a running beam may yet be better than the worst that is done
	lanes   []lane
}

// beam is an answer, or the beginning of one.
type beam struct {
	ids   []int32 // without the end token
	score float64 // sum of log-probabilities; of one that is done, divided
	ended bool    // by an end token or a stop string, or as nothing may follow
	lane  int     // whose decoder has run all tokens but the last; of a running one
	*transcript
}

// lane is a decoder with what it has run.
type lane struct {
	seq    decoder
	tokens []int32 // behind the prompt
	logits []float32
}

// beams gives the best answers, when all are found.
func (g *generation) beams(ctx context.Context, show func(Event, error) bool) {
	found, err := g.search(ctx)
	n := max(1, g.q.N)
	if err == nil && len(found) < n {
		err = fmt.Errorf("runner: %w: the search has %d answers, %d were asked for", ErrRequest, len(found), n)
	}
	if err != nil {
		show(g.answer(0, g.seq).last(reasonOf(err)), err)
		return
	}
	took := time.Since(g.start) - g.prefill
	for i, b := range found[:n] {
		a := g.answer(i, g.seq)
		a.first, a.took, a.decoded = time.Now(), took, len(b.ids)
		reason, err := a.replay(b, show)
		if reason == left {
			return
		}
		last := a.last(reason)
		last.Result.Score = b.score
		if !show(last, err) || err != nil {
			return
		}
	}
}

// replay shows the tokens of an answer that is known.
func (a *answer) replay(b beam, show func(Event, error) bool) (Reason, error) {
	if a.g.q.Echo {
		if reason, err := a.echo(show); reason != going {
			return reason, err
		}
	}
	for _, token := range b.ids {
		ev := Event{Answer: a.index, Token: token}
		if _, err := a.add(&ev); err != nil {
			return reasonOf(err), err
		}
		if !show(ev, nil) {
			return left, nil
		}
	}
	if b.ended {
		return Stop, nil
	}
	return Length, nil
}

func (g *generation) search(ctx context.Context) ([]beam, error) {
	s := &search{g: g, width: g.q.Beams, penalty: 1, open: true}
	if g.q.LengthPenalty != nil {
		s.penalty = *g.q.LengthPenalty
	}
	params := g.sampling
	params.Temperature = 0
	var err error
	if s.sampler, err = sample.New(params, int(g.r.layout.vocab)); err != nil {
		return nil, wrap(err)
	}
	logits, err := g.runPrompt(ctx, s.width)
	if err != nil {
		return nil, err
	}
	for _, seq := range append([]decoder{g.seq}, g.forks...) {
		defer seq.Watch(ctx)()
		s.lanes = append(s.lanes, lane{seq: seq})
	}
	s.lanes[0].logits = logits
	start := beam{transcript: new(g.transcript())}
	if start.over() {
		start.ended = true
		return []beam{start}, nil
	}
	s.running = []beam{start}
	for {
		more, err := s.step()
		if err != nil || !more {
			return s.done, err
		}
		if err := ctx.Err(); err != nil {
			return nil, wrap(err)
		}
		if err := s.advance(); err != nil {
			return nil, err
		}
	}
}

// step replaces the running beams by their best continuations, and reports whether to go on.
func (s *search) step() (more bool, err error) {
	length := len(s.running[0].ids) + 1
	all, err := s.continuations()
	if err != nil {
		return false, err
	}
	s.running = s.running[:0:0]
	var finished []beam
	for i, c := range all {
		if len(s.running) == s.width && i >= s.width {
			break
		}
		if err := c.follow(); err != nil {
			return false, err
		}
		switch {
		case c.ended || length == s.g.budget:
			if i < s.width { // those behind are there to keep enough running
				c.score /= math.Pow(float64(length), s.penalty)
				finished = append(finished, c)
			}
		case len(s.running) < s.width:
			s.running = append(s.running, c)
		}
	}
	full := len(s.done) == s.width
	if s.open && !(full && s.g.q.EarlyStopping) {
		s.done = append(s.done, finished...)
		slices.SortStableFunc(s.done, func(a, b beam) int { return cmp.Compare(b.score, a.score) })
		s.done = s.done[:min(len(s.done), s.width)]
	}
	if len(s.running) == 0 {
		return false, nil
	}
	if full = len(s.done) == s.width; full {
		best := s.running[0].score / math.Pow(float64(length), s.penalty)
		s.open = s.open && best > s.done[s.width-1].score
	}
	return s.open && !(full && s.g.q.EarlyStopping), nil
}

// continuations are the best ones of all running beams, the best first: enough of them that after all that
// end there are as many as there are beams.
func (s *search) continuations() ([]beam, error) {
	var all []beam
	count := max(2, 1+len(s.g.end)) * s.width
	for _, b := range s.running {
		scores, err := s.logprobs(b)
		if err != nil {
			return nil, err
		}
		for _, token := range sample.Best(scores, count) {
			c := b
			c.score += float64(scores[token])
			if c.ended = slices.Contains(s.g.end, token); !c.ended {
				c.ids = append(slices.Clip(b.ids), token)
			}
			all = append(all, c)
		}
	}
	slices.SortStableFunc(all, func(a, b beam) int { return cmp.Compare(b.score, a.score) })
	if len(all) == 0 {
		return nil, fmt.Errorf("runner: %w: no token can follow", sample.ErrLogits)
	}
	return all[:min(len(all), count)], nil
}

// follow goes on with the transcript of the beam that this one continues, by its last token.
func (b *beam) follow() error {
	if b.ended {
		return nil
	}
	b.transcript = new(b.transcript.clone())
	_, stopped, err := b.add(b.ids[len(b.ids)-1])
	b.ended = stopped || b.over()
	return err
}

// logprobs gives the log-probabilities behind a beam, altered as Sampling says.
func (s *search) logprobs(b beam) ([]float32, error) {
	logits := s.lanes[b.lane].logits
	s.g.r.withoutPadding(logits)
	total := float32(sample.LogSum(logits))
	for i := range logits {
		logits[i] -= total
	}
	forbid(logits, s.g.never)
	if err := b.restrict(logits, s.g.end); err != nil {
		return nil, err
	}
	prompt := s.g.prompt.tokens
	scores, err := s.sampler.Alter(logits, slices.Concat(prompt, b.ids), len(prompt))
	return scores, wrap(err)
}

// advance runs the last token of each running beam. The first beam that goes on from another keeps its
// decoder; a further one takes a decoder that nobody wants, goes back to what both have in common, and runs
// the rest: a few tokens, in one run.
func (s *search) advance() error {
	taken := make([]bool, len(s.lanes))
	var homeless []int
	for i, b := range s.running {
		if taken[b.lane] {
			homeless = append(homeless, i)
		}
		taken[b.lane] = true
	}
	for _, i := range homeless {
		free := slices.Index(taken, false)
		s.running[i].lane, taken[free] = free, true
	}
	var group errgroup.Group
	group.SetLimit(s.g.r.lanes())
	for _, b := range s.running {
		group.Go(func() error { return s.lanes[b.lane].run(b.ids, len(s.g.prompt.tokens)) })
	}
	return group.Wait()
}

// run makes the decoder's tokens those that are given, and gets the logits behind the last.
func (l *lane) run(tokens []int32, prompt int) (err error) {
	common := 0
	for common < min(len(l.tokens), len(tokens)-1) && l.tokens[common] == tokens[common] {
		common++
	}
	if common < len(l.tokens) {
		if err := l.seq.Truncate(prompt + common); err != nil {
			return err
		}
	}
	l.tokens = tokens
	if common == len(tokens)-1 {
		l.logits, err = l.seq.Decode(context.Background(), tokens[common])
	} else {
		l.logits, err = l.seq.Prefill(context.Background(), tokens[common:])
	}
	return err
}

// forbid takes tokens out.
func forbid(logits []float32, tokens []int32) {
	for _, id := range tokens {
		if uint(id) < uint(len(logits)) {
			logits[id] = float32(math.Inf(-1))
		}
	}
}
