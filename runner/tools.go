package runner

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/qwenrt/qwenrt/runner/chat"
	"github.com/qwenrt/qwenrt/runner/grammar"
)

// ToolChoice says whether an answer calls Request.Tools, in the words of the OpenAI API.
type ToolChoice string

const (
	// ToolAuto, the default, leaves it to the model.
	ToolAuto ToolChoice = ""
	// ToolNone keeps it from calling any: the tools are shown to it, and the answer is text.
	ToolNone ToolChoice = "none"
	// ToolRequired makes the answer one or more calls, or with Request.Tool one call of that tool. Their arguments
	// satisfy the tool's schema.
	ToolRequired ToolChoice = "required"
)

// ParseToolChoice reads a choice as the OpenAI API has it, where "auto" and nothing are ToolAuto, and reports whether word is
// one.
func ParseToolChoice(word string) (choice ToolChoice, ok bool) {
	switch choice = ToolChoice(word); choice {
	case "auto":
		return ToolAuto, true
	case ToolAuto, ToolNone, ToolRequired:
		return choice, true
	}
	return "", false
}

// described is a tool as the OpenAI API has it, or the function of one by itself.
type described struct {
	Function *function `json:"function"`
	function
}

type function struct {
	Name       string          `json:"name"`
	Parameters json.RawMessage `json:"parameters"`
}

// functions are those that the answer may call.
func (q *Request) functions() (list []grammar.Function, err error) {
	for i, t := range q.Tools {
		var d described
		if err := json.Unmarshal(t, &d); err != nil {
			return nil, fmt.Errorf("runner: %w: Tools[%d]: %w", ErrRequest, i, err)
		}
		if d.Function != nil {
			d.function = *d.Function
		}
		if d.Name == "" {
			return nil, fmt.Errorf("runner: %w: Tools[%d] has no name", ErrRequest, i)
		}
		if q.Tool == "" || q.Tool == d.Name {
			list = append(list, grammar.Function{Name: d.Name, Parameters: d.Parameters})
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("runner: %w: Tool is %q, and there is none of that name", ErrRequest, q.Tool)
	}
	return list, nil
}

// mustCall reports whether the answer is to be tool calls.
func (q *Request) mustCall() bool { return q.ToolChoice == ToolRequired || q.Tool != "" }

func (q *Request) toolFaults(f *faults) {
	f.within("number of Tools", len(q.Tools), 0, maxTools)
	if len(q.Tools) > 0 && len(q.Messages) == 0 {
		f.add("Tools belong to Messages")
	}
	bad := slices.IndexFunc(q.Tools, func(t json.RawMessage) bool {
		return !json.Valid(t) || !strings.HasPrefix(strings.TrimLeft(string(t), " \t\r\n"), "{")
	})
	if bad >= 0 {
		f.add("Tools[%d] is not a JSON object", bad)
	}
	switch q.ToolChoice {
	case ToolAuto, ToolRequired:
	case ToolNone:
		if q.Tool != "" {
			f.add("Tool is %q, and ToolChoice %q", q.Tool, ToolNone)
		}
	default:
		f.add("ToolChoice is %q: want %q, %q, or nothing", q.ToolChoice, ToolNone, ToolRequired)
	}
	if q.mustCall() && len(q.Tools) == 0 {
		f.add("a tool call is required, and there are no Tools")
	}
	if q.mustCall() && q.Constraint != nil {
		f.add("a required tool call and Constraint exclude each other")
	}
}

// calls is the constraint to tool calls: <tool_call>, a call, </tool_call>, and if there may be more, a line break and
// the same again. The markup mostly is added tokens, which no grammar has.
type calls struct {
	open, shut, again []int32
	call              *grammar.Matcher // of a call at its beginning
	one               bool             // more may not follow

	at   place
	done int              // tokens of the markup at hand
	now  *grammar.Matcher // within a call
}

// place is where in its form an answer of tool calls is.
type place int

const (
	opening  place = iota
	calling        // within the call, or behind it
	shutting       // behind some of what closes it
	behind         // behind a call, and perhaps some of what opens the next
)

// markup is what must come next, where that is markup.
func (c *calls) markup() []int32 {
	switch {
	case c.at == opening:
		return c.open[c.done:]
	case c.at == behind && c.one:
		return nil
	case c.at == behind:
		return c.again[c.done:]
	}
	return c.shut[c.done:]
}

func (c *calls) Mask(mask []uint32) (end bool, err error) {
	next := c.markup()
	if c.at == calling {
		complete, err := c.now.Mask(mask)
		if err != nil {
			return false, err
		}
		if !complete {
			return false, nil
		}
	} else {
		clear(mask)
	}
	if len(next) > 0 {
		mask[next[0]/32] |= 1 << (next[0] % 32)
	}
	return c.at == behind && c.done == 0, nil
}

func (c *calls) Accept(token int32) error {
	if next := c.markup(); len(next) > 0 && token == next[0] && (c.at != calling || c.now.Complete()) {
		if c.at == calling {
			c.at = shutting
		}
		if c.done++; len(next) == 1 {
			c.turn()
		}
		return nil
	}
	if c.at != calling {
		return fmt.Errorf("%w: %d in a tool call", grammar.ErrToken, token)
	}
	return c.now.Accept(token)
}

// turn goes on behind markup.
func (c *calls) turn() {
	c.done = 0
	if c.at == shutting {
		c.at, c.now = behind, nil
	} else {
		c.at, c.now = calling, c.call.Clone()
	}
}

func (c *calls) Done() bool { return c.at == behind && c.one }

func (c *calls) Clone() Constraint {
	n := *c
	if c.now != nil {
		n.now = c.now.Clone()
	}
	return &n
}

// toolGrammars keeps grammars of the tools that were called last, as requests mostly have the same ones.
type toolGrammars struct {
	mu   sync.Mutex
	made map[string]*grammar.Grammar
}

// maxToolGrammars are kept.
const maxToolGrammars = 8

func (t *toolGrammars) get(functions []grammar.Function) (*grammar.Grammar, error) {
	var key strings.Builder
	for _, f := range functions {
		fmt.Fprintf(&key, "%q%q", f.Name, f.Parameters)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if g, ok := t.made[key.String()]; ok {
		return g, nil
	}
	g, err := grammar.Call(functions, grammar.Options{Space: grammar.Flexible})
	if err != nil {
		return nil, err
	}
	if len(t.made) == maxToolGrammars || t.made == nil {
		t.made = map[string]*grammar.Grammar{}
	}
	t.made[key.String()] = g
	return g, nil
}

// callConstraint is the constraint of a request whose answer is to be tool calls.
func (r *Runner) callConstraint(q *Request) (Constraint, error) {
	functions, err := q.functions()
	if err != nil {
		return nil, err
	}
	g, err := r.toolGrammars.get(functions)
	if err != nil {
		return nil, fmt.Errorf("runner: %w: tools: %w", ErrRequest, err)
	}
	v, err := r.vocabulary.get(r)
	if err != nil {
		return nil, err
	}
	c := &calls{call: g.NewMatcher(v), one: q.Tool != ""}
	for text, ids := range map[string]*[]int32{chat.ToolCallOpen: &c.open, chat.ToolCallClose: &c.shut, "\n" + chat.ToolCallOpen: &c.again} {
		if *ids, err = r.tok.Encode(text); err != nil {
			return nil, wrap(err)
		}
		if len(*ids) == 0 || int64(slices.Max(*ids)) >= r.layout.vocab {
			return nil, fmt.Errorf("runner: %w: the model has no tokens for %q", ErrRequest, text)
		}
	}
	return c, nil
}

// withoutCalls are tokens that begin a tool call, if it is always they that do.
func (r *Runner) withoutCalls() []int32 {
	if r.tok == nil {
		return nil
	}
	if id, ok := r.tok.TokenID(chat.ToolCallOpen); ok {
		return []int32{int32(id)}
	}
	return nil
}
