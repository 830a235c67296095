package runner

import (
	"errors"

	"github.com/qwenrt/qwenrt/runner/chat"
	"github.com/qwenrt/qwenrt/runner/tokenizer"
)

// transcript is what the tokens of an answer have come to: its text, in which stop strings end it, taken apart into
// reasoning, tool calls and the rest, and the place in the grammar that it keeps to.
type transcript struct {
	limits *restriction      // nil: none
	stream *tokenizer.Stream // nil without a tokenizer
	stops  stops
	parser *chat.Parser // nil where the prompt is no conversation

	tokens int
	least  int // tokens before which stop strings do not count
}

func (g *generation) transcript() transcript {
	t := transcript{least: g.q.MinTokens}
	if g.q.Constraint != nil {
		t.limits = newRestriction(g.q.Constraint.Clone(), int(g.r.layout.vocab+31)/32)
	}
	if g.r.tok == nil {
		return t
	}
	t.stream = g.r.tok.NewStream(tokenizer.DecodeOptions{ShowSpecial: g.q.ShowSpecial})
	t.stops.list = g.q.StopStrings
	if len(g.q.Messages) > 0 {
		t.parser = chat.NewParser(g.prompt.thinks, len(g.q.Tools) > 0 && g.q.ToolChoice != ToolNone)
	}
	return t
}

// clone gives a transcript that goes its own way.
func (t *transcript) clone() transcript {
	c := *t
	if t.limits != nil {
		c.limits = t.limits.clone()
	}
	if t.stream != nil {
		c.stream = t.stream.Clone()
	}
	if t.parser != nil {
		c.parser = t.parser.Clone()
	}
	return c
}

// thinks reports whether the answer is within its reasoning, which is not restricted.
func (t *transcript) thinks() bool { return t.parser != nil && t.parser.Reasoning() }

// over reports that nothing may follow.
func (t *transcript) over() bool {
	if t.limits == nil || t.thinks() {
		return false
	}
	t.limits.settle()
	return t.limits.Done()
}

// lookAhead finds out what may come next, while the model runs.
func (t *transcript) lookAhead() {
	if t.limits != nil && !t.thinks() {
		t.limits.ask()
	}
}

// restrict takes out of logits the tokens that may not come next. end are those that end an answer.
func (t *transcript) restrict(logits []float32, end []int32) error {
	long := t.tokens >= t.least
	if t.limits != nil && !t.thinks() {
		return t.limits.apply(logits, end, long)
	}
	if !long || t.limits != nil { // which is to come yet
		forbid(logits, end)
	}
	return nil
}

// add takes the next token, and gives what can be shown with it, and whether a stop string has ended the answer.
func (t *transcript) add(token int32) (d chat.Delta, stopped bool, err error) {
	if t.limits != nil && !t.thinks() {
		if err := t.limits.Accept(token); err != nil {
			return d, false, wrap(err)
		}
	}
	t.tokens++
	text, err := t.decode(token)
	if err != nil {
		return d, false, err
	}
	if t.tokens >= t.least {
		text, stopped = t.stops.next(text)
	}
	return t.part(text), stopped, nil
}

// decode is the text that is complete with a token. An id between others that no token has, such as one
// left free in a tokenizer, has no text.
func (t *transcript) decode(token int32) (string, error) {
	if t.stream == nil {
		return "", nil
	}
	text, err := t.stream.Next(token)
	if err != nil && !errors.Is(err, tokenizer.ErrTokenRange) {
		return "", wrap(err)
	}
	return text, nil
}

// part says where a piece of text belongs.
func (t *transcript) part(text string) chat.Delta {
	if t.parser == nil {
		return chat.Delta{Text: text}
	}
	return t.parser.Next(text)
}

// rest ends the answer and gives what was held back, in two parts at most.
func (t *transcript) rest() (d []chat.Delta) {
	if t.stream != nil && !t.stops.stopped {
		text, _ := t.stops.next(t.stream.Flush())
		d = append(d, t.part(text+t.stops.rest()))
	}
	if t.parser != nil {
		d = append(d, t.parser.Flush())
	}
	return d
}
