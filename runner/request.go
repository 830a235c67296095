package runner

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/qwenrt/qwenrt/runner/chat"
	"github.com/qwenrt/qwenrt/runner/sample"
)

// Request asks for one generation. Exactly one of Messages, Prompt and Tokens says what to go on from; the
// zero value of everything else works.
type Request struct {
	// Messages are a conversation, to which the model's chat template is applied. What looks like a
	// special token in them is one, as in transformers. Reasoning, and tool calls if there are Tools, are
	// taken out of the answer's text; see chat.Parser.
	Messages []chat.Message
	// Think switches the model's thinking on or off where its template has such a switch. Nil
	// leaves it to the template; Qwen3 then thinks. With a Constraint, or a tool call that is required, nil is off.
	Think *bool
	// Tools are descriptions of functions that the template shows to the model, each a JSON object.
	Tools []json.RawMessage
	// ToolChoice says whether the answer calls Tools. Tool, if it is not empty, names the one that it calls.
	ToolChoice ToolChoice
	Tool       string
	// Prompt is text to be continued as it is, special tokens in it recognised.
	Prompt string
	// Tokens is a prompt that is tokenised already.
	Tokens []int32

	// MaxTokens bounds the answer. 0: what is left of the context.
	MaxTokens int
	// MinTokens is how many tokens an answer has at least: before them it has no end token, and stop strings
	// do not count.
	MinTokens int
	// N is the number of answers; they share the prefill of the prompt, and come one after the other, or
	// as many at a time as there are Options.Slots. Answer i has the seed Sampling.Seed + i. 0 is 1; at
	// most 128.
	N int
	// Sampling says how tokens are chosen. Nil: as the model's generation_config.json recommends
	// (see Info.Sampling), or greedily where it does not; with seed 0, so that the same request gets
	// the same answer. Tokens for which the tokenizer has no text are never chosen if their ids lie
	// behind its last one: they only pad the model's tables.
	Sampling *sample.Params
	// Beams, above 1, asks for a beam search with so many beams, of which the best N are the answers; they
	// come when all are found. LengthPenalty is the power of an answer's length that its score is divided by, nil
	// for 1; EarlyStopping ends the search when there are as many answers as beams. All three are
	// transformers'. There is no sampling, and nothing of Logprobs, Speculate and Shift. A beam ends with a stop
	// string as it does with an end token, and Constraint takes tokens from each beam's continuations. Each beam
	// has a KV cache. At most 32.
	Beams         int
	LengthPenalty *float64
	EarlyStopping bool
	// StopTokens end the answer, beside the model's own end tokens. They are not part of it. At most 1,024.
	StopTokens []int32
	// StopStrings end the answer where its text contains one of them, reasoning and markup of tool calls
	// included. They are not part of the text. At most 128, of 16 KiB together.
	StopStrings []string
	// IgnoreEOS goes on behind the model's end tokens.
	IgnoreEOS bool
	// Constraint restricts the answer, to a grammar for example; reasoning is not restricted. Nil: none.
	Constraint Constraint

	// Logprobs asks for the log-probability of each token as the model has it, before Sampling and
	// Constraint; TopLogprobs for those of this many tokens that are likeliest beside. At most 100.
	Logprobs    bool
	TopLogprobs int
	// Echo begins each answer with the prompt, an event for each of its tokens. With Logprobs the prompt is
	// run twice, and the logits of a chunk of it are in memory; see Sequence.Score.
	Echo bool
	// Speculate is how many tokens at most are guessed and run together with the next one: where guesses are
	// right, as in an answer that copies from its prompt, a run gives several tokens. The answer is as
	// without, whatever the sampling; see Result.AcceptedTokens for how good the guesses were. 0: none;
	// DefaultSpeculation is a good number, 64 the largest.
	Speculate int
	// Draft guesses for Speculate: a smaller model with the same tokenizer, not to be closed before the generation
	// ends. Open both with Options.Spin ort.SpinInRun: threads of the one that spin take the other's cores. Nil:
	// guesses are what followed the last tokens where they stood before.
	Draft *Runner
	// Shift goes on where the context ends, up to MaxTokens: the older half of the tokens behind the first Keep of
	// the prompt goes, and what is left is run again. Without, the answer ends there.
	Shift bool
	Keep  int
	// ShowSpecial keeps special tokens in the text.
	ShowSpecial bool
}

// Bounds of a request. They are far above what is of use, and keep the work for each token small.
const (
	maxAnswers     = 128
	maxBeams       = 32
	maxLength      = 10 // of LengthPenalty
	maxStopTokens  = 1024
	maxStops       = 128
	maxStopBytes   = 16 << 10
	maxTopLogprobs = 100
	maxTools       = 1024
	bytesPerToken  = 64 // of a prompt, on average; text has 3 to 5
)

// Event is a piece of an answer: a token, or the end.
type Event struct {
	// Request is the request's place in a batch, Answer the answer's among those to one request.
	Request, Answer int
	// Text is what can be shown by now: whole characters. It may be empty, and always is where the
	// model has no tokenizer. The texts of all events add up to the answer.
	Text string
	// Reasoning is what the model thinks before it answers, where the prompt was a conversation.
	Reasoning string
	// ToolCalls are the calls that are complete by now. Malformed ones are part of Text.
	ToolCalls []chat.ToolCall
	// Token is the id that brought it, -1 in the last event.
	Token int32
	// Prompt marks an event of the prompt; see Request.Echo.
	Prompt bool
	// Logprobs is there if it was asked for, except in the last event and for the first token of a prompt.
	Logprobs *Logprobs
	// Result is set in the last event of an answer, and in no other.
	Result *Result
}

// Logprobs are log-probabilities at one place of an answer.
type Logprobs struct {
	Token float64          // of the token that was chosen
	Top   []sample.Logprob // the likeliest ones, from the likeliest down
}

// Reason says why a generation ended.
type Reason string

// The reasons, named as the OpenAI API's finish_reason where it has them.
const (
	Stop      Reason = "stop"       // an end token, a stop string, or nothing more that Constraint allows
	ToolCalls Reason = "tool_calls" // as Stop, and the answer has tool calls
	Length    Reason = "length"     // MaxTokens, or the end of the context
	Cancelled Reason = "cancelled"  // the context ended
	Failed    Reason = "error"
)

// Result sums an answer up.
type Result struct {
	Reason          Reason
	PromptTokens    int
	CachedTokens    int           // of them, those that Options.PrefixCache had
	GeneratedTokens int           // the end token not counted
	DraftedTokens   int           // that Request.Speculate had guessed and run
	AcceptedTokens  int           // of them, those that were right: one run less each
	Shifts          int           // how often tokens went to make room; see Request.Shift
	Score           float64       // with Beams: the sum of log-probabilities over the length, as LengthPenalty has it
	TTFT            time.Duration // time to first token: from the call on
	Total           time.Duration
	// PromptPerSecond is the speed of prefill in tokens per second, cached ones included, TokensPerSecond that of decoding:
	// the tokens behind the first, the end token included, over the time that they took, the caller's
	// between them included. 0 where there was nothing to measure.
	PromptPerSecond, TokensPerSecond float64
}

// TPOT is the time per output token behind the first; 0 where there was none.
func (r Result) TPOT() time.Duration {
	if r.TokensPerSecond == 0 {
		return 0
	}
	return time.Duration(float64(time.Second) / r.TokensPerSecond)
}

// faults collects all that is wrong with something.
type faults []string

func (f *faults) add(format string, args ...any) { *f = append(*f, fmt.Sprintf(format, args...)) }

// within wants a number from least to most.
func (f *faults) within(name string, n, least, most int) {
	switch {
	case n >= least && n <= most:
	case most == math.MaxInt:
		f.add("%s is %d, below %d", name, n, least)
	default:
		f.add("%s is %d, not from %d to %d", name, n, least, most)
	}
}

// validate reports all that is wrong with the request itself, for a vocabulary.
func (q *Request) validate(vocab int) error {
	var f faults
	given := 0
	for _, is := range []bool{len(q.Messages) > 0, q.Prompt != "", len(q.Tokens) > 0} {
		if is {
			given++
		}
	}
	if given != 1 {
		f.add("give exactly one of Messages, Prompt and Tokens, not empty")
	}
	if q.MaxTokens < 0 {
		f.add("MaxTokens is %d: want 0 for the rest of the context, or a positive number", q.MaxTokens)
	}
	f.within("MinTokens", q.MinTokens, 0, math.MaxInt)
	if q.MaxTokens > 0 && q.MinTokens > q.MaxTokens {
		f.add("MinTokens is %d, above MaxTokens, which is %d", q.MinTokens, q.MaxTokens)
	}
	f.within("N", q.N, 0, maxAnswers)
	f.within("TopLogprobs", q.TopLogprobs, 0, maxTopLogprobs)
	if q.TopLogprobs > 0 && !q.Logprobs {
		f.add("TopLogprobs is %d without Logprobs", q.TopLogprobs)
	}
	f.within("Speculate", q.Speculate, 0, maxSpeculation)
	if q.Shift && q.MaxTokens == 0 {
		f.add("Shift without MaxTokens")
	}
	f.within("Keep", q.Keep, 0, math.MaxInt)
	if q.Keep > 0 && !q.Shift {
		f.add("Keep is %d without Shift", q.Keep)
	}
	if q.Draft != nil && q.Speculate == 0 {
		f.add("Draft without Speculate")
	}
	if q.Sampling != nil {
		if err := q.Sampling.ValidateFor(vocab); err != nil {
			f.add("%v", err)
		}
	}
	q.beamFaults(&f)
	q.stopFaults(&f, vocab)
	q.toolFaults(&f)
	if len(f) > 0 {
		return fmt.Errorf("runner: %w: %s", ErrRequest, strings.Join(f, "; "))
	}
	return nil
}

func (q *Request) beamFaults(f *faults) {
	f.within("Beams", q.Beams, 0, maxBeams)
	if p := q.LengthPenalty; p != nil && !(math.Abs(*p) <= maxLength) { // NaN too
		f.add("LengthPenalty is %v, not from %d to %d", *p, -maxLength, maxLength)
	}
	if q.Beams <= 1 {
		if q.LengthPenalty != nil || q.EarlyStopping {
			f.add("LengthPenalty and EarlyStopping are for Beams")
		}
		return
	}
	if q.N > q.Beams {
		f.add("N is %d, above Beams, which is %d", q.N, q.Beams)
	}
	if q.Sampling != nil && q.Sampling.Temperature != 0 {
		f.add("Beams with a Temperature of %v: want 0", q.Sampling.Temperature)
	}
	if q.Speculate > 0 {
		f.add("Speculate is not for Beams: guesses are of one text, and beams are several")
	}
	if q.Shift {
		f.add("Shift is not for Beams: scores of texts that lost their beginning are not comparable")
	}
	if q.Logprobs {
		f.add("Logprobs are not for Beams: Result.Score is the sum of them")
	}
}

func (q *Request) stopFaults(f *faults, vocab int) {
	f.within("number of StopTokens", len(q.StopTokens), 0, maxStopTokens)
	bad := slices.IndexFunc(q.StopTokens, func(id int32) bool { return id < 0 || int(id) >= vocab })
	if bad >= 0 {
		f.add("StopTokens[%d] is %d, not one of 0 to %d", bad, q.StopTokens[bad], vocab-1)
	}
	f.within("number of StopStrings", len(q.StopStrings), 0, maxStops)
	size := 0
	for _, s := range q.StopStrings {
		size += len(s)
	}
	if size > maxStopBytes {
		f.add("StopStrings have %d bytes, more than %d", size, maxStopBytes)
		return
	}
	bad = slices.IndexFunc(q.StopStrings, func(s string) bool { return s == "" || !utf8.ValidString(s) })
	if bad >= 0 {
		f.add("StopStrings[%d] is empty or not UTF-8: %q", bad, q.StopStrings[bad])
	}
}

// sampling is the request's, or what the model recommends.
func (q *Request) sampling(r *Runner) sample.Params {
	if q.Sampling != nil {
		return *q.Sampling
	}
	return r.config.sampling
}

// prompt is what a generation goes on from.
type prompt struct {
	tokens []int32
	thinks bool // it ends within reasoning
}

// prompt turns the request into the ids to prefill.
func (r *Runner) prompt(ctx context.Context, q *Request) (prompt, error) {
	if len(q.Tokens) > 0 {
		return prompt{tokens: q.Tokens}, nil
	}
	if r.tok == nil {
		return prompt{}, r.tokErr
	}
	text, thinks := q.Prompt, false
	if len(q.Messages) > 0 {
		var err error
		if text, thinks, err = r.render(ctx, q); err != nil {
			return prompt{}, err
		}
	}
	if len(text)/bytesPerToken > r.context { // before it is tokenised, which takes as long as it is
		return prompt{}, fmt.Errorf("runner: %w: the prompt has %d bytes, more than %d for each of the %d tokens of the context", ErrContext, len(text), bytesPerToken, r.context)
	}
	ids, err := r.tok.Encode(text)
	if err != nil {
		return prompt{}, wrap(err)
	}
	if len(ids) == 0 {
		return prompt{}, fmt.Errorf("runner: %w: the prompt has no tokens", ErrRequest)
	}
	return prompt{ids, thinks}, nil
}

const thinkOpen = "<think>"

// render applies the chat template, and reports whether the answer begins within reasoning.
func (r *Runner) render(ctx context.Context, q *Request) (text string, thinks bool, err error) {
	if r.template == nil {
		return "", false, r.tmplErr
	}
	think := q.Think
	if think == nil && q.Constraint != nil {
		think = new(false)
	}
	text, err = r.template.Render(ctx, q.Messages, chat.Options{AddGenerationPrompt: true, EnableThinking: think, Tools: q.Tools})
	if err != nil {
		return "", false, wrap(err)
	}
	thinks = chat.Thinks(text)
	if _, known := r.tok.TokenID(thinkOpen); q.Constraint != nil && think != nil && *think && !thinks && known {
		// Whether the model begins to think decides from where on it is restricted: so that is not left to it.
		text, thinks = text+thinkOpen+"\n", true
	}
	return text, thinks, nil
}
