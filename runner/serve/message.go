package serve

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/chat"
)

// message is a turn of a conversation as clients write it.
type message struct {
	Role             string
	Content          json.RawMessage
	ReasoningContent string `json:"reasoning_content"`
	Name             string
	ToolCalls        []chat.ToolCall `json:"tool_calls"`
	ToolCallID       string          `json:"tool_call_id"`
	FunctionCall     json.RawMessage `json:"function_call"`
}

func (f *fields) messages() (all []chat.Message) {
	var list []json.RawMessage
	if !f.read("messages", "a list of messages", &list) || len(list) == 0 {
		f.fail("messages", "a list of messages is required")
	}
	for i, raw := range list {
		at := fmt.Sprintf("messages[%d]", i)
		var m message
		if err := json.Unmarshal(raw, &m); err != nil || string(raw) == "null" {
			f.fail(at, "want an object with role and content")
			return nil
		}
		all = append(all, f.message(at, m))
	}
	return all
}

func (f *fields) message(at string, m message) chat.Message {
	switch m.Role {
	case "system", "user", "assistant", "tool":
	case "developer":
		m.Role = "system"
	default:
		f.fail(at+".role", "%q is not one of system, developer, user, assistant and tool", m.Role)
	}
	if len(m.FunctionCall) > 0 && string(m.FunctionCall) != "null" {
		f.fail(at+".function_call", "not supported: use tool_calls")
	}
	for i := range m.ToolCalls {
		call, at := &m.ToolCalls[i], fmt.Sprintf("%s.tool_calls[%d]", at, i)
		if call.Type != "" && call.Type != "function" {
			f.fail(at+".type", "%q is not function", call.Type)
		}
		if call.Function.Name == "" {
			f.fail(at+".function.name", "a name is required")
		}
		if string(call.Function.Arguments) == "null" {
			call.Function.Arguments = nil
		}
	}
	return chat.Message{
		Role: m.Role, Content: f.content(at+".content", m.Content), ReasoningContent: m.ReasoningContent,
		Name: m.Name, ToolCalls: m.ToolCalls, ToolCallID: m.ToolCallID,
	}
}

// content is a text, or a list of them, which stand below each other.
func (f *fields) content(at string, raw json.RawMessage) (text string) {
	if len(raw) == 0 || json.Unmarshal(raw, &text) == nil { // null too
		return text
	}
	var parts []struct {
		Type string
		Text *string
	}
	if err := json.Unmarshal(raw, &parts); err != nil {
		f.fail(at, "want a string or a list of parts")
	}
	var texts []string
	for i, p := range parts {
		if p.Type != "text" || p.Text == nil {
			f.fail(fmt.Sprintf("%s[%d]", at, i), "a part of type %q: the model reads text", p.Type)
			return ""
		}
		texts = append(texts, *p.Text)
	}
	return strings.Join(texts, "\n")
}

// ToolChoice is the field tool_choice of a request: "auto", "none", "required", or {"type": "function", "function":
// {"name": ...}}, as JSON.
type ToolChoice struct {
	Choice runner.ToolChoice
	Tool   string // of runner.Request
}

// UnmarshalJSON reads it.
func (c *ToolChoice) UnmarshalJSON(text []byte) error {
	var word string
	if json.Unmarshal(text, &word) == nil { // null too, as no word
		if choice, ok := runner.ParseToolChoice(word); ok {
			*c = ToolChoice{Choice: choice}
			return nil
		}
	}
	var named struct {
		Type     string
		Function struct{ Name string }
	}
	if json.Unmarshal(text, &named) != nil || named.Function.Name == "" || named.Type != "" && named.Type != "function" {
		return fmt.Errorf("tool_choice %s: want %s", text, wantToolChoice)
	}
	*c = ToolChoice{Choice: runner.ToolRequired, Tool: named.Function.Name}
	return nil
}

const wantToolChoice = `"auto", "none", "required" or {"type": "function", "function": {"name": ...}}`
