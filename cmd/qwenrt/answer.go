package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/chat"
	"github.com/qwenrt/qwenrt/runner/machine"
)

// answerWriter shows answers on a stream of text.
type answerWriter struct {
	w        io.Writer
	hide     bool // reasoning
	index    int  // of the answer that is shown
	thinking bool
	midLine  bool // the last line shown has not ended
}

func (a *answerWriter) write(text string) error {
	if text == "" {
		return nil
	}
	a.midLine = !strings.HasSuffix(text, "\n")
	_, err := io.WriteString(a.w, text)
	return err
}

// show prints what an event brings; reasoning and tool calls as models write them, with their markup.
func (a *answerWriter) show(ev runner.Event) error {
	var b strings.Builder
	if ev.Reasoning != "" && !a.hide {
		if !a.thinking {
			b.WriteString("<think>\n")
		}
		a.thinking = true
		b.WriteString(ev.Reasoning)
	}
	if a.thinking && (ev.Text != "" || len(ev.ToolCalls) > 0) {
		a.thinking = false
		b.WriteString("\n</think>\n\n")
	}
	b.WriteString(ev.Text)
	if err := a.write(b.String()); err != nil {
		return err
	}
	for _, call := range ev.ToolCalls {
		if err := a.end(); err != nil {
			return err
		}
		if err := a.write(callText(call)); err != nil {
			return err
		}
	}
	return nil
}

func callText(call chat.ToolCall) string {
	name, _ := json.Marshal(call.Function.Name) // a string always can be
	return fmt.Sprintf("<tool_call>\n{\"name\": %s, \"arguments\": %s}\n</tool_call>\n", name, call.Function.Arguments)
}

// end ends an answer, with its line.
func (a *answerWriter) end() error {
	a.thinking = false
	if a.midLine {
		return a.write("\n")
	}
	return nil
}

// tell prints the statistics of an answer.
func (p *program) tell(c *cli.Context, r *runner.Runner, res *runner.Result) {
	fmt.Fprintln(p.stderr, statistics(res))
	if c.Bool("stats") {
		fmt.Fprintln(p.stderr, fullStatistics(r.Info(), res))
	}
}

func statistics(r *runner.Result) string {
	text := fmt.Sprintf("%d prompt tokens, %d generated, first token after %.3f s, prefill %.1f tokens/s",
		r.PromptTokens, r.GeneratedTokens, r.TTFT.Seconds(), r.PromptPerSecond)
	if r.TokensPerSecond > 0 {
		text += fmt.Sprintf(", decode %.1f tokens/s", r.TokensPerSecond)
	}
	if r.DraftedTokens > 0 {
		text += fmt.Sprintf(", %d of %d guesses right", r.AcceptedTokens, r.DraftedTokens)
	}
	return text
}

// fullStatistics gives what the one line does not.
func fullStatistics(info runner.Info, r *runner.Result) string {
	text := fmt.Sprintf("TTFT %.1f ms, TPOT %.2f ms, in all %.3f s, KV cache %s",
		milliseconds(r.TTFT), milliseconds(r.TPOT()), r.Total.Seconds(), bytesText(info.KVBytes(r.PromptTokens+r.GeneratedTokens)))
	if r.CachedTokens > 0 {
		text += fmt.Sprintf(", %d prompt tokens from the cache", r.CachedTokens)
	}
	if peak, anonymous := machine.ResidentMemory(); peak > 0 {
		text += fmt.Sprintf(", memory at most %s, of which now %s anonymous", bytesText(peak), bytesText(anonymous))
	}
	return text
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// completion is what --json prints, and with its id a line of a batch's results. Times are in seconds.
type completion struct {
	ID               json.RawMessage `json:"id,omitempty"`
	Error            string          `json:"error,omitempty"` // and then there is nothing else
	Model            string          `json:"model,omitempty"`
	Index            int             `json:"index,omitempty"` // of the answer, with -n
	Text             string          `json:"text"`
	Reasoning        string          `json:"reasoning,omitempty"`
	ToolCalls        []chat.ToolCall `json:"tool_calls,omitempty"`
	FinishReason     string          `json:"finish_reason,omitempty"` // stop, tool_calls, length or cancelled
	Score            float64         `json:"score,omitempty"`         // with --beams
	PromptTokens     int             `json:"prompt_tokens"`
	CachedTokens     int             `json:"cached_tokens,omitempty"` // of them, those that did not have to be run
	CompletionTokens int             `json:"completion_tokens"`
	DraftedTokens    int             `json:"drafted_tokens,omitempty"`
	AcceptedTokens   int             `json:"accepted_tokens,omitempty"`
	TTFT             float64         `json:"ttft_s"`
	TPOT             float64         `json:"tpot_s,omitempty"`
	PromptPerSecond  float64         `json:"prompt_tokens_per_second"`
	TokensPerSecond  float64         `json:"tokens_per_second"`
	Logprobs         []tokenLogprobs `json:"logprobs,omitempty"`
}

type tokenLogprobs struct {
	tokenLogprob
	Top []tokenLogprob `json:"top_logprobs,omitempty"`
}

type tokenLogprob struct {
	Token   int32    `json:"token"`
	Text    string   `json:"text"` // incomplete characters as U+FFFD
	Logprob *float64 `json:"logprob"`
}

func completionOf(r *runner.Runner, a runner.Answer, index int) completion {
	return completion{
		Index:            index,
		Text:             a.Text,
		Reasoning:        a.Reasoning,
		ToolCalls:        a.ToolCalls,
		FinishReason:     string(a.Result.Reason),
		Score:            a.Result.Score,
		PromptTokens:     a.Result.PromptTokens,
		CachedTokens:     a.Result.CachedTokens,
		CompletionTokens: a.Result.GeneratedTokens,
		DraftedTokens:    a.Result.DraftedTokens,
		AcceptedTokens:   a.Result.AcceptedTokens,
		TTFT:             a.Result.TTFT.Seconds(),
		TPOT:             a.Result.TPOT().Seconds(),
		PromptPerSecond:  a.Result.PromptPerSecond,
		TokensPerSecond:  a.Result.TokensPerSecond,
		Logprobs:         logprobsOf(r, a),
	}
}

func logprobsOf(r *runner.Runner, a runner.Answer) []tokenLogprobs {
	tok, err := r.Tokenizer()
	text := func(id int32) string {
		if err != nil {
			return ""
		}
		bytes, _ := tok.Bytes(id) // an id without a token has no text
		return strings.ToValidUTF8(bytes, "\uFFFD")
	}
	all := make([]tokenLogprobs, len(a.Logprobs))
	for i, p := range a.Logprobs {
		all[i].tokenLogprob = tokenLogprob{Token: a.Tokens[i], Text: text(a.Tokens[i])}
		if p == nil { // the first of a prompt
			continue
		}
		all[i].Logprob = &p.Token
		for _, top := range p.Top {
			all[i].Top = append(all[i].Top, tokenLogprob{top.Token, text(top.Token), &top.Logprob})
		}
	}
	return all
}

// answerJSON prints an object for each answer, and for one that was interrupted.
func (p *program) answerJSON(c *cli.Context, r *runner.Runner, q runner.Request, model string) error {
	answers, err := r.Answers(c.Context, q)
	if err != nil && answers[0].Result.Reason != runner.Cancelled {
		return err
	}
	for i, a := range answers {
		object := completionOf(r, a, i)
		object.Model = model
		if c.Bool("hide-thinking") {
			object.Reasoning = ""
		}
		if werr := p.writeJSON(object); werr != nil {
			return cmp.Or(err, werr)
		}
		if c.Bool("stats") {
			fmt.Fprintln(p.stderr, fullStatistics(r.Info(), &a.Result))
		}
	}
	return err
}
