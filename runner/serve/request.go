package serve

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/chat"
	"github.com/qwenrt/qwenrt/runner/sample"
)

// defaults are what requests go on from.
type defaults struct {
	request  runner.Request
	sampling sample.Params // the model's own
	vocab    int
}

// generation is a request for answers as it was read.
type generation struct {
	model    string
	prompts  []runner.Request
	answers  int // to each prompt
	format   format
	stream   bool
	usage    bool // in the stream too
	logprobs bool
}

// Bounds of a request beside those of the runner.
const (
	maxChoices = 128 // answers to all prompts together
	maxPenalty = 2
	maxTop     = 20 // OpenAI's; each token's line of them is text in the answer
)

// completionTokens is the length of a completion for which none is given, as in OpenAI's API.
const completionTokens = 16

// readChat reads the body of a request for chat completions.
func readChat(body []byte, d defaults) (*generation, error) {
	f, err := readFields(body)
	if err != nil {
		return nil, err
	}
	g, q := f.generation(d)
	q.Messages = f.messages()
	f.tools(&q, g)
	f.think(&q)
	f.flag("logprobs", &q.Logprobs)
	if f.integer("top_logprobs", &q.TopLogprobs, 0, maxTop) && q.TopLogprobs > 0 && !q.Logprobs {
		f.fail("top_logprobs", "wants logprobs")
	}
	f.unsupported("functions", "", "use tools")
	f.unsupported("function_call", `"none"`, "use tool_choice")
	f.unsupported("modalities", `["text"]`, "the model writes text")
	f.unsupported("audio", "", "the model writes text")
	f.unsupported("web_search_options", "", "")
	f.unsupported("echo", "", "it is for completions")
	f.unsupported("add_generation_prompt", "true", "")
	f.unsupported("continue_final_message", "", "")
	f.unsupported("chat_template", "", "the model's own is used")
	f.unsupported("documents", "", "put them into messages")
	g.prompts, g.logprobs = []runner.Request{q}, q.Logprobs
	return g, f.err
}

// readCompletion reads the body of a request for completions.
func readCompletion(body []byte, d defaults) (*generation, error) {
	f, err := readFields(body)
	if err != nil {
		return nil, err
	}
	g, q := f.generation(d)
	if q.MaxTokens == 0 && !f.has("max_tokens") {
		q.MaxTokens = completionTokens
	}
	f.flag("echo", &q.Echo)
	q.Logprobs = f.integer("logprobs", &q.TopLogprobs, 0, maxTop)
	f.unsupported("suffix", "", "")
	g.logprobs = q.Logprobs
	for _, p := range f.prompts() {
		one := q
		one.Prompt, one.Tokens = p.text, p.tokens
		g.prompts = append(g.prompts, one)
	}
	if len(g.prompts)*g.answers > maxChoices {
		f.fail("n", "%d answers to %d prompts: want at most %d answers together", g.answers, len(g.prompts), maxChoices)
	}
	return g, f.err
}

// has reports whether a field is there and not null.
func (f *fields) has(name string) bool {
	raw, ok := f.all[name]
	return ok && string(raw) != "null"
}

// generation reads what both endpoints have.
func (f *fields) generation(d defaults) (*generation, runner.Request) {
	g, q := &generation{answers: 1}, d.request
	f.text("model", &g.model)
	f.flag("stream", &g.stream)
	var options struct {
		Usage bool `json:"include_usage"`
	}
	if f.read("stream_options", "an object", &options) {
		g.usage = options.Usage
	}
	f.integer("n", &g.answers, 1, maxChoices)
	q.N = g.answers
	for _, name := range []string{"max_tokens", "max_completion_tokens"} {
		if n := 0; f.integer(name, &n, -1, math.MaxInt) {
			if n == 0 {
				f.fail(name, "0 tokens: want 1 or more, or -1 for what is left of the context")
			}
			q.MaxTokens = max(n, 0)
		}
	}
	f.integer("min_tokens", &q.MinTokens, 0, math.MaxInt)
	if q.MaxTokens > 0 && q.MinTokens > q.MaxTokens {
		f.fail("min_tokens", "%d is above max_tokens, %d", q.MinTokens, q.MaxTokens)
	}
	f.stop(&q)
	f.flag("ignore_eos", &q.IgnoreEOS)
	if skip := true; f.flag("skip_special_tokens", &skip) {
		q.ShowSpecial = !skip
	}
	q.Sampling = f.sampling(d)
	g.format = f.format()
	f.unsupported("best_of", strconv.Itoa(g.answers), "use n")
	f.unsupported("use_beam_search", "", "")
	for _, name := range []string{"grammar", "json_schema", "guided_json", "guided_regex", "guided_choice", "guided_grammar"} {
		f.unsupported(name, "", "use response_format or structured_outputs")
	}
	for _, name := range []string{"bad_words", "logits_processors", "truncate_prompt_tokens", "prompt_logprobs", "lora"} {
		f.unsupported(name, "", "")
	}
	return g, q
}

// stop reads what ends an answer.
func (f *fields) stop(q *runner.Request) {
	var list []string
	if raw := f.all["stop"]; len(raw) > 0 && raw[0] == '"' {
		list = make([]string, 1)
		f.text("stop", &list[0])
	} else {
		f.read("stop", "a string or a list of strings", &list)
	}
	if slices.Contains(list, "") {
		f.fail("stop", "a stop string is empty")
	}
	q.StopStrings = slices.Concat(q.StopStrings, list)
	var ids []int32
	f.read("stop_token_ids", "a list of token ids", &ids)
	q.StopTokens = slices.Concat(q.StopTokens, ids)
}

// sampling puts what the request says over the defaults. Bounds are those of sample.Params; errors name the parameter.
func (f *fields) sampling(d defaults) *sample.Params {
	p := d.sampling
	if d.request.Sampling != nil {
		p = *d.request.Sampling
	}
	f.number("temperature", &p.Temperature, 0, 100)
	f.above("top_p", &p.TopP, 1)
	f.number("min_p", &p.MinP, 0, 1)
	f.above("typical_p", &p.TypicalP, 1)
	f.above("repetition_penalty", &p.RepetitionPenalty, 100)
	f.number("frequency_penalty", &p.FrequencyPenalty, -maxPenalty, maxPenalty)
	f.number("presence_penalty", &p.PresencePenalty, -maxPenalty, maxPenalty)
	if f.integer("top_k", &p.TopK, -1, math.MaxInt) {
		p.TopK = max(p.TopK, 0) // -1 is off in vLLM, 0 in others
	}
	f.integer("no_repeat_ngram_size", &p.NoRepeatNgram, 0, 100)
	if bias := f.bias(d.vocab); bias != nil {
		p.LogitBias = bias
	}
	p.Seed = rand.Uint64()
	var seed int64
	if f.read("seed", "an integer", &seed) {
		p.Seed = uint64(seed)
	}
	return &p
}

func (f *fields) bias(vocab int) map[int32]float64 {
	var given map[string]float64
	if !f.read("logit_bias", "an object of numbers by token id", &given) {
		return nil
	}
	bias := make(map[int32]float64, len(given))
	for key, v := range given {
		id, err := strconv.ParseInt(key, 10, 32)
		if err != nil {
			f.fail("logit_bias", "%q is not the id of a token", key)
		}
		bias[int32(id)] = v
	}
	if err := (sample.Params{LogitBias: bias}).ValidateFor(vocab); err != nil {
		f.fail("logit_bias", "%v", err)
	}
	return bias
}

// tools reads the functions that the answer may call, and whether it does.
func (f *fields) tools(q *runner.Request, g *generation) {
	f.read("tools", "a list of functions", &q.Tools)
	names := map[string]bool{}
	for i, raw := range q.Tools {
		var tool struct {
			Type     string
			Function *struct{ Name string }
		}
		at := fmt.Sprintf("tools[%d]", i)
		switch err := json.Unmarshal(raw, &tool); {
		case err != nil, tool.Function == nil, tool.Function.Name == "":
			f.fail(at, `want {"type": "function", "function": {"name": ...}}`)
			return
		case tool.Type != "function":
			f.fail(at+".type", "%q is not function", tool.Type)
		}
		names[tool.Function.Name] = true
	}
	var choice ToolChoice
	f.read("tool_choice", wantToolChoice, &choice)
	q.ToolChoice, q.Tool = choice.Choice, choice.Tool
	if choice.Choice == runner.ToolRequired {
		switch {
		case len(q.Tools) == 0:
			f.fail("tool_choice", "a call is required, and there are no tools")
		case choice.Tool != "" && !names[choice.Tool]:
			f.fail("tool_choice", "there is no tool %q", choice.Tool)
		case g.format != format{}:
			f.fail("tool_choice", "a call is required, and %s asks for something else", g.format.param)
		}
	}
	if parallel := true; f.flag("parallel_tool_calls", &parallel) && !parallel && len(q.Tools) > 0 {
		q.StopStrings = append(q.StopStrings, chat.ToolCallClose) // a call is whole without it
	}
}

// think reads the switch of reasoning, under each of its names.
func (f *fields) think(q *runner.Request) {
	var on bool
	var effort string
	if f.text("reasoning_effort", &effort) {
		if effort != "none" {
			f.fail("reasoning_effort", "%q: the model's reasoning is on or off; want none, or leave it out", effort)
		}
		q.Think = new(false)
	}
	if f.flag("enable_thinking", &on) {
		q.Think = new(on)
	}
	const kwargs = "chat_template_kwargs"
	var given map[string]json.RawMessage
	if !f.read(kwargs, "an object", &given) {
		return
	}
	for name, raw := range given {
		if name != "enable_thinking" || json.Unmarshal(raw, &on) != nil || string(raw) == "null" {
			f.fail(kwargs, "want enable_thinking, true or false, and nothing else")
			return
		}
		q.Think = new(on)
	}
}

// prompt is text, or tokens.
type prompt struct {
	text   string
	tokens []int32
}

// prompts reads a text, some token ids, or a list of either.
func (f *fields) prompts() (all []prompt) {
	raw, text, texts := f.all["prompt"], "", []string(nil)
	var ids []int32
	var lists [][]int32
	switch {
	case !f.has("prompt"):
		f.fail("prompt", "a prompt is required")
	case json.Unmarshal(raw, &text) == nil:
		all = []prompt{{text: text}}
	case json.Unmarshal(raw, &texts) == nil:
		for _, t := range texts {
			all = append(all, prompt{text: t})
		}
	case json.Unmarshal(raw, &ids) == nil:
		all = []prompt{{tokens: ids}}
	case json.Unmarshal(raw, &lists) == nil:
		for _, l := range lists {
			all = append(all, prompt{tokens: l})
		}
	default:
		f.fail("prompt", "want a string, token ids, or a list of either")
		return nil
	}
	if len(all) == 0 || slices.ContainsFunc(all, func(p prompt) bool { return p.text == "" && len(p.tokens) == 0 }) {
		f.fail("prompt", "it is empty")
	}
	return all
}
