package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/chat"
)

func TestConverse(t *testing.T) {
	need(t)
	model := built(t)
	dir := t.TempDir()
	talk := func(lines ...string) result {
		return qwenrtWith(t, strings.NewReader(strings.Join(lines, "\n")), "run", model, "--interactive", "--temperature", "0", "--max-tokens", "8", "--no-think")
	}
	read := func(name string) (s saved) {
		data, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(data, &s))
		return s
	}
	file := func(name string) string { return filepath.Join(dir, name) }

	r := talk(question, "And a lake?", "/save "+file("two"), "/reset", question, "/save "+file("one"))
	require.Equal(t, exitOK, r.code, r.stderr)
	require.True(t, strings.HasPrefix(r.stdout, answer), r.stdout)
	two, one := read("two"), read("one")
	require.Len(t, two.Messages, 4)
	require.Equal(t, []string{"user", "assistant", "user", "assistant"}, roles(two))
	require.Equal(t, two.Messages[:2], one.Messages, "as if nothing had been said before")
	require.Equal(t, question, one.Messages[0].Content)

	r = talk("/load "+file("one"), "And a lake?", "/save "+file("again"))
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Equal(t, two, read("again"), "it goes on where it was")

	r = talk("/system Be brief.", "x", "/save "+file("system"), "/load "+file("system"), "/save "+file("copy"), "/system", "/save "+file("none"))
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Equal(t, []string{"system", "user", "assistant"}, roles(read("system")))
	require.Equal(t, read("system"), read("copy"))
	require.Empty(t, read("none").Messages)

	r = talk(`"""one`, "", "two", `three"""`, "/save "+file("lines"))
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Equal(t, "one\n\ntwo\nthree", read("lines").Messages[0].Content)

	r = talk("/help", "/think off", "/think", "/think on", "/quit", question)
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Contains(t, r.stderr, "/system [TEXT]")
	require.Empty(t, r.stdout, "nothing behind /quit is read")
}

func roles(s saved) (all []string) {
	for _, m := range s.Messages {
		all = append(all, m.Role)
	}
	return all
}

// TestConverseErrors holds that a conversation survives what cannot be done.
func TestConverseErrors(t *testing.T) {
	need(t)
	model := built(t)
	bad := filepath.Join(t.TempDir(), "bad")
	require.NoError(t, os.WriteFile(bad, []byte(`{"messages": [{}]}`), 0o666))
	for _, c := range []struct{ why, line, want string }{
		{"unknown command", "/frobnicate", "unknown command /frobnicate; /help"},
		{"no name", "/save", "/save FILE: the name is missing"},
		{"no name either", "/load", "/load FILE: the name is missing"},
		{"no such file", "/load " + bad + "x", "no such file"},
		{"a file that is none", "/load " + bad, "a message has no role"},
		{"no switch", "/think hard", "want on, off, or nothing"},
		{"too long", strings.Repeat("harbor ", 3000), "context length exceeded"},
	} {
		r := qwenrtWith(t, strings.NewReader(c.line+"\n"+question), "run", model, "--interactive", "--temperature", "0", "--max-tokens", "8", "--no-think")
		require.Equal(t, exitOK, r.code, c.why)
		require.Contains(t, r.stderr, c.want, c.why)
		require.True(t, strings.HasPrefix(r.stdout, answer), c.why)
	}
}

func TestHistory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "below", "history")
	h := readHistory(file)
	for _, line := range []string{"one", "two", "two", "  ", `three "quoted"`} {
		h.Add(line)
	}
	require.NoError(t, h.write(file))
	h = readHistory(file)
	require.Equal(t, 3, h.Len())
	require.Equal(t, `three "quoted"`, h.At(0))
	require.Equal(t, "one", h.At(2))
	for i := range maxHistory + 5 {
		h.Add(fmt.Sprint(i))
	}
	require.Equal(t, maxHistory, h.Len())
	require.Equal(t, fmt.Sprint(maxHistory+4), h.At(0))
	require.NoError(t, h.write(""))
	require.NoError(t, os.WriteFile(file, []byte("torn\n\"good\"\n\"to"), 0o666))
	require.Equal(t, []string{"good"}, readHistory(file).lines)
}

// typed are lines of which some belong together.
type typed []struct {
	text string
	more bool
}

func (t *typed) line(string) (string, bool, error) {
	l := (*t)[0]
	*t = slices.Delete(*t, 0, 1)
	return l.text, l.more, nil
}

func (*typed) close() error { return nil }

func TestPaste(t *testing.T) {
	text, err := readMessage(&typed{{"one", true}, {"two", true}, {"three", false}})
	require.NoError(t, err)
	require.Equal(t, "one\ntwo\nthree", text)
}

// TestAnswerWriter holds the form of reasoning and of tool calls.
func TestAnswerWriter(t *testing.T) {
	show := func(hide bool) string {
		var b strings.Builder
		w := &answerWriter{w: &b, hide: hide}
		for _, ev := range events {
			require.NoError(t, w.show(ev))
		}
		require.NoError(t, w.end())
		return b.String()
	}
	const visible = "Yes.\n<tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": 1}}\n</tool_call>\n"
	require.Equal(t, "<think>\nHm.\n</think>\n\n"+visible, show(false))
	require.Equal(t, visible, show(true))
}

var events = []runner.Event{{Reasoning: "H"}, {Reasoning: "m."}, {}, {Text: "Yes"}, {Text: "."}, {ToolCalls: []chat.ToolCall{call}}}

var call = chat.ToolCall{Function: chat.FunctionCall{Name: "a", Arguments: json.RawMessage(`{"x": 1}`)}}
