package chat

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func call(name, arguments string) ToolCall {
	return ToolCall{Type: "function", Function: FunctionCall{Name: name, Arguments: json.RawMessage(arguments)}}
}

// parse gives an answer that comes in pieces of some bytes.
func parse(p *Parser, answer string, size int) (all Delta) {
	add := func(d Delta) {
		all.Text += d.Text
		all.Reasoning += d.Reasoning
		all.ToolCalls = append(all.ToolCalls, d.ToolCalls...)
	}
	for answer != "" {
		n := min(size, len(answer))
		other := p.Clone()
		other.Next("<think>x<tool_call>y") // is nothing to this one
		add(p.Next(answer[:n]))
		answer = answer[n:]
	}
	add(p.Flush())
	return all
}

func TestParser(t *testing.T) {
	for _, c := range []struct {
		why, answer string
		thinks      bool
		want        Delta
	}{
		{why: "text alone", answer: "\n Hello\n", want: Delta{Text: "\n Hello\n"}},
		{why: "nothing"},
		{why: "as Qwen3 writes it", answer: "<think>\nHm.\n\nYes.\n</think>\n\nHello\n", want: Delta{Reasoning: "Hm.\n\nYes.", Text: "Hello\n"}},
		{why: "thinking switched off by the model", answer: "<think>\n\n</think>\n\nHello", want: Delta{Text: "Hello"}},
		{why: "the template has opened it", answer: "\nHm.\n</think>\n\nHello", thinks: true, want: Delta{Reasoning: "Hm.", Text: "Hello"}},
		{why: "cut short while thinking", answer: "<think>\nHm.\n</thi", want: Delta{Reasoning: "Hm.\n</thi"}},
		{why: "no reasoning but at the beginning", answer: "See <think>x</think>", want: Delta{Text: "See <think>x</think>"}},
		{why: "almost a tag", answer: "<thin ice", want: Delta{Text: "<thin ice"}},
		{why: "a less-than sign at the end", answer: "1 <", want: Delta{Text: "1 <"}},
		{why: "a call", answer: "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"b\": 1, \"a\": [2]}}\n</tool_call>",
			want: Delta{ToolCalls: []ToolCall{call("add", `{"b": 1, "a": [2]}`)}}},
		{why: "reasoning, text and two calls", answer: "<think>\nHm.\n</think>\n\nI look.\n<tool_call>\n{\"name\": \"a\"}\n</tool_call>\n<tool_call>\n{\"name\": \"b\", \"arguments\": null}\n</tool_call>\n",
			want: Delta{Reasoning: "Hm.", Text: "I look.", ToolCalls: []ToolCall{call("a", "{}"), call("b", "{}")}}},
		{why: "text behind a call", answer: "<tool_call>{\"name\": \"a\"}</tool_call>\n\nDone.", want: Delta{Text: "Done.", ToolCalls: []ToolCall{call("a", "{}")}}},
		{why: "arguments in a string", answer: `<tool_call>{"name": "a", "arguments": "{\"x\": 1}"}</tool_call>`, want: Delta{ToolCalls: []ToolCall{call("a", `{"x": 1}`)}}},
		{why: "a call that is cut short at its end tag", answer: "<tool_call>\n{\"name\": \"a\"}\n", want: Delta{ToolCalls: []ToolCall{call("a", "{}")}}},
		{why: "the end tag's beginning is not JSON", answer: "<tool_call>\n{\"name\": \"a\"}\n</tool", want: Delta{Text: "<tool_call>\n{\"name\": \"a\"}\n</tool"}},
		{why: "a call that is cut short", answer: "Well\n<tool_call>\n{\"name\": \"a", want: Delta{Text: "Well\n<tool_call>\n{\"name\": \"a"}},
		{why: "no JSON", answer: "<tool_call>add(1)</tool_call>!", want: Delta{Text: "<tool_call>add(1)</tool_call>!"}},
		{why: "JSON and more", answer: `<tool_call>{"name": "a"} {}</tool_call>`, want: Delta{Text: `<tool_call>{"name": "a"} {}</tool_call>`}},
		{why: "a list", answer: "<tool_call>[]</tool_call>", want: Delta{Text: "<tool_call>[]</tool_call>"}},
		{why: "no name", answer: `<tool_call>{"Name": "a"}</tool_call>`, want: Delta{Text: `<tool_call>{"Name": "a"}</tool_call>`}},
		{why: "a name that is none", answer: `<tool_call>{"name": 1}</tool_call>`, want: Delta{Text: `<tool_call>{"name": 1}</tool_call>`}},
		{why: "an empty name", answer: `<tool_call>{"name": ""}</tool_call>`, want: Delta{Text: `<tool_call>{"name": ""}</tool_call>`}},
		{why: "arguments that are a list", answer: `<tool_call>{"name": "a", "arguments": [1]}</tool_call>`, want: Delta{Text: `<tool_call>{"name": "a", "arguments": [1]}</tool_call>`}},
		{why: "a string of no object", answer: `<tool_call>{"name": "a", "arguments": "x"}</tool_call>`, want: Delta{Text: `<tool_call>{"name": "a", "arguments": "x"}</tool_call>`}},
		{why: "a malformed call and a good one", answer: "<tool_call>x</tool_call><tool_call>{\"name\": \"a\"}</tool_call>",
			want: Delta{Text: "<tool_call>x</tool_call>", ToolCalls: []ToolCall{call("a", "{}")}}},
	} {
		t.Run(c.why, func(t *testing.T) {
			for size := 1; size <= max(1, len(c.answer)); size++ {
				got := parse(NewParser(c.thinks, true), c.answer, size)
				require.Equal(t, c.want, got, "in pieces of %d", size)
			}
		})
	}
}

func TestParserWithoutTools(t *testing.T) {
	const text = "<tool_call>{\"name\": \"a\"}</tool_call>\n"
	p := NewParser(false, false)
	require.Equal(t, Delta{Text: text}, p.Next(text), "at once")
}

// TestParserStreams holds that no more is held back than what may be markup.
func TestParserStreams(t *testing.T) {
	p := NewParser(false, true)
	for _, step := range []struct{ in, text, reasoning string }{
		{" <th", "", ""}, {"ink>", "", ""}, {"\n", "", ""}, {"Hm", "", "Hm"}, {".\n", "", "."}, {"So", "", "\nSo"},
		{"\n</thi", "", ""}, {"nk>\n\n", "", ""}, {"Hi", "Hi", ""}, {" <tool", " ", ""}, {"box", "<toolbox", ""},
	} {
		require.Equal(t, Delta{Text: step.text, Reasoning: step.reasoning}, p.Next(step.in), step.in)
	}
}

func TestThinks(t *testing.T) {
	require.True(t, Thinks("<|im_start|>assistant\n<think>\n"))
	require.False(t, Thinks("<|im_start|>assistant\n<think>\n\n</think>\n\n"))
	require.False(t, Thinks("<|im_start|>assistant\n"))
}

// FuzzParser holds that the pieces in which an answer comes make no difference, and that nothing is
// lost but markup.
func FuzzParser(f *testing.F) {
	f.Add("<think>\na\n</think>\n\nb\n<tool_call>\n{\"name\": \"c\"}\n</tool_call>", 3, false)
	f.Add("x</think><tool_call>\n\n<tool_call>{}</tool_call>\n", 1, true)
	f.Fuzz(func(t *testing.T, answer string, size int, thinks bool) {
		whole := parse(NewParser(thinks, true), answer, len(answer)+1)
		require.Equal(t, whole, parse(NewParser(thinks, true), answer, max(1, size%32)))
		for _, c := range whole.ToolCalls {
			require.NotEmpty(t, c.Function.Name)
			require.True(t, json.Valid(c.Function.Arguments))
		}
		if len(whole.ToolCalls) == 0 {
			drop := strings.NewReplacer("\n", "", " ", "", "\t", "", "\r", "", thinkOpen, "", thinkClose, "")
			require.Equal(t, drop.Replace(answer), drop.Replace(whole.Reasoning)+drop.Replace(whole.Text))
		}
	})
}
