package chat

import (
	"encoding/json"
	"fmt"

	"github.com/ardanlabs/jinja"
)

// A Message is one turn of a conversation, in the fields that templates read and
// with the names of the OpenAI chat API. A field that is empty is not defined in
// the template, except Content, which always is.
type Message struct {
	Role             string     `json:"role"` // "system", "user", "assistant" or "tool"
	Content          string     `json:"content"`
	ReasoningContent string     `json:"reasoning_content,omitempty"` // what the assistant thought
	Name             string     `json:"name,omitempty"`
	ToolCalls        []ToolCall `json:"tool_calls,omitempty"`
	ToolCallID       string     `json:"tool_call_id,omitempty"` // of the call that a tool message answers
}

// A ToolCall is a function call that the assistant made.
type ToolCall struct {
	ID       string       `json:"id,omitempty"`
	Type     string       `json:"type,omitempty"` // "function", which is also the default
	Function FunctionCall `json:"function"`
}

// A FunctionCall names a function and its arguments.
type FunctionCall struct {
	Name string `json:"name"`
	// Arguments is a JSON object, whose key order the template keeps, or a JSON
	// string that holds one, which the template prints as it is. Empty means {}.
	Arguments json.RawMessage `json:"arguments"`
}

// setString sets a field that is defined only when it is not empty.
func setString(d *jinja.Dict, name, value string) {
	if value != "" {
		d.Set(name, jinja.NewString(value))
	}
}

func (m Message) value() (jinja.Value, error) {
	v := jinja.NewDict()
	d := v.AsDict()
	d.Set("role", jinja.NewString(m.Role))
	d.Set("content", jinja.NewString(m.Content))
	setString(d, "reasoning_content", m.ReasoningContent)
	setString(d, "name", m.Name)
	setString(d, "tool_call_id", m.ToolCallID)
	if len(m.ToolCalls) == 0 {
		return v, nil
	}
	calls := make([]jinja.Value, len(m.ToolCalls))
	for i, c := range m.ToolCalls {
		call, err := c.value()
		if err != nil {
			return jinja.None(), fmt.Errorf("tool call %d: %w", i, err)
		}
		calls[i] = call
	}
	d.Set("tool_calls", jinja.NewList(calls))
	return v, nil
}

func (c ToolCall) value() (jinja.Value, error) {
	if c.Type == "" {
		c.Type = "function"
	}
	if len(c.Function.Arguments) == 0 {
		c.Function.Arguments = json.RawMessage("{}")
	}
	arguments, err := parseJSON(c.Function.Arguments)
	if err != nil {
		return jinja.None(), fmt.Errorf("arguments of %q: %w", c.Function.Name, err)
	}
	function := jinja.NewDict()
	function.AsDict().Set("name", jinja.NewString(c.Function.Name))
	function.AsDict().Set("arguments", arguments)
	v := jinja.NewDict()
	setString(v.AsDict(), "id", c.ID)
	v.AsDict().Set("type", jinja.NewString(c.Type))
	v.AsDict().Set("function", function)
	return v, nil
}
