package runner

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/qwenrt/qwenrt/runner/chat"
	"github.com/qwenrt/qwenrt/runner/sample"
)

// Request asks for one generation. Exactly one of Messages, Prompt and Tokens says what to go on from.
type Request struct {
	// Messages are a conversation, to which the model's chat template is applied. What looks like a
	// special token in them is one, as in transformers.
	Messages []chat.Message
	// Think switches the model's thinking on or off where its template has such a switch. Nil
	// leaves it to the template; Qwen3 then thinks.
	Think *bool
	// Tools are descriptions of functions that the template shows to the model, each a JSON object.
	Tools []json.RawMessage
	// Prompt is text to be continued as it is, special tokens in it recognised.
	Prompt string
	// Tokens is a prompt that is tokenised already.
	Tokens []int32

	// MaxTokens bounds the answer. 0: what is left of the context.
	MaxTokens int
	// Sampling says how tokens are chosen. Nil: as the model's generation_config.json recommends
	// (see Info.Sampling), or greedily where it does not; with seed 0, so that the same request gets
	// the same answer. Tokens for which the tokenizer has no text are never chosen if their ids lie
	// behind its last one: they only pad the model's tables.
	Sampling *sample.Params
	// StopTokens end the answer, beside the model's own end tokens. They are not part of it.
	StopTokens []int32
	// IgnoreEOS goes on behind the model's end tokens.
	IgnoreEOS bool
	// Constraint restricts the answer, to a grammar for example. Nil: none.
	Constraint Constraint
	// ShowSpecial keeps special tokens in the text.
	ShowSpecial bool
}

// Event is a piece of an answer.
type Event struct {
	// Text is what can be shown by now: whole characters. It may be empty, and always is where the
	// model has no tokenizer. The texts of all events add up to the answer.
	Text string
	// Token is the id that brought it, -1 in the last event.
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
	CachedTokens    int           // of them, those that Options.PrefixCache had
	GeneratedTokens int           // the end token not counted
	TTFT            time.Duration // time to first token: from the call on
	Total           time.Duration
	// PromptPerSecond is the speed of prefill in tokens per second, cached ones included, TokensPerSecond that of decoding:
	// the tokens behind the first, the end token included, over the time that they took, the caller's
	// between them included. 0 where there was nothing to measure.
	PromptPerSecond, TokensPerSecond float64
}

// validate reports all that is wrong with the request itself.
func (q *Request) validate() error {
	var faults []string
	given := 0
	for _, is := range []bool{len(q.Messages) > 0, q.Prompt != "", len(q.Tokens) > 0} {
		if is {
			given++
		}
	}
	if given != 1 {
		faults = append(faults, "give exactly one of Messages, Prompt and Tokens, not empty")
	}
	if q.MaxTokens < 0 {
		faults = append(faults, fmt.Sprintf("MaxTokens is %d: want 0 for the rest of the context, or a positive number", q.MaxTokens))
	}
	if q.Sampling != nil {
		if err := q.Sampling.Validate(); err != nil {
			faults = append(faults, err.Error())
		}
	}
	if len(faults) > 0 {
		return fmt.Errorf("runner: %w: %s", ErrRequest, strings.Join(faults, "; "))
	}
	return nil
}

// tokens turns the request into the ids to prefill.
func (r *Runner) tokens(ctx context.Context, q *Request) ([]int32, error) {
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
			return nil, wrap(err)
		}
	}
	ids, err := r.tok.Encode(text)
	if err != nil {
		return nil, wrap(err)
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("runner: %w: the prompt has no tokens", ErrRequest)
	}
	return ids, nil
}
