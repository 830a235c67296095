package serve_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/internal/reftest/modelfolder"
	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/chat"
	"github.com/qwenrt/qwenrt/runner/sample"
	"github.com/qwenrt/qwenrt/runner/serve"
)

// folder is a model folder of the trained model, made once for all tests.
var folder string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "serve")
	if err == nil {
		defer os.RemoveAll(dir)
		folder = filepath.Join(dir, "qwen3-tiny")
		err = modelfolder.Optimize(context.Background(), "../../models/tiny/qwen3-tiny", folder)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func open(tb testing.TB, o runner.Options) *runner.Runner {
	tb.Helper()
	r, err := runner.Open(tb.Context(), folder, o)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, r.Close()) })
	return r
}

// site is a server under test.
type site struct {
	t   *testing.T
	url string
	key string
	r   *runner.Runner
}

func start(t *testing.T, o runner.Options, so serve.Options) site {
	t.Helper()
	r := open(t, o)
	s := serve.New(so)
	s.SetModel(serve.Model{Name: "tiny", Use: serve.Runner(r)})
	web := httptest.NewServer(s)
	t.Cleanup(web.Close)
	return site{t: t, url: web.URL, key: so.APIKey, r: r}
}

// send posts a body, or gets without one.
func (s site) send(ctx context.Context, path, body string) (*http.Response, error) {
	method := http.MethodPost
	if body == "" {
		method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
	require.NoError(s.t, err)
	if s.key != "" {
		req.Header.Set("Authorization", "Bearer "+s.key)
	}
	return http.DefaultClient.Do(req)
}

// text sends and gives the answer as it is.
func (s site) text(path, body string) (status int, answer string) {
	s.t.Helper()
	resp, err := s.send(s.t.Context(), path, body)
	require.NoError(s.t, err)
	defer resp.Body.Close()
	all, err := io.ReadAll(resp.Body)
	require.NoError(s.t, err)
	return resp.StatusCode, string(all)
}

// reply has what tests look at, of whole answers and of pieces.
type reply struct {
	ID, Object, Model string
	Choices           []choice
	Usage             *struct {
		Prompt     int `json:"prompt_tokens"`
		Completion int `json:"completion_tokens"`
		Total      int `json:"total_tokens"`
		Details    struct {
			Cached int `json:"cached_tokens"`
		} `json:"prompt_tokens_details"`
	}
	Error *struct {
		Message, Type string
		Param, Code   *string
	}
}

type choice struct {
	Index          int
	Text           string
	Message, Delta *said
	Logprobs       json.RawMessage
	FinishReason   string `json:"finish_reason"`
}

type said struct {
	Role      string
	Content   *string
	Reasoning string `json:"reasoning_content"`
	ToolCalls []struct {
		Index    *int
		ID, Type string
		Function struct{ Name, Arguments string }
	} `json:"tool_calls"`
}

// ask wants an answer as a whole.
func (s site) ask(path, body string) (r reply) {
	s.t.Helper()
	status, text := s.text(path, body)
	require.Equal(s.t, http.StatusOK, status, text)
	require.NoError(s.t, json.Unmarshal([]byte(text), &r), text)
	return r
}

// pieces wants the answer as a stream.
func (s site) pieces(path, body string) (all []reply) {
	s.t.Helper()
	resp, err := s.send(s.t.Context(), path, body)
	require.NoError(s.t, err)
	defer resp.Body.Close()
	require.Equal(s.t, http.StatusOK, resp.StatusCode)
	require.Equal(s.t, "text/event-stream; charset=utf-8", resp.Header.Get("Content-Type"))
	done := false
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if lines.Text() == "" {
			continue
		}
		require.False(s.t, done, "something behind [DONE]")
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		require.True(s.t, ok, lines.Text())
		if done = data == "[DONE]"; done {
			continue
		}
		var r reply
		require.NoError(s.t, json.Unmarshal([]byte(data), &r), data)
		all = append(all, r)
	}
	require.True(s.t, done)
	return all
}

const (
	chatPath = "/v1/chat/completions"
	textPath = "/v1/completions"
	harbor   = `"messages": [{"role": "user", "content": "What does \"harbor\" mean?"}], "chat_template_kwargs": {"enable_thinking": false}`
)

var question = []chat.Message{{Role: "user", Content: `What does "harbor" mean?`}}

// joined is what the pieces of each answer come to.
type joined struct {
	text, reasoning, role, reason string
	tokens                        []string
	calls                         int
}

func join(t *testing.T, pieces []reply) map[int]*joined {
	t.Helper()
	all := map[int]*joined{}
	for _, p := range pieces {
		for _, c := range p.Choices {
			j := all[c.Index]
			if j == nil {
				j = &joined{}
				all[c.Index] = j
			}
			require.Empty(t, j.reason, "something behind the end")
			j.text += c.Text
			j.reason = c.FinishReason
			j.tokens = append(j.tokens, tokensOf(t, c.Logprobs)...)
			if d := c.Delta; d != nil {
				if d.Content != nil {
					j.text += *d.Content
				}
				j.reasoning += d.Reasoning
				j.role += d.Role
				for _, call := range d.ToolCalls {
					require.Equal(t, j.calls, *call.Index)
					j.calls++
				}
			}
		}
	}
	return all
}

// tokensOf reads log-probabilities of either endpoint.
func tokensOf(t *testing.T, raw json.RawMessage) (all []string) {
	t.Helper()
	var l *struct {
		Content []struct {
			Token string
			Top   []struct{ Logprob float64 } `json:"top_logprobs"`
		}
		Tokens []string
		Values []*float64 `json:"token_logprobs"`
		Offset []int      `json:"text_offset"`
	}
	require.NoError(t, json.Unmarshal(raw, &l))
	if l == nil {
		return nil
	}
	require.Len(t, l.Values, len(l.Tokens))
	require.Len(t, l.Offset, len(l.Tokens))
	for _, c := range l.Content {
		all = append(all, c.Token)
		require.Len(t, c.Top, 2)
	}
	return append(all, l.Tokens...)
}

// TestAnswers holds that an answer is the runner's, and the same as a stream, token for token.
func TestAnswers(t *testing.T) {
	s := start(t, runner.Options{Slots: 2}, serve.Options{})
	want, result, err := s.r.Text(t.Context(), runner.Request{Messages: question, Think: new(false), MaxTokens: 24, Sampling: &sample.Params{}})
	require.NoError(t, err)
	const wish = `"temperature": 0, "max_tokens": 24, "logprobs": true, "top_logprobs": 2`
	r := s.ask(chatPath, `{"model": "tiny", `+harbor+`, `+wish+`, "user": "somebody", "store": true}`)
	require.Equal(t, "chat.completion", r.Object)
	require.Equal(t, "tiny", r.Model)
	require.Len(t, r.Choices, 1)
	require.Equal(t, want, *r.Choices[0].Message.Content)
	require.Equal(t, "assistant", r.Choices[0].Message.Role)
	require.Equal(t, string(result.Reason), r.Choices[0].FinishReason)
	require.Equal(t, result.PromptTokens, r.Usage.Prompt)
	require.Equal(t, result.GeneratedTokens, r.Usage.Completion)
	require.Equal(t, result.PromptTokens+result.GeneratedTokens, r.Usage.Total)
	tokens := tokensOf(t, r.Choices[0].Logprobs)
	require.Len(t, tokens, result.GeneratedTokens)
	require.Equal(t, want, strings.Join(tokens, ""))

	pieces := s.pieces(chatPath, `{`+harbor+`, `+wish+`, "stream": true, "stream_options": {"include_usage": true}}`)
	j := join(t, pieces)[0]
	require.Equal(t, joined{text: want, role: "assistant", reason: string(result.Reason), tokens: tokens}, *j)
	require.Equal(t, "chat.completion.chunk", pieces[0].Object)
	require.Nil(t, pieces[0].Usage)
	last := pieces[len(pieces)-1]
	require.Empty(t, last.Choices)
	require.Equal(t, r.Usage, last.Usage)
	for _, p := range pieces {
		require.Equal(t, pieces[0].ID, p.ID)
	}
}

// TestSeveral holds that choices keep apart, and that a seed gives the same answers again.
func TestSeveral(t *testing.T) {
	s := start(t, runner.Options{Slots: 2}, serve.Options{})
	body := func(more string) string { return `{` + harbor + `, "n": 3, "seed": 7, "max_tokens": 12` + more + `}` }
	whole, j := s.ask(chatPath, body("")), join(t, s.pieces(chatPath, body(`, "stream": true`)))
	require.Len(t, whole.Choices, 3)
	require.Len(t, j, 3)
	for i, c := range whole.Choices {
		require.Equal(t, i, c.Index)
		require.Equal(t, *c.Message.Content, j[i].text)
	}
	require.Equal(t, 20, whole.Usage.Prompt, "the prompt counts once")
}

// TestCompletions holds text, tokens and lists as prompts, with the prompt before the answer.
func TestCompletions(t *testing.T) {
	s := start(t, runner.Options{Slots: 2}, serve.Options{})
	const wish = `"temperature": 0, "max_tokens": 6, "echo": true, "logprobs": 1`
	r := s.ask(textPath, `{"prompt": ["The noun", "A lake"], `+wish+`}`)
	require.Equal(t, "text_completion", r.Object)
	require.Len(t, r.Choices, 2)
	for i, text := range []string{"The noun", "A lake"} {
		require.True(t, strings.HasPrefix(r.Choices[i].Text, text), r.Choices[i].Text)
		require.Equal(t, r.Choices[i].Text, strings.Join(tokensOf(t, r.Choices[i].Logprobs), ""))
	}
	j := join(t, s.pieces(textPath, `{"prompt": ["The noun", "A lake"], "stream": true, `+wish+`}`))
	for i, c := range r.Choices {
		require.Equal(t, joined{text: c.Text, reason: c.FinishReason, tokens: tokensOf(t, c.Logprobs)}, *j[i])
	}
	tok, err := s.r.Tokenizer()
	require.NoError(t, err)
	ids, err := tok.Encode("The noun")
	require.NoError(t, err)
	text, err := json.Marshal(ids)
	require.NoError(t, err)
	require.Equal(t, r.Choices[0].Text, s.ask(textPath, `{"prompt": `+string(text)+`, `+wish+`}`).Choices[0].Text)
	require.Equal(t, r.Choices[0].Text, s.ask(textPath, `{"prompt": [`+string(text)+`], `+wish+`}`).Choices[0].Text)
	require.Equal(t, 16, s.ask(textPath, `{"prompt": "The noun", "ignore_eos": true}`).Usage.Completion, "as OpenAI's")
}

// TestParameters holds that parameters reach the runner.
func TestParameters(t *testing.T) {
	s := start(t, runner.Options{Slots: 1, PrefixCache: 1 << 24}, serve.Options{})
	say := func(more string) choice {
		t.Helper()
		return s.ask(chatPath, `{`+harbor+`, "temperature": 0, "max_tokens": 12, `+more+`}`).Choices[0]
	}
	whole := *say(`"top_p": 0.5`).Message.Content
	require.Contains(t, whole, `"harbor" means`)
	for _, stop := range []string{`" means"`, `["lake", " means"]`} {
		c := say(`"stop": ` + stop)
		require.Equal(t, `The noun "harbor"`, *c.Message.Content)
		require.Equal(t, "stop", c.FinishReason)
	}
	tok, err := s.r.Tokenizer()
	require.NoError(t, err)
	ids, err := tok.Encode("harbor")
	require.NoError(t, err)
	require.NotContains(t, *say(fmt.Sprintf(`"logit_bias": {"%d": -100}`, ids[0])).Message.Content, `"harbor`)
	require.Empty(t, *say(fmt.Sprintf(`"logit_bias": {"%d": 100}, "stop_token_ids": [%[1]d]`, ids[0])).Message.Content)
	require.NotEqual(t, whole, *say(`"repetition_penalty": 100`).Message.Content)
	ends := `"ignore_eos": true, "max_completion_tokens": 2, "logit_bias": {"` + token(t, s.r, "<|im_end|>") + `": 100}`
	require.Empty(t, *say(ends).Message.Content)
	require.Equal(t, "<|im_end|><|im_end|>", *say(ends + `, "skip_special_tokens": false`).Message.Content)
	require.Equal(t, whole, *say(`"messages": [{"role": "user", "content": [{"type": "text", "text": "What does \"harbor\" mean?"}]}]`).Message.Content)
	require.Positive(t, s.ask(chatPath, `{`+harbor+`, "max_tokens": 1}`).Usage.Details.Cached)
	require.Equal(t, `The`, *say(`"structured_outputs": {"choice": ["The", "A"]}`).Message.Content)
	require.Regexp(t, `^[0-9]{3}$`, *say(`"structured_outputs": {"regex": "[0-9]{3}"}`).Message.Content)
	thinking := s.ask(chatPath, `{"messages": [{"role": "user", "content": "x"}], "max_tokens": 5, "logit_bias": {"`+token(t, s.r, "<think>")+`": 100}}`)
	require.Empty(t, *thinking.Choices[0].Message.Content, "it would think")
	off := s.ask(chatPath, `{"messages": [{"role": "user", "content": "x"}], "max_tokens": 5, "temperature": 0, "reasoning_effort": "none"}`)
	require.Equal(t, thinking.Usage.Prompt+4, off.Usage.Prompt, "what switches it off")
}

func token(t *testing.T, r *runner.Runner, spelling string) string {
	t.Helper()
	tok, err := r.Tokenizer()
	require.NoError(t, err)
	id, ok := tok.TokenID(spelling)
	require.True(t, ok)
	return fmt.Sprint(id)
}

// TestDefaults holds that a server's own settings are for requests that say nothing.
func TestDefaults(t *testing.T) {
	r := open(t, runner.Options{Slots: 1})
	s := serve.New(serve.Options{})
	s.SetModel(serve.Model{Use: serve.Runner(r), Defaults: runner.Request{Think: new(false), Sampling: &sample.Params{}, Speculate: 4}})
	web := httptest.NewServer(s)
	t.Cleanup(web.Close)
	at := site{t: t, url: web.URL, r: r}
	const body = `{"messages": [{"role": "user", "content": "What does \"harbor\" mean?"}], "max_tokens": 8`
	answer := at.ask(chatPath, body+`}`)
	require.Contains(t, *answer.Choices[0].Message.Content, `The noun "harbor"`)
	require.Equal(t, 20, answer.Usage.Prompt)
	require.Equal(t, 16, at.ask(chatPath, body+`, "enable_thinking": true}`).Usage.Prompt)
}

const weather = `{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}},
	"required": ["city"], "additionalProperties": false}}}`

// TestTools holds that calls come as OpenAI has them, and are taken as messages again.
func TestTools(t *testing.T) {
	s := start(t, runner.Options{Slots: 2}, serve.Options{})
	named := `"tool_choice": {"type": "function", "function": {"name": "get_weather"}}`
	body := func(more string) string {
		return `{` + harbor + `, "seed": 1, "tools": [` + weather + `], ` + more + `}`
	}
	c := s.ask(chatPath, body(named)).Choices[0]
	require.Equal(t, "tool_calls", c.FinishReason)
	require.Nil(t, c.Message.Content)
	require.Len(t, c.Message.ToolCalls, 1)
	call := c.Message.ToolCalls[0]
	require.Equal(t, "get_weather", call.Function.Name)
	require.Equal(t, "function", call.Type)
	require.NotEmpty(t, call.ID)
	require.Contains(t, []string{`{"city": "Oslo"}`, `{"city": "Rome"}`}, call.Function.Arguments)
	require.Equal(t, 1, join(t, s.pieces(chatPath, body(named+`, "stream": true`)))[0].calls)

	// A bias against the end lets calls go on; parallel_tool_calls ends them behind the first.
	more := `"tool_choice": "required", "max_tokens": 300, "logit_bias": {"` + token(t, s.r, "<|im_end|>") + `": -100, "` + token(t, s.r, "<|endoftext|>") + `": -100}`
	require.Greater(t, len(s.ask(chatPath, body(more)).Choices[0].Message.ToolCalls), 1)
	c = s.ask(chatPath, body(more+`, "parallel_tool_calls": false`)).Choices[0]
	require.Len(t, c.Message.ToolCalls, 1)
	require.Equal(t, "tool_calls", c.FinishReason)

	arguments, err := json.Marshal(call.Function.Arguments)
	require.NoError(t, err)
	answered := s.ask(chatPath, `{"max_tokens": 4, "messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "x"},
		{"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": `+string(arguments)+`}}]},
		{"role": "tool", "tool_call_id": "1", "content": "sun"}]}`)
	text, err := s.r.Tokenizer()
	require.NoError(t, err)
	ids, err := text.Encode("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n<tool_call>\n" +
		`{"name": "get_weather", "arguments": ` + call.Function.Arguments + "}\n</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\nsun\n</tool_response><|im_end|>\n<|im_start|>assistant\n")
	require.NoError(t, err)
	require.Equal(t, len(ids), answered.Usage.Prompt)
}

func TestFormats(t *testing.T) {
	s := start(t, runner.Options{Slots: 1}, serve.Options{})
	const schema = `{"type": "object", "properties": {"depth": {"type": "integer", "minimum": 1, "maximum": 99}}, "required": ["depth"], "additionalProperties": false}`
	for range 2 { // the second has the grammar of the first
		c := s.ask(chatPath, `{`+harbor+`, "response_format": {"type": "json_schema", "json_schema": {"name": "harbor", "strict": true, "schema": `+schema+`}}}`).Choices[0]
		var v struct{ Depth int }
		require.NoError(t, json.Unmarshal([]byte(*c.Message.Content), &v), *c.Message.Content)
		require.Positive(t, v.Depth)
		require.Equal(t, "stop", c.FinishReason)
	}
	c := s.ask(textPath, `{"prompt": "x", "max_tokens": 100, "structured_outputs": {"json": `+schema+`}}`).Choices[0]
	require.True(t, json.Valid([]byte(c.Text)), c.Text)
	text := *s.ask(chatPath, `{`+harbor+`, "max_tokens": 5, "response_format": {"type": "json_object"}}`).Choices[0].Message.Content
	require.True(t, strings.HasPrefix(text, "{"), text)
	require.NotEmpty(t, *s.ask(chatPath, `{`+harbor+`, "max_tokens": 5, "response_format": {"type": "text"}}`).Choices[0].Message.Content)
}

// TestManyAtOnce holds that eight clients get what they would get alone.
func TestManyAtOnce(t *testing.T) {
	s := start(t, runner.Options{Slots: 4}, serve.Options{})
	body := func(i int) string {
		return fmt.Sprintf(`{%s, "seed": %d, "max_tokens": 16, "stream": true}`, harbor, i)
	}
	want := make([]joined, 8)
	for i := range want {
		want[i] = *join(t, s.pieces(chatPath, body(i)))[0]
	}
	t.Run("at once", func(t *testing.T) {
		for i := range want {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				at := s
				at.t = t
				require.Equal(t, want[i], *join(t, at.pieces(chatPath, body(i)))[0])
			})
		}
	})
}

// endless goes on until somebody ends it, or the context does.
const endless = `{"prompt": "x", "max_tokens": -1, "ignore_eos": true, "stream": true`

// streaming starts an answer and returns with its first piece.
func (s site) streaming(ctx context.Context, body string) *bufio.Reader {
	s.t.Helper()
	resp, err := s.send(ctx, textPath, body)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { resp.Body.Close() })
	require.Equal(s.t, http.StatusOK, resp.StatusCode)
	lines := bufio.NewReader(resp.Body)
	_, err = lines.ReadString('\n')
	require.NoError(s.t, err)
	return lines
}

// TestGone holds that a client that goes away gives its slot back: the next has no other, and waits for it.
func TestGone(t *testing.T) {
	s := start(t, runner.Options{Slots: 1}, serve.Options{})
	for range 3 {
		ctx, leave := context.WithCancel(t.Context())
		s.streaming(ctx, endless+`}`)
		require.Equal(t, 1, s.r.BatchStats().Busy)
		leave()
	}
	require.Len(t, s.ask(textPath, `{"prompt": "x", "max_tokens": 1}`).Choices, 1)
	_, text := s.text("/metrics", "")
	require.Contains(t, text, `qwenrt_requests_total{path="/v1/completions",status="499"} 3`)
}

// TestBusy holds what a full queue says: one is answered, one waits.
func TestBusy(t *testing.T) {
	s := start(t, runner.Options{Slots: 1, Queue: 1}, serve.Options{})
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	s.streaming(ctx, endless+`}`)
	full := make(chan *http.Response)
	for range 2 { // whoever is second is told
		go func() {
			resp, err := s.send(ctx, textPath, `{"prompt": "x", "ignore_eos": true, "max_tokens": -1}`)
			if err == nil {
				full <- resp
			}
		}()
	}
	resp := <-full
	defer resp.Body.Close()
	require.Equal(t, http.StatusTooManyRequests, resp.StatusCode)
	require.Equal(t, "1", resp.Header.Get("Retry-After"))
	var r reply
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&r))
	require.Equal(t, "rate_limit_exceeded", *r.Error.Code)
}

// TestErrors holds that whatever is wrong has a status and an object that names it.
func TestErrors(t *testing.T) {
	s := start(t, runner.Options{Slots: 1, MaxContext: 64}, serve.Options{APIKey: "secret", MaxBody: 1 << 10})
	with := func(more string) string { return `{` + harbor + `, ` + more + `}` }
	for _, c := range []struct {
		why, path, body   string
		status            int
		param, code, says string
	}{
		{"no such path", "/v1/embeddings", "{}", 404, "", "unknown_url", "/v1/embeddings"},
		{"another method", chatPath, "", 405, "", "method_not_allowed", "takes POST, not GET"},
		{"another model", chatPath, with(`"model": "gpt"`), 404, "model", "model_not_found", `no model "gpt": this server has "tiny"`},
		{"no such model", "/v1/models/gpt", "", 404, "model", "model_not_found", "gpt"},
		{"no JSON", chatPath, "hello", 400, "", "", "not a JSON object"},
		{"no object", chatPath, "null", 400, "", "", "not a JSON object"},
		{"two objects", chatPath, "{}{}", 400, "", "", "not a JSON object"},
		{"too much", chatPath, with(`"user": "` + strings.Repeat("x", 1<<10) + `"`), 413, "", "request_too_large", "more than 1024 bytes"},
		{"too long", chatPath, `{"messages": [{"role": "user", "content": "` + strings.Repeat("x y ", 80) + `"}]}`, 400, "messages", "context_length_exceeded", "the context 64"},
		{"too long", textPath, `{"prompt": "` + strings.Repeat("x y ", 80) + `"}`, 400, "prompt", "context_length_exceeded", "the context 64"},
		{"no messages", chatPath, `{}`, 400, "messages", "", "required"},
		{"another type", chatPath, `{"messages": "hello"}`, 400, "messages", "", "want a list of messages"},
		{"no message", chatPath, `{"messages": [null]}`, 400, "messages[0]", "", "want an object"},
		{"no such role", chatPath, `{"messages": [{"role": "king", "content": ""}]}`, 400, "messages[0].role", "", `"king"`},
		{"an image", chatPath, `{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}`, 400, "messages[0].content[0]", "", "the model reads text"},
		{"a call without a name", chatPath, `{"messages": [{"role": "assistant", "tool_calls": [{}]}]}`, 400, "messages[0].tool_calls[0].function.name", "", "required"},
		{"an old field", chatPath, with(`"functions": [{}]`), 400, "functions", "", "use tools"},
		{"sound", chatPath, with(`"modalities": ["text", "audio"]`), 400, "modalities", "", "not supported"},
		{"a string for a number", chatPath, with(`"temperature": "hot"`), 400, "temperature", "", "want a number"},
		{"too hot", chatPath, with(`"temperature": 101`), 400, "temperature", "", "101 is not from 0 to 100"},
		{"nothing left", chatPath, with(`"top_p": 0`), 400, "top_p", "", "0 is not above 0"},
		{"no answer", chatPath, with(`"n": 0`), 400, "n", "", "0 is not from 1"},
		{"nothing to say", chatPath, with(`"max_tokens": 0`), 400, "max_tokens", "", "want 1 or more"},
		{"more at least than at most", chatPath, with(`"max_tokens": 1, "min_tokens": 2`), 400, "min_tokens", "", "above max_tokens"},
		{"an empty stop string", chatPath, with(`"stop": ""`), 400, "stop", "", "empty"},
		{"no stop string", chatPath, with(`"stop": 1`), 400, "stop", "", "want a string or a list"},
		{"tops alone", chatPath, with(`"top_logprobs": 1`), 400, "top_logprobs", "", "wants logprobs"},
		{"a bias for no token", chatPath, with(`"logit_bias": {"x": 1}`), 400, "logit_bias", "", `"x" is not the id`},
		{"a bias for a token that is none", chatPath, with(`"logit_bias": {"99999": 1}`), 400, "logit_bias", "", "99999"},
		{"a seed that is none", chatPath, with(`"seed": 1.5`), 400, "seed", "", "want an integer"},
		{"effort", chatPath, with(`"reasoning_effort": "high"`), 400, "reasoning_effort", "", "on or off"},
		{"the template's", chatPath, with(`"chat_template_kwargs": {"x": 1}`), 400, "chat_template_kwargs", "", "enable_thinking"},
		{"a format", chatPath, with(`"response_format": {"type": "xml"}`), 400, "response_format.type", "", `"xml"`},
		{"no schema", chatPath, with(`"response_format": {"type": "json_schema"}`), 400, "response_format.json_schema.schema", "", "required"},
		{"a schema", chatPath, with(`"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}`), 400, "response_format.json_schema.schema", "", "unusable schema"},
		{"an older name", chatPath, with(`"guided_regex": "x"`), 400, "guided_regex", "", "use response_format or structured_outputs"},
		{"a pattern", chatPath, with(`"structured_outputs": {"regex": "("}`), 400, "structured_outputs", "", "unusable pattern"},
		{"two formats", chatPath, with(`"structured_outputs": {"regex": "x", "json": {}}`), 400, "structured_outputs", "", "want one of"},
		{"no tool", chatPath, with(`"tools": [{"type": "web"}]`), 400, "tools[0]", "", "function"},
		{"a tool's schema", chatPath, with(`"tools": [{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}], "tool_choice": "required"`), 400, "tools", "", "unusable schema"},
		{"no such choice", chatPath, with(`"tool_choice": "always"`), 400, "tool_choice", "", "want"},
		{"nothing to call", chatPath, with(`"tool_choice": "required"`), 400, "tool_choice", "", "there are no tools"},
		{"another tool", chatPath, with(`"tools": [` + weather + `], "tool_choice": {"type": "function", "function": {"name": "fly"}}`), 400, "tool_choice", "", `no tool "fly"`},
		{"no prompt", textPath, `{}`, 400, "prompt", "", "required"},
		{"an empty prompt", textPath, `{"prompt": [""]}`, 400, "prompt", "", "empty"},
		{"a prompt that is none", textPath, `{"prompt": {}}`, 400, "prompt", "", "want a string"},
		{"no such token", textPath, `{"prompt": [99999]}`, 400, "prompt", "", "99999"},
		{"too many", textPath, `{"prompt": ["x", "y"], "n": 100}`, 400, "n", "", "at most 128"},
		{"the other end", textPath, `{"prompt": "x", "suffix": "y"}`, 400, "suffix", "", "not supported"},
	} {
		t.Run(c.why, func(t *testing.T) {
			for _, stream := range []string{"", `{"stream": true, `} {
				body := c.body
				if stream != "" && strings.HasPrefix(body, "{") && len(body) > 2 {
					body = stream + body[1:]
				}
				status, text := s.text(c.path, body)
				require.Equal(t, c.status, status, text)
				var r reply
				require.NoError(t, json.Unmarshal([]byte(text), &r), text)
				require.Contains(t, r.Error.Message, c.says)
				require.Equal(t, "invalid_request_error", r.Error.Type)
				require.Equal(t, c.param, deref(r.Error.Param))
				require.Equal(t, c.code, deref(r.Error.Code))
			}
		})
	}
	for _, key := range []string{"", "wrong", "secretly"} {
		at := s
		at.key = key
		status, text := at.text(chatPath, with(`"n": 1`))
		require.Equal(t, http.StatusUnauthorized, status)
		require.Contains(t, text, "invalid_api_key")
		status, _ = at.text("/health", "")
		require.Equal(t, http.StatusOK, status, "whoever looks after the server needs no key")
	}
	req, err := http.NewRequest(http.MethodPost, s.url+chatPath, strings.NewReader(with(`"n": 1`)))
	require.NoError(t, err)
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, http.StatusForbidden, resp.StatusCode, "somebody's web page")
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func TestModels(t *testing.T) {
	s := start(t, runner.Options{Slots: 1, MaxContext: 64}, serve.Options{})
	for _, path := range []string{"/v1/models", "/v1/models/tiny"} {
		status, text := s.text(path, "")
		require.Equal(t, http.StatusOK, status)
		require.Contains(t, text, `"id":"tiny"`)
		require.Contains(t, text, `"max_model_len":64`)
	}
}

func TestMetrics(t *testing.T) {
	s := start(t, runner.Options{Slots: 3, Queue: 5}, serve.Options{})
	u := s.ask(chatPath, `{`+harbor+`, "max_tokens": 4}`).Usage
	status, text := s.text("/metrics", "")
	require.Equal(t, http.StatusOK, status)
	for _, line := range []string{
		`qwenrt_requests_total{path="/v1/chat/completions",status="200"} 1`, fmt.Sprint("qwenrt_prompt_tokens_total ", u.Prompt),
		fmt.Sprint("qwenrt_generated_tokens_total ", u.Completion), "qwenrt_slots 3", "qwenrt_queue 5", "qwenrt_queue_waiting 0",
		`qwenrt_time_to_first_token_seconds_bucket{le="+Inf"} 1`, "qwenrt_time_to_first_token_seconds_count 1",
	} {
		require.Contains(t, text, line+"\n")
	}
}

// TestPanic holds that a request that breaks something is told, and that the server lives.
func TestPanic(t *testing.T) {
	broken := true
	r := open(t, runner.Options{Slots: 1})
	s := serve.New(serve.Options{})
	s.SetModel(serve.Model{Use: func() (*runner.Runner, func(), error) {
		if broken {
			panic("its own")
		}
		return r, func() {}, nil
	}})
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/models", nil))
	require.Equal(t, http.StatusInternalServerError, w.Code)
	require.Contains(t, w.Body.String(), `"type":"server_error"`)
	require.NotContains(t, w.Body.String(), "its own")
	broken = false
	w = httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodPost, textPath, strings.NewReader(`{"prompt": "x", "max_tokens": 2, "stream": true}`)))
	require.Equal(t, http.StatusOK, w.Code)
	require.Contains(t, w.Body.String(), "[DONE]")
}

// TestUnavailable holds what a server without a model says.
func TestUnavailable(t *testing.T) {
	s := serve.New(serve.Options{})
	get := func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/health", nil))
		return w
	}
	require.Equal(t, http.StatusServiceUnavailable, get().Code)
	require.Contains(t, get().Body.String(), "being loaded")
	s.SetModel(serve.Model{Use: func() (*runner.Runner, func(), error) { return nil, nil, errors.New("closed") }})
	require.Equal(t, http.StatusServiceUnavailable, get().Code)
}

// TestShutdown holds that answers under way finish, or end with an error where there is no time for that.
func TestShutdown(t *testing.T) {
	r := open(t, runner.Options{Slots: 1})
	for _, c := range []struct {
		why   string
		grace serve.Options
		body  string
		end   string
	}{
		{"time enough", serve.Options{}, endless + `, "max_tokens": 100}`, "data: [DONE]\n\n"},
		{"no time", serve.Options{Grace: -1}, endless + `}`, `"message":"the server is closing"`},
	} {
		t.Run(c.why, func(t *testing.T) {
			s := serve.New(c.grace)
			s.SetModel(serve.Model{Use: serve.Runner(r)})
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			ctx, end := context.WithCancel(t.Context())
			ended := make(chan error)
			go func() { ended <- s.Serve(ctx, l) }()
			at := site{t: t, url: "http://" + l.Addr().String(), r: r}
			stream := at.streaming(t.Context(), c.body)
			end()
			rest, err := io.ReadAll(stream)
			require.NoError(t, err)
			require.Contains(t, string(rest), c.end)
			require.NoError(t, <-ended)
			_, err = at.send(t.Context(), "/health", "")
			require.Error(t, err, "nobody listens")
			w := httptest.NewRecorder()
			s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/health", nil))
			require.Equal(t, http.StatusServiceUnavailable, w.Code)
		})
	}
}
