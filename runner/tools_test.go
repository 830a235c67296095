package runner_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/chat"
	"github.com/qwenrt/qwenrt/runner/sample"
)

// shown are tools whose arguments a model with random weights comes to the end of.
var shown = []json.RawMessage{
	json.RawMessage(`{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {"where": {"enum": ["up", "down"]}},
		"required": ["where"], "additionalProperties": false}}}`),
	json.RawMessage(`{"name": "count", "parameters": {"type": "object", "properties": {"to": {"type": "integer", "minimum": 1, "maximum": 99}},
		"required": ["to"], "additionalProperties": false}}`),
}

func calling(choice runner.ToolChoice, tool string, seed uint64) runner.Request {
	return runner.Request{
		Messages: []chat.Message{{Role: "user", Content: "x"}}, Tools: shown, ToolChoice: choice, Tool: tool,
		MaxTokens: 150, Sampling: &sample.Params{Temperature: 1, Seed: seed},
	}
}

// TestToolChoice holds that a model with random weights, which writes anything, calls the tools that it has to.
func TestToolChoice(t *testing.T) {
	r := chatty(t)
	called, twice, ended := map[string]bool{}, false, false
	check := func(a runner.Answer) {
		if a.Result.Reason != runner.Length { // else a call may be cut
			require.Empty(t, a.Text)
		}
		for _, c := range a.ToolCalls {
			called[c.Function.Name] = true
			var arguments map[string]any
			require.NoError(t, json.Unmarshal(c.Function.Arguments, &arguments))
			require.Len(t, arguments, 1)
			if c.Function.Name == "look" {
				require.Contains(t, []any{"up", "down"}, arguments["where"])
			} else {
				require.Equal(t, "count", c.Function.Name)
				require.GreaterOrEqual(t, arguments["to"], 1.0)
			}
		}
	}
	for seed := range uint64(8) {
		q := calling(runner.ToolRequired, "", seed)
		q.Sampling.LogitBias = endings(t, r)
		a := answersOf(t, r, q)[0]
		check(a)
		require.NotEmpty(t, a.ToolCalls)
		ended = ended || a.Result.Reason == runner.ToolCalls
		twice = twice || len(a.ToolCalls) > 1

		for _, choice := range []runner.ToolChoice{runner.ToolAuto, runner.ToolRequired} {
			a = answersOf(t, r, calling(choice, "count", seed))[0]
			check(a)
			require.Len(t, a.ToolCalls, 1)
			require.Equal(t, "count", a.ToolCalls[0].Function.Name)
			require.Equal(t, runner.ToolCalls, a.Result.Reason)
		}
	}
	require.Len(t, called, 2)
	require.True(t, twice, "more than one call is allowed")
	require.True(t, ended)

	q := calling(runner.ToolRequired, "", 1)
	q.Sampling.LogitBias = endings(t, r)
	q.Sampling.Temperature, q.Beams, q.N = 0, 3, 2
	for _, a := range answersOf(t, r, q) {
		check(a)
	}
	q = calling(runner.ToolRequired, "count", 1)
	q.Think = new(true)
	a := answersOf(t, r, q)[0]
	require.NotEmpty(t, a.Reasoning, "which is free")
	require.Equal(t, runner.Length, a.Result.Reason)
	tok, err := r.Tokenizer()
	require.NoError(t, err)
	think, ok := tok.TokenID("</think>")
	require.True(t, ok)
	q.Sampling.LogitBias = map[int32]float64{int32(think): 100}
	a = answersOf(t, r, q)[0]
	check(a)
	require.Len(t, a.ToolCalls, 1, "calls come behind the reasoning")
}

// endings makes the end of the answer likely, where it is allowed.
func endings(t *testing.T, r *runner.Runner) map[int32]float64 {
	t.Helper()
	tok, err := r.Tokenizer()
	require.NoError(t, err)
	id, ok := tok.TokenID("<|im_end|>")
	require.True(t, ok)
	return map[int32]float64{int32(id): 1}
}

func TestToolNone(t *testing.T) {
	r := chatty(t)
	tok, err := r.Tokenizer()
	require.NoError(t, err)
	id, ok := tok.TokenID("<tool_call>")
	require.True(t, ok)
	q := calling(runner.ToolAuto, "", 0)
	q.Sampling.LogitBias, q.MaxTokens = map[int32]float64{int32(id): 100}, 3
	require.Contains(t, answersOf(t, r, q)[0].Text, "<tool_call>", "it would call")
	q.ToolChoice = runner.ToolNone
	require.NotContains(t, answersOf(t, r, q)[0].Text, "<tool_call>")
	q.Beams, q.Sampling.Temperature = 2, 0
	require.NotContains(t, answersOf(t, r, q)[0].Text, "<tool_call>")
}

// TestToolNoneLogprobs holds that log-probabilities are the model's own, as with any other restriction.
func TestToolNoneLogprobs(t *testing.T) {
	r := chatty(t)
	q := calling(runner.ToolAuto, "", 0)
	q.Sampling, q.MaxTokens, q.Logprobs, q.TopLogprobs = greedy, 1, true, 5
	want := answersOf(t, r, q)[0].Logprobs[0].Top
	q.ToolChoice = runner.ToolNone
	got := answersOf(t, r, q)[0].Logprobs[0].Top
	require.Len(t, got, len(want))
	for i, w := range want {
		require.Equal(t, w.Token, got[i].Token)
		require.InDelta(t, w.Logprob, got[i].Logprob, 1e-5)
	}
}

func TestToolChoiceErrors(t *testing.T) {
	r := chatty(t)
	for _, c := range []struct {
		why, says string
		spoil     func(*runner.Request)
	}{
		{"an unknown word", `ToolChoice is "always"`, func(q *runner.Request) { q.ToolChoice = "always" }},
		{"nothing to call", "there are no Tools", func(q *runner.Request) { q.Tools = nil }},
		{"none and one", `Tool is "count", and ToolChoice "none"`, func(q *runner.Request) { q.ToolChoice, q.Tool = runner.ToolNone, "count" }},
		{"a tool that there is not", `Tool is "fly", and there is none of that name`, func(q *runner.Request) { q.Tool = "fly" }},
		{"a constraint beside", "exclude each other", func(q *runner.Request) { q.Constraint = &script{} }},
		{"a tool without a name", "Tools[0] has no name", func(q *runner.Request) { q.Tools = []json.RawMessage{json.RawMessage(`{}`)} }},
		{"a schema that is not supported", `tools: grammar: unusable schema: function "f": at #`, func(q *runner.Request) {
			q.Tools = []json.RawMessage{json.RawMessage(`{"name": "f", "parameters": {"not": {}}}`)}
		}},
	} {
		q := calling(runner.ToolRequired, "", 0)
		c.spoil(&q)
		_, err := r.Answers(t.Context(), q)
		requireError(t, err, runner.ErrRequest, c.says)
	}
}

// TestBeamsConstrained holds that each beam keeps to the grammar, and that the best answer of few is found.
func TestBeamsConstrained(t *testing.T) {
	r := chatty(t)
	text := "The noun"
	q := runner.Request{Prompt: "x", Sampling: greedy, Constraint: spelled(t, r, text), Beams: 3}
	a := answersOf(t, r, q)[0]
	require.Equal(t, text, a.Text)
	require.Equal(t, runner.Stop, a.Result.Reason)
}
