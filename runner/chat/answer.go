package chat

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
)

// The markup that Qwen3 and many others put around reasoning in their answers.
const (
	thinkOpen  = "<think>"
	thinkClose = "</think>"
)

// ToolCallOpen and ToolCallClose are the markup that they put around each tool call.
const (
	ToolCallOpen  = "<tool_call>"
	ToolCallClose = "</tool_call>"
)

// Thinks reports whether an answer to a rendered prompt begins within reasoning: some templates open
// it themselves.
func Thinks(prompt string) bool {
	return strings.HasSuffix(strings.TrimRight(prompt, " \n"), thinkOpen)
}

// A Delta is what became known of an answer with a piece of its text.
type Delta struct {
	Text      string
	Reasoning string
	ToolCalls []ToolCall
}

// A Parser takes an answer apart as it comes: reasoning, which is what <think> and </think> enclose at its
// beginning; tool calls, each a JSON object with name and arguments between <tool_call> and
// </tool_call>; and text, which is the rest. Newlines next to such markup belong to it. A tool call
// that is malformed is text, its markup included. How the text is cut into pieces makes no difference.
//
// It is for one answer, and one goroutine.
type Parser struct {
	tools bool
	state state
	strip bool   // newlines are markup here
	held  string // what may yet turn out to be markup
	lead  string // newlines in front of a tool call
	call  []byte // of which the end has not come
}

type state int

const (
	atStart state = iota
	inReasoning
	inText
	inCall
)

// NewParser starts an answer. thinks: it begins within reasoning. tools: tool calls are parsed; otherwise
// they are text.
func NewParser(thinks, tools bool) *Parser {
	p := &Parser{tools: tools}
	if thinks {
		p.state, p.strip = inReasoning, true
	}
	return p
}

// Reasoning reports whether the answer is within its reasoning, Began whether it is known to have begun
// with reasoning or with anything else.
func (p *Parser) Reasoning() bool { return p.state == inReasoning }
func (p *Parser) Began() bool     { return p.state != atStart }

// Clone gives a parser in the same state, which goes its own way.
func (p *Parser) Clone() *Parser {
	c := *p
	c.call = bytes.Clone(p.call)
	return &c
}

// Next takes a piece of the answer's text.
func (p *Parser) Next(text string) (d Delta) {
	rest := p.held + text
	p.held = ""
	for rest != "" {
		switch p.state {
		case atStart:
			rest = p.start(rest)
		case inReasoning:
			rest = p.until(rest, thinkClose, inText, &d.Reasoning)
		case inText:
			if !p.tools {
				d.Text += p.stripped(rest)
				return d
			}
			rest = p.until(rest, ToolCallOpen, inCall, &d.Text)
		case inCall:
			rest = p.calls(rest, &d)
		}
	}
	return d
}

// Flush ends the answer and gives what was held back. A tool call that lacks nothing but its end is one.
func (p *Parser) Flush() (d Delta) {
	switch p.state {
	case inCall:
		p.endCall(string(p.call), "", &d)
	case inReasoning:
		d.Reasoning = p.held
	default:
		d.Text = p.held
	}
	p.held = ""
	return d
}

// start finds out whether the answer begins with reasoning. It returns what is left to look at.
func (p *Parser) start(rest string) string {
	text := strings.TrimLeft(rest, " \t\r\n")
	if after, ok := strings.CutPrefix(text, thinkOpen); ok {
		p.state, p.strip = inReasoning, true
		return after
	}
	if strings.HasPrefix(thinkOpen, text) {
		p.held = rest
		return ""
	}
	p.state = inText
	return rest
}

// until moves text up to a tag to out, and returns what is behind the tag. What may belong to the tag is held.
func (p *Parser) until(rest, tag string, next state, out *string) string {
	if rest = p.stripped(rest); rest == "" {
		return ""
	}
	if before, after, ok := strings.Cut(rest, tag); ok {
		keep := strings.TrimRight(before, "\n")
		*out += keep
		p.state, p.strip, p.lead = next, next == inText, before[len(keep):]
		return after
	}
	keep := strings.TrimRight(rest[:len(rest)-overlap(rest, tag)], "\n")
	*out += keep
	p.held = rest[len(keep):]
	return ""
}

// stripped drops newlines where they are markup.
func (p *Parser) stripped(text string) string {
	if p.strip {
		text = strings.TrimLeft(text, "\n")
		p.strip = text == ""
	}
	return text
}

// overlap is the length of the longest end of text that begins tag, and is not all of it.
func overlap(text, tag string) int {
	for n := min(len(text), len(tag)-1); n > 0; n-- {
		if strings.HasSuffix(text, tag[:n]) {
			return n
		}
	}
	return 0
}

// calls collects a tool call up to its end, and returns what is behind it.
func (p *Parser) calls(rest string, d *Delta) string {
	from := max(0, len(p.call)-len(ToolCallClose)+1)
	p.call = append(p.call, rest...)
	at := bytes.Index(p.call[from:], []byte(ToolCallClose))
	if at < 0 {
		return ""
	}
	body, after := string(p.call[:from+at]), string(p.call[from+at+len(ToolCallClose):])
	p.endCall(body, ToolCallClose, d)
	return after
}

func (p *Parser) endCall(body, end string, d *Delta) {
	p.call = p.call[:0]
	p.state = inText
	call, err := parseCall(body)
	if err != nil {
		d.Text += p.lead + ToolCallOpen + body + end
		return
	}
	d.ToolCalls = append(d.ToolCalls, call)
	p.strip = true
}

var errCall = errors.New("not a tool call")

// parseCall reads {"name": ..., "arguments": {...}}. Arguments may be missing, or be in a string.
func parseCall(body string) (ToolCall, error) {
	var fields map[string]json.RawMessage // keys are to be exact, which they are not for a struct
	d := json.NewDecoder(strings.NewReader(body))
	if err := d.Decode(&fields); err != nil {
		return ToolCall{}, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return ToolCall{}, errCall
	}
	var name string
	if err := json.Unmarshal(fields["name"], &name); err != nil || name == "" {
		return ToolCall{}, errCall
	}
	arguments := bytes.TrimSpace(fields["arguments"])
	var quoted string
	if len(arguments) > 0 && json.Unmarshal(arguments, &quoted) == nil { // null too
		arguments = bytes.TrimSpace([]byte(quoted))
	}
	if len(arguments) == 0 {
		arguments = []byte("{}")
	}
	if arguments[0] != '{' || !json.Valid(arguments) {
		return ToolCall{}, errCall
	}
	return ToolCall{Type: "function", Function: FunctionCall{Name: name, Arguments: arguments}}, nil
}
