package runner_test

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/chat"
	"github.com/qwenrt/qwenrt/runner/sample"
	"github.com/qwenrt/qwenrt/runner/tokenizer"
)

// answersOf gives whole answers.
func answersOf(t *testing.T, r *runner.Runner, q runner.Request) []runner.Answer {
	t.Helper()
	all, err := r.Answers(t.Context(), q)
	require.NoError(t, err)
	return all
}

// TestAnswersSharePrefill holds that answer i of several is the one that a request of its own gets.
func TestAnswersSharePrefill(t *testing.T) {
	for _, c := range []struct {
		unshared bool
		slots    int
	}{{false, 0}, {true, 0}, {false, 1}, {false, 2}, {false, 4}} {
		m := talker(t)
		m.unshared = c.unshared
		r := m.open(t, runner.Options{Slots: c.slots})
		q := runner.Request{Prompt: "One two", MaxTokens: 12, IgnoreEOS: true, Sampling: &sample.Params{Temperature: 5, Seed: 40}}
		q.N = 3
		all := answersOf(t, r, q)
		require.Len(t, all, 3)
		q.N = 0
		for i, a := range all {
			one := *q.Sampling
			one.Seed += uint64(i)
			q.Sampling = &one
			alone := answersOf(t, r, q)[0]
			require.Equal(t, alone.Tokens, a.Tokens)
			require.Equal(t, alone.Text, a.Text)
			require.Equal(t, counts(alone.Result), counts(a.Result))
			one.Seed -= uint64(i)
		}
		require.NotEqual(t, all[0].Tokens, all[1].Tokens)
	}
}

// TestGenerateBatchSideBySide holds that requests that share runs get the answers that they get alone.
func TestGenerateBatchSideBySide(t *testing.T) {
	m := talker(t)
	var requests []runner.Request
	for i := range 9 {
		requests = append(requests, runner.Request{Prompt: strings.Repeat("word ", 1+5*i), MaxTokens: 4 + i, IgnoreEOS: true, N: 1 + i%2,
			Sampling: &sample.Params{Temperature: float64(i%3 + 1), TopK: 5, Seed: uint64(i)}})
	}
	answers := func(slots int) (all [9][2]string) {
		r := m.open(t, runner.Options{Slots: slots})
		for ev, err := range r.GenerateBatch(t.Context(), requests) {
			require.NoError(t, err)
			all[ev.Request][ev.Answer] += ev.Text
		}
		for range r.GenerateBatch(t.Context(), requests) {
			break // and Close does not wait for ever
		}
		return all
	}
	require.Equal(t, answers(0), answers(3))
}

func TestGenerateBatch(t *testing.T) {
	r := talker(t).open(t, runner.Options{})
	requests := []runner.Request{
		{Prompt: "One", MaxTokens: 3, Sampling: greedy, IgnoreEOS: true},
		{}, // a bad one
		{Prompt: "Two", MaxTokens: 2, Sampling: &sample.Params{Temperature: 1}, N: 2, IgnoreEOS: true},
	}
	var ends [][2]int
	for ev, err := range r.GenerateBatch(t.Context(), requests) {
		if ev.Result == nil {
			require.NoError(t, err)
			continue
		}
		ends = append(ends, [2]int{ev.Request, ev.Answer})
		require.Equal(t, ev.Request == 1, err != nil)
		if err == nil {
			require.Equal(t, requests[ev.Request].MaxTokens, ev.Result.GeneratedTokens)
		}
	}
	require.Equal(t, [][2]int{{0, 0}, {1, 0}, {2, 0}, {2, 1}}, ends, "the others go on")

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := 0
	for _, err := range r.GenerateBatch(ctx, requests) {
		cancel()
		if err != nil {
			ended++
		}
	}
	require.Equal(t, 3, ended)
	for range r.GenerateBatch(t.Context(), requests) {
		break
	}
}

// leaning gives Sampling that lets any model say tokens in turn, each once: the bias of the first is the largest.
func leaning(t *testing.T, r *runner.Runner, spellings ...string) *sample.Params {
	t.Helper()
	tok, err := r.Tokenizer()
	require.NoError(t, err)
	p := &sample.Params{NoRepeatNgram: 1, LogitBias: map[int32]float64{}}
	for i, s := range spellings {
		id, ok := tok.TokenID(s)
		require.True(t, ok, s)
		p.LogitBias[int32(id)] = float64(100 - 3*i)
	}
	require.LessOrEqual(t, len(spellings), 20)
	return p
}

var decodeAll = tokenizer.DecodeOptions{}

const end = "<|endoftext|>" // which no conversation has

// chatty is a talker with the carried model's chat template and end tokens.
func chatty(t *testing.T) *runner.Runner {
	t.Helper()
	m := talker(t)
	generation, err := os.ReadFile(filepath.Join(carried, "generation_config.json"))
	require.NoError(t, err)
	m.files["generation_config.json"] = string(generation)
	return m.open(t, runner.Options{})
}

func TestReasoning(t *testing.T) {
	r := chatty(t)
	q := runner.Request{Messages: []chat.Message{{Role: "user", Content: "x"}}, MaxTokens: 20}
	q.Sampling = leaning(t, r, "<think>", "One", "</think>", "ĊĊ", "The", end)
	a := answersOf(t, r, q)[0]
	require.Equal(t, "One", a.Reasoning)
	require.Equal(t, "The", a.Text)
	require.Equal(t, runner.Stop, a.Result.Reason)
	require.Equal(t, 5, a.Result.GeneratedTokens)

	q.Think = new(false)
	q.Sampling = leaning(t, r, "The", end)
	a = answersOf(t, r, q)[0]
	require.Empty(t, a.Reasoning)
	require.Equal(t, "The", a.Text)

	raw := runner.Request{Prompt: "x", Sampling: leaning(t, r, "<think>", "One", "</think>", "The", end), MaxTokens: 20}
	a = answersOf(t, r, raw)[0]
	require.Equal(t, "<think>One</think>The", a.Text, "what is no conversation is not taken apart")
}

// spelled is a constraint that allows one text.
func spelled(t *testing.T, r *runner.Runner, text string) *script {
	t.Helper()
	tok, err := r.Tokenizer()
	require.NoError(t, err)
	ids, err := tok.Encode(text)
	require.NoError(t, err)
	return &script{tokens: ids}
}

func TestToolCalls(t *testing.T) {
	r := chatty(t)
	const text = "I look.\n<tool_call>\n{\"name\": \"find\", \"arguments\": {\"what\": \"harbor\", \"all\": true}}\n</tool_call>\n<tool_call>\n{\"name\": }\n</tool_call>"
	q := runner.Request{
		Messages: []chat.Message{{Role: "user", Content: "x"}}, MaxTokens: 300, Sampling: greedy, Constraint: spelled(t, r, text),
		Tools: []json.RawMessage{json.RawMessage(`{"type": "function", "function": {"name": "find"}}`)},
	}
	a := answersOf(t, r, q)[0]
	require.Equal(t, "I look.<tool_call>\n{\"name\": }\n</tool_call>", a.Text, "a malformed call is text")
	require.Len(t, a.ToolCalls, 1)
	require.Equal(t, "find", a.ToolCalls[0].Function.Name)
	require.Equal(t, `{"what": "harbor", "all": true}`, string(a.ToolCalls[0].Function.Arguments), "in the order of the model")
	require.Equal(t, runner.ToolCalls, a.Result.Reason)

	q.Tools = nil
	a = answersOf(t, r, q)[0]
	require.Equal(t, text, a.Text, "without tools there are no calls")
	require.Equal(t, runner.Stop, a.Result.Reason)
}

// TestConstraintThinks holds that reasoning is free, and that a constraint begins behind it.
func TestConstraintThinks(t *testing.T) {
	r := chatty(t)
	q := runner.Request{
		Messages: []chat.Message{{Role: "user", Content: "x"}}, MaxTokens: 300, Think: new(true),
		Constraint: spelled(t, r, "{}"), Sampling: leaning(t, r, end, "One", "</think>"),
	}
	a := answersOf(t, r, q)[0]
	require.Equal(t, "One", a.Reasoning, "it may not end before the constraint has been heard")
	require.Equal(t, "{}", a.Text)
}

func TestStopStrings(t *testing.T) {
	r := chatty(t)
	const text = "The noun harbor means: a place.\n\nUser: "
	q := runner.Request{Prompt: "x", Sampling: greedy, Constraint: spelled(t, r, text)}
	for _, c := range []struct {
		why, want string
		stops     []string
		min       int
		reason    runner.Reason
	}{
		{"none", text, nil, 0, runner.Stop},
		{"across the borders of tokens", "The noun har", []string{"bor mea"}, 0, runner.Stop},
		{"the first of some", "The noun harbor means: a place.", []string{"User:", "\n\n", "never"}, 0, runner.Stop},
		{"held back to the end", text, []string{"User: you"}, 0, runner.Stop},
		{"not before the least number of tokens", text, []string{"The"}, 5, runner.Stop},
	} {
		q.StopStrings, q.MinTokens = c.stops, c.min
		a := answersOf(t, r, q)[0]
		require.Equal(t, c.want, a.Text, c.why)
		require.Equal(t, c.reason, a.Result.Reason)
		require.Len(t, a.Tokens, a.Result.GeneratedTokens)
	}
}

func TestMinTokens(t *testing.T) {
	m := toy{vocab: 500, files: map[string]string{"generation_config.json": `{"eos_token_id": 7}`}}
	r := m.open(t, runner.Options{})
	q := runner.Request{Tokens: m.prompt(5), MaxTokens: 9, Sampling: &sample.Params{LogitBias: map[int32]float64{7: 100}}}
	for _, q.MinTokens = range []int{0, 1, 4, 9} {
		_, tokens, _ := collect(t, r, q)
		require.Len(t, tokens, q.MinTokens, "the model would end at once")
		require.NotContains(t, tokens, int32(7))
	}
	q.StopTokens, q.IgnoreEOS, q.Sampling.LogitBias = []int32{8}, true, map[int32]float64{8: 100}
	_, tokens, _ := collect(t, r, q)
	require.Len(t, tokens, 9, "the caller's end tokens too")
}

// TestLogprobs compares with what a sequence gives, and with the definition.
func TestLogprobs(t *testing.T) {
	m := talker(t)
	r := m.open(t, runner.Options{})
	prompt := []int32{11, 12, 13, 14}
	q := runner.Request{Tokens: prompt, MaxTokens: 6, IgnoreEOS: true, Echo: true, Logprobs: true, TopLogprobs: 3,
		Sampling: &sample.Params{Temperature: 3, TopK: 40, RepetitionPenalty: 1.5}}
	tok, err := r.Tokenizer()
	require.NoError(t, err)
	a := answersOf(t, r, q)[0]
	require.Len(t, a.Tokens, 10)
	require.Equal(t, prompt, a.Tokens[:4])
	require.Len(t, a.Logprobs, 10)
	require.Nil(t, a.Logprobs[0], "nothing is behind it")
	text, err := tok.Decode(a.Tokens, decodeAll)
	require.NoError(t, err)
	require.Equal(t, text, a.Text)

	s := sequence(t, r)
	require.NoError(t, s.Score(t.Context(), a.Tokens, func(i int, logits []float32) error {
		if i+1 == len(a.Tokens) {
			return nil
		}
		p := make([]float64, tok.VocabSize())
		total := 0.0
		for j := range p {
			p[j] = math.Exp(float64(logits[j]))
			total += p[j]
		}
		for j := range p {
			p[j] = math.Log(p[j] / total)
		}
		got := a.Logprobs[i+1]
		require.InDelta(t, p[a.Tokens[i+1]], got.Token, 1e-4)
		slices.Sort(p)
		require.Len(t, got.Top, 3)
		for j, top := range got.Top {
			require.InDelta(t, p[len(p)-1-j], top.Logprob, 1e-4)
		}
		return nil
	}))
	q.Echo, q.TopLogprobs, q.Logprobs = false, 0, false
	require.Nil(t, answersOf(t, r, q)[0].Logprobs)
}

// TestBadRequests holds that each bad value gives one line, which has all that is wrong.
func TestBadRequests(t *testing.T) {
	m := toy{vocab: 500}
	r := m.open(t, runner.Options{})
	good := runner.Request{Tokens: m.prompt(3), MaxTokens: 1, Sampling: &sample.Params{}}
	many := make([]string, 5000)
	for i := range many {
		many[i] = "x"
	}
	for _, c := range []struct {
		why   string
		spoil func(*runner.Request)
		says  string
	}{
		{"negative numbers", func(q *runner.Request) { q.MinTokens, q.N, q.TopLogprobs = -1, -2, -3 },
			"MinTokens is -1, below 0; N is -2, not from 0 to 128; TopLogprobs is -3, not from 0 to 100"},
		{"huge ones", func(q *runner.Request) { q.N, q.TopLogprobs, q.Logprobs = math.MaxInt, 101, true }, "N is 9223372036854775807, not from 0 to 128; TopLogprobs is 101"},
		{"more at least than at most", func(q *runner.Request) { q.MinTokens = 2 }, "MinTokens is 2, above MaxTokens, which is 1"},
		{"alternatives to nothing", func(q *runner.Request) { q.TopLogprobs = 2 }, "without Logprobs"},
		{"a bias for no token", func(q *runner.Request) { q.Sampling.LogitBias = map[int32]float64{500: 1} }, "the token 500, which is not one of 0 to 499"},
		{"a bias that is no number", func(q *runner.Request) { q.Sampling.LogitBias = map[int32]float64{5: math.NaN()} }, "token 5 is NaN"},
		{"beams without end", func(q *runner.Request) { q.Beams = 1 << 30 }, "Beams is 1073741824, not from 0 to 32"},
		{"more answers than beams", func(q *runner.Request) { q.Beams, q.N = 2, 3 }, "N is 3, above Beams, which is 2"},
		{"beams and chance", func(q *runner.Request) { q.Beams, q.Sampling.Temperature = 2, 1 }, "Beams with a Temperature of 1: want 0"},
		{"beams and what they do not go with", func(q *runner.Request) { q.Beams, q.Logprobs = 2, true }, "Logprobs are not for Beams: Result.Score"},
		{"a length penalty that is no number", func(q *runner.Request) { q.Beams, q.LengthPenalty = 2, new(math.NaN()) }, "LengthPenalty is NaN, not from -10 to 10"},
		{"a length penalty without beams", func(q *runner.Request) { q.LengthPenalty = new(1.0) }, "are for Beams"},
		{"an end token that there is not", func(q *runner.Request) { q.StopTokens = []int32{5, -7} }, "StopTokens[1] is -7, not one of 0 to 499"},
		{"thousands of end tokens", func(q *runner.Request) { q.StopTokens = make([]int32, 5000) }, "number of StopTokens is 5000, not from 0 to 1024"},
		{"thousands of stop strings", func(q *runner.Request) { q.StopStrings = many }, "number of StopStrings is 5000, not from 0 to 128"},
		{"a stop string without end", func(q *runner.Request) { q.StopStrings = []string{strings.Repeat("x", 1<<20)} }, "StopStrings have 1048576 bytes, more than 16384"},
		{"an empty stop string", func(q *runner.Request) { q.StopStrings = []string{"x", ""} }, `StopStrings[1] is empty or not UTF-8: ""`},
		{"a stop string that is no text", func(q *runner.Request) { q.StopStrings = []string{"\xff"} }, `StopStrings[0] is empty or not UTF-8: "\xff"`},
		{"tools without a conversation", func(q *runner.Request) { q.Tools = []json.RawMessage{[]byte("{}")} }, "Tools belong to Messages"},
		{"a tool that is no object", func(q *runner.Request) { q.Tools = []json.RawMessage{[]byte("{}"), []byte("[1]")} }, "Tools[1] is not a JSON object"},
	} {
		t.Run(c.why, func(t *testing.T) {
			q, params := good, *good.Sampling
			q.Sampling = &params
			c.spoil(&q)
			all, err := r.Answers(t.Context(), q)
			requireError(t, err, runner.ErrRequest, c.says)
			require.Len(t, all, 1)
			require.Equal(t, runner.Failed, all[0].Result.Reason)
		})
	}
	answersOf(t, r, good)

	talking := talker(t).open(t, runner.Options{MaxContext: 100})
	_, _, err := talking.Text(t.Context(), runner.Request{Prompt: strings.Repeat("x", 10_000)})
	requireError(t, err, runner.ErrContext, "the prompt has 10000 bytes")
}

// FuzzGenerate holds that no request panics or goes on for ever: each answer has one last event, and what is
// wrong is told in one line.
func FuzzGenerate(f *testing.F) {
	type numbers struct {
		max, min, n, top, beams, speculate int
		temperature, topP, penalty, bias   float64
	}
	add := func(prompt, stop, tool string, kind, flags uint8, token int32, v numbers) {
		f.Add(prompt, stop, tool, kind, flags, token, v.max, v.min, v.n, v.top, v.beams, v.speculate, v.temperature, v.topP, v.penalty, v.bias)
	}
	add("One two", "o|e", "{}", 0, 0xff, 7, numbers{max: 5, min: 2, n: 2, top: 3, temperature: 1, topP: 0.9, penalty: 1.1, bias: 2})
	add("x", "", "", 1, 0, -1, numbers{max: -1, n: 1 << 40, beams: 3, temperature: math.NaN(), penalty: math.Inf(1)})
	add("<think>", "\x00", "[", 2, 0x0f, 8192, numbers{max: 9, beams: 4, speculate: 3})
	m := toy{layers: 1, vocab: 8192, files: map[string]string{}}
	for _, name := range []string{"tokenizer.json", "tokenizer_config.json", "generation_config.json"} {
		text, err := os.ReadFile(filepath.Join(carried, name))
		require.NoError(f, err)
		m.files[name] = string(text)
	}
	r := m.open(f, runner.Options{MaxContext: 64})
	f.Fuzz(func(t *testing.T, prompt, stop, tool string, kind, flags uint8, token int32, limit, least, n, top, beams, speculate int,
		temperature, topP, penalty, bias float64) {
		is := func(bit int) bool { return flags>>bit&1 == 1 }
		q := runner.Request{
			MaxTokens: limit, MinTokens: least, N: n, TopLogprobs: top, Logprobs: is(0), Echo: is(1), IgnoreEOS: is(2), ShowSpecial: is(3),
			Beams: beams, Speculate: speculate, StopTokens: []int32{token}, EarlyStopping: is(4),
			Sampling: &sample.Params{Temperature: temperature, TopP: topP, TopK: top, RepetitionPenalty: penalty,
				FrequencyPenalty: bias, NoRepeatNgram: least, LogitBias: map[int32]float64{token: bias}},
		}
		if stop != "" {
			q.StopStrings = strings.Split(stop, "|")
		}
		switch kind % 3 {
		case 0:
			q.Prompt = prompt
		case 1:
			q.Messages = []chat.Message{{Role: "user", Content: prompt}}
			if is(5) {
				q.Think = new(is(6))
			}
			if tool != "" {
				q.Tools = []json.RawMessage{json.RawMessage(tool)}
			}
		case 2:
			for _, b := range []byte(prompt) {
				q.Tokens = append(q.Tokens, int32(b)*token)
			}
		}
		ended := map[int]bool{}
		for ev, err := range r.Generate(t.Context(), q) {
			require.False(t, ended[ev.Answer], "an event behind the last")
			ended[ev.Answer] = ev.Result != nil
			if err != nil {
				require.NotNil(t, ev.Result)
				require.NotContains(t, err.Error(), "\n")
			}
			require.True(t, utf8.ValidString(ev.Text+ev.Reasoning))
		}
		for _, is := range ended {
			require.True(t, is)
		}
		require.NotEmpty(t, ended)
	})
}
