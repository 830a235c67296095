package serve

import (
	"crypto/rand"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/chat"
	"github.com/qwenrt/qwenrt/runner/tokenizer"
)

// completion is the answer to a request, or with stream a piece of it.
type completion struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	Model   string `json:"model"`
	Choices []any  `json:"choices"`
	Usage   *usage `json:"usage,omitempty"`
}

type usage struct {
	PromptTokens     int           `json:"prompt_tokens"`
	CompletionTokens int           `json:"completion_tokens"`
	TotalTokens      int           `json:"total_tokens"`
	Details          promptDetails `json:"prompt_tokens_details"`
}

type promptDetails struct {
	CachedTokens int `json:"cached_tokens"`
}

// add counts an answer in. A prompt counts once, however many answers it has.
func (u *usage) add(answer int, r *runner.Result) {
	if answer == 0 {
		u.PromptTokens += r.PromptTokens
		u.Details.CachedTokens += r.CachedTokens
	}
	u.CompletionTokens += r.GeneratedTokens
	u.TotalTokens = u.PromptTokens + u.CompletionTokens
}

// form is how an endpoint writes answers.
type form interface {
	// begin gives what all pieces of an answer have in common.
	begin(stream bool) completion
	// whole is a choice; piece one of a stream, nil where an event has nothing to show. Events of an answer come in order.
	whole(index int, a runner.Answer) any
	piece(index int, ev runner.Event) any
}

func reasonOf(r *runner.Result) *string { return new(string(r.Reason)) }

func newID(prefix string) string { return prefix + strings.ToLower(rand.Text()) }

// spelling is a token's text, and its bytes, which may be part of a character.
func spelling(tok *tokenizer.Tokenizer, id int32) (text, bytes string) {
	if tok != nil {
		bytes, _ = tok.Bytes(id) // an id without a token has no text
	}
	return strings.ToValidUTF8(bytes, "\uFFFD"), bytes
}

// finite is a log-probability as JSON can have it: OpenAI's least one in the place of all below.
func finite(logprob float64) float64 { return max(logprob, -9999) }

// chatForm writes chat completions.
type chatForm struct {
	tok      *tokenizer.Tokenizer
	logprobs bool
	calls    map[int]int // of each answer that has begun, so far
}

type chatChoice struct {
	Index        int           `json:"index"`
	Message      *chatMessage  `json:"message,omitempty"`
	Delta        *chatDelta    `json:"delta,omitempty"`
	Logprobs     *chatLogprobs `json:"logprobs"`
	FinishReason *string       `json:"finish_reason"`
}

type chatMessage struct {
	Role      string     `json:"role"`
	Content   *string    `json:"content"`
	Reasoning string     `json:"reasoning_content,omitempty"`
	ToolCalls []toolCall `json:"tool_calls,omitempty"`
}

type chatDelta struct {
	Role      string     `json:"role,omitempty"`
	Content   string     `json:"content,omitempty"`
	Reasoning string     `json:"reasoning_content,omitempty"`
	ToolCalls []toolCall `json:"tool_calls,omitempty"`
}

type toolCall struct {
	Index    *int         `json:"index,omitempty"` // in a stream
	ID       string       `json:"id"`
	Type     string       `json:"type"`
	Function functionCall `json:"function"`
}

type functionCall struct {
	Name      string `json:"name"`
	Arguments string `json:"arguments"`
}

func newToolCall(c chat.ToolCall) toolCall {
	return toolCall{ID: newID("call_"), Type: "function", Function: functionCall{c.Function.Name, string(c.Function.Arguments)}}
}

type chatLogprobs struct {
	Content []chatLogprob `json:"content"`
}

type chatLogprob struct {
	chatToken
	Top []chatToken `json:"top_logprobs"`
}

type chatToken struct {
	Token   string  `json:"token"`
	Logprob float64 `json:"logprob"`
	Bytes   []int   `json:"bytes"` // not []byte, which would be base64
}

func (f *chatForm) token(id int32, logprob float64) chatToken {
	text, bytes := spelling(f.tok, id)
	t := chatToken{Token: text, Logprob: finite(logprob), Bytes: make([]int, len(bytes))}
	for i := range len(bytes) {
		t.Bytes[i] = int(bytes[i])
	}
	return t
}

func (f *chatForm) logprob(id int32, p *runner.Logprobs) chatLogprob {
	l := chatLogprob{f.token(id, p.Token), []chatToken{}}
	for _, top := range p.Top {
		l.Top = append(l.Top, f.token(top.Token, top.Logprob))
	}
	return l
}

func (f *chatForm) begin(stream bool) completion {
	c := completion{ID: newID("chatcmpl-"), Object: "chat.completion", Created: time.Now().Unix()}
	if stream {
		c.Object += ".chunk"
	}
	return c
}

func (f *chatForm) whole(index int, a runner.Answer) any {
	m := &chatMessage{Role: "assistant", Content: &a.Text, Reasoning: a.Reasoning}
	for _, c := range a.ToolCalls {
		m.ToolCalls = append(m.ToolCalls, newToolCall(c))
	}
	if a.Text == "" && len(a.ToolCalls) > 0 {
		m.Content = nil
	}
	c := &chatChoice{Index: index, Message: m, FinishReason: reasonOf(&a.Result)}
	if f.logprobs {
		c.Logprobs = &chatLogprobs{Content: []chatLogprob{}}
		for i, p := range a.Logprobs {
			c.Logprobs.Content = append(c.Logprobs.Content, f.logprob(a.Tokens[i], p))
		}
	}
	return c
}

func (f *chatForm) piece(index int, ev runner.Event) any {
	d := &chatDelta{Content: ev.Text, Reasoning: ev.Reasoning}
	calls, begun := f.calls[index]
	if !begun {
		d.Role = "assistant"
	}
	for _, c := range ev.ToolCalls {
		call := newToolCall(c)
		call.Index = new(calls)
		d.ToolCalls = append(d.ToolCalls, call)
		calls++
	}
	c := &chatChoice{Index: index, Delta: d}
	switch {
	case ev.Result != nil:
		c.FinishReason = reasonOf(ev.Result)
	case ev.Logprobs != nil:
		c.Logprobs = &chatLogprobs{Content: []chatLogprob{f.logprob(ev.Token, ev.Logprobs)}}
	case begun && ev.Text == "" && ev.Reasoning == "" && len(ev.ToolCalls) == 0:
		return nil
	}
	f.calls[index] = calls
	return c
}

// textForm writes completions.
type textForm struct {
	tok      *tokenizer.Tokenizer
	logprobs bool
	offsets  map[int]int // of each answer's next token
}

type textChoice struct {
	Index        int           `json:"index"`
	Text         string        `json:"text"`
	Logprobs     *textLogprobs `json:"logprobs"`
	FinishReason *string       `json:"finish_reason"`
}

// textLogprobs has a place for each token. Those of the first token of a prompt are null.
type textLogprobs struct {
	Tokens        []string             `json:"tokens"`
	TokenLogprobs []*float64           `json:"token_logprobs"`
	TopLogprobs   []map[string]float64 `json:"top_logprobs"`
	TextOffset    []int                `json:"text_offset"` // in characters, of the tokens' texts
}

func (f *textForm) add(l *textLogprobs, index int, id int32, p *runner.Logprobs) {
	text, _ := spelling(f.tok, id)
	l.Tokens = append(l.Tokens, text)
	l.TextOffset = append(l.TextOffset, f.offsets[index])
	f.offsets[index] += utf8.RuneCountInString(text)
	if p == nil {
		l.TokenLogprobs, l.TopLogprobs = append(l.TokenLogprobs, nil), append(l.TopLogprobs, nil)
		return
	}
	top := map[string]float64{}
	for _, t := range p.Top {
		if text, _ := spelling(f.tok, t.Token); !has(top, text) { // two halves of characters look the same
			top[text] = finite(t.Logprob)
		}
	}
	if !has(top, text) {
		top[text] = finite(p.Token) // as OpenAI's has it
	}
	l.TokenLogprobs, l.TopLogprobs = append(l.TokenLogprobs, new(finite(p.Token))), append(l.TopLogprobs, top)
}

func has(m map[string]float64, key string) bool { _, ok := m[key]; return ok }

func (f *textForm) begin(bool) completion {
	return completion{ID: newID("cmpl-"), Object: "text_completion", Created: time.Now().Unix()}
}

func (f *textForm) whole(index int, a runner.Answer) any {
	c := &textChoice{Index: index, Text: a.Text, FinishReason: reasonOf(&a.Result)}
	if f.logprobs {
		c.Logprobs = &textLogprobs{}
		for i, p := range a.Logprobs {
			f.add(c.Logprobs, index, a.Tokens[i], p)
		}
	}
	return c
}

func (f *textForm) piece(index int, ev runner.Event) any {
	c := &textChoice{Index: index, Text: ev.Text}
	switch {
	case ev.Result != nil:
		c.FinishReason = reasonOf(ev.Result)
	case f.logprobs:
		c.Logprobs = &textLogprobs{}
		f.add(c.Logprobs, index, ev.Token, ev.Logprobs)
	case ev.Text == "":
		return nil
	}
	return c
}
