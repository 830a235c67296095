package runner

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/qwenrt/qwenrt/runner/chat"
	"github.com/qwenrt/qwenrt/runner/sample"
)

// Request asks for one generation. Exactly one of Messages, Prompt and Tokens says what to go on from.
type Request struct {
	// Messages are a conversation, to which the model's chat template is applied.
	Messages []chat.Message
	// Think switches the model's thinking on or off where its template has such a switch. Nil
	// leaves it to the template; Qwen3 then thinks.
	Think *bool
	// Tools are descriptions of functions that the template shows to the model.
	Tools []json.RawMessage
	// Prompt is text to be continued as it is, special tokens in it recognised.
	Prompt string
	// Tokens is a prompt that is tokenised already.
	Tokens []int32

	// MaxTokens bounds the answer. 0: what is left of the context.
	MaxTokens int
	// Sampling says how tokens are chosen. Nil: as the model's generation_config.json recommends,
	// or greedily where it does not.
	Sampling *sample.Params
	// StopTokens end the answer, beside the model's own end tokens. They are not part of it.
	StopTokens []int32
	// IgnoreEOS goes on behind the model's end tokens.
	IgnoreEOS bool
	// ShowSpecial keeps special tokens in the text.
	ShowSpecial bool
}

// Event is a piece of an answer.
type Event struct {
	// Text is what can be shown by now; it never ends within a character, and may be empty.
	Text string
	// Token is the id that brought it, -1 for what was held back and comes at the end.
	Token int32
	// Result is set in the last event, and in no other.
	Result *Result
}

// Reason says why a generation ended.
type Reason string

// The reasons, named as the OpenAI API's finish_reason where it has them.
const (
	Stop      Reason = "stop"      // an end token
	Length    Reason = "length"    // MaxTokens, or the end of the context
	Cancelled Reason = "cancelled" // the context ended
	Failed    Reason = "error"
)

// Result sums a generation up.
type Result struct {
	Reason          Reason
	PromptTokens    int
	GeneratedTokens int           // the end token not counted
	TTFT            time.Duration // from the call to the first token
	Total           time.Duration
	// PromptPerSecond is the speed of prefill in tokens per second; TokensPerSecond that of
	// decoding, from the first token to the last; 0 where there were no two.
	PromptPerSecond, TokensPerSecond float64
}

// tokens turns the request into the ids to prefill.
func (r *Runner) tokens(ctx context.Context, q *Request) ([]int32, error) {
	given := 0
	for _, is := range []bool{len(q.Messages) > 0, q.Prompt != "", len(q.Tokens) > 0} {
		if is {
			given++
		}
	}
	if given != 1 {
		return nil, fmt.Errorf("runner: %w: give exactly one of Messages, Prompt and Tokens, not empty", ErrRequest)
	}
	if q.MaxTokens < 0 {
		return nil, fmt.Errorf("runner: %w: MaxTokens is %d", ErrRequest, q.MaxTokens)
	}
	if len(q.Tokens) > 0 {
		return q.Tokens, nil
	}
	if r.tok == nil {
		return nil, r.tokErr
	}
	text := q.Prompt
	if len(q.Messages) > 0 {
		if r.template == nil {
			return nil, r.tmplErr
		}
		var err error
		text, err = r.template.Render(ctx, q.Messages, chat.Options{AddGenerationPrompt: true, EnableThinking: q.Think, Tools: q.Tools})
		if err != nil {
			return nil, fmt.Errorf("runner: %w", err)
		}
	}
	ids, err := r.tok.Encode(text)
	if err != nil {
		return nil, fmt.Errorf("runner: %w", err)
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("runner: %w: the prompt has no tokens", ErrRequest)
	}
	return ids, nil
}

// ends reports whether token ends the answer.
func (r *Runner) ends(q *Request, token int32) bool {
	return !q.IgnoreEOS && slices.Contains(r.config.stop, token) || slices.Contains(q.StopTokens, token)
}
