package main

import (
	"cmp"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/chat"
	"github.com/qwenrt/qwenrt/runner/sample"
)

func (p *program) runCommand() *cli.Command {
	return &cli.Command{
		Name:      "run",
		Usage:     "answer a prompt",
		ArgsUsage: "MODEL",
		UsageText: "qwenrt run MODEL -p PROMPT [options]",
		Description: "The answer streams to standard output, its statistics go to standard error.\n" + modelHelp + "\n\n" +
			"Example: qwenrt run Qwen/Qwen3-0.6B -p 'What is a harbor?' --no-think",
		Flags: slices.Concat([]cli.Flag{
			&cli.StringFlag{Name: "prompt", Aliases: []string{"p"}, Usage: "what to answer; - reads standard input"},
			&cli.StringFlag{Name: "system", Usage: "system message"},
			boolFlag("no-chat", "continue the prompt as it is, without the chat template"),
			boolFlag("no-think", "answer without thinking first"),
			&cli.IntFlag{Name: "max-tokens", Usage: "length of the answer", DefaultText: "what is left of the context"},
			boolFlag("json", "print one object with text, counts and speed at the end"),
			&cli.IntFlag{Name: "threads", Usage: "CPU threads", DefaultText: "the CPUs that this process may use"},
			&cli.IntFlag{Name: "prefill-chunk", Usage: "tokens of the prompt that are run at once", Value: runner.DefaultPrefillChunk},
		}, grammarFlags(), samplingFlags(), speculationFlags(), runFlags(), hubFlags()),
		Action: p.answer,
	}
}

// modelsOwn is the default of what generation_config.json may recommend.
const modelsOwn = "the model's own"

// samplingFlags override what generation_config.json recommends.
func samplingFlags() []cli.Flag {
	return []cli.Flag{
		&cli.Float64Flag{Name: "temperature", Usage: "0 is greedy", DefaultText: modelsOwn},
		&cli.IntFlag{Name: "top-k", Usage: "keep the k most likely tokens; 0 keeps all", DefaultText: modelsOwn},
		&cli.Float64Flag{Name: "top-p", Usage: "keep the fewest tokens that have this probability together; 1 keeps all", DefaultText: modelsOwn},
		&cli.Float64Flag{Name: "min-p", Usage: "keep tokens with this share of the likeliest one's probability", DefaultText: modelsOwn},
		&cli.Float64Flag{Name: "repetition-penalty", Usage: "above 1 avoids what was said", DefaultText: modelsOwn},
		&cli.Uint64Flag{Name: "seed", Usage: "of the random numbers", DefaultText: "another one each time"},
	}
}

// overSampling puts the flags that were given over the model's own values.
func overSampling(c *cli.Context, s sample.Params) sample.Params {
	for name, v := range map[string]*float64{
		"temperature": &s.Temperature, "top-p": &s.TopP, "min-p": &s.MinP, "repetition-penalty": &s.RepetitionPenalty,
	} {
		if c.IsSet(name) {
			*v = c.Float64(name)
		}
	}
	if c.IsSet("top-k") {
		s.TopK = c.Int("top-k")
	}
	s.Seed = rand.Uint64()
	if c.IsSet("seed") {
		s.Seed = c.Uint64("seed")
	}
	return s
}

func (p *program) answer(c *cli.Context) error {
	arg, err := argument(c)
	if err != nil {
		return err
	}
	request, err := p.request(c)
	if err != nil {
		return err
	}
	constrain, err := constraintOf(c)
	if err != nil {
		return err
	}
	m, err := p.open(c, arg)
	if err != nil {
		return err
	}
	defer m.Close()
	r, release, err := m.Use()
	if err != nil {
		return err
	}
	defer release()
	request.Sampling = new(overSampling(c, r.Info().Sampling))
	if request.Constraint, err = constrain(r); err != nil {
		return err
	}
	if draft := c.String("draft"); draft != "" {
		if request.Draft, err = runner.Open(c.Context, draft, runner.Options{Threads: c.Int("threads")}); err != nil {
			return fmt.Errorf("--draft: %w", err)
		}
		defer request.Draft.Close()
	}
	if c.Bool("json") {
		return p.answerJSON(c, r, request, arg)
	}
	return p.stream(c, r, request)
}

// request reads the flags of a generation, and the prompt last: it may come from standard input.
func (p *program) request(c *cli.Context) (runner.Request, error) {
	var q runner.Request
	switch {
	case !c.IsSet("prompt"):
		return q, commandUsage(c, "missing prompt: pass it with -p PROMPT, or with -p - on standard input")
	case c.Bool("no-chat") && (c.IsSet("system") || c.Bool("no-think")):
		return q, commandUsage(c, "--system and --no-think belong to the chat template, which --no-chat leaves out")
	case c.Int("max-tokens") < 0 || c.IsSet("max-tokens") && c.Int("max-tokens") == 0:
		return q, commandUsage(c, "--max-tokens is %d: want 1 or more", c.Int("max-tokens"))
	case c.Int("threads") < 0 || c.IsSet("threads") && c.Int("threads") == 0:
		return q, commandUsage(c, "--threads is %d: want 1 or more", c.Int("threads"))
	}
	if err := overSampling(c, sample.Params{}).Validate(); err != nil {
		return q, commandUsage(c, "%s", strings.TrimPrefix(err.Error(), "sample: "))
	}
	prompt, err := p.prompt(c.String("prompt"))
	if err != nil {
		return q, err
	}
	if prompt == "" {
		return q, commandUsage(c, "the prompt is empty")
	}
	q.MaxTokens = c.Int("max-tokens")
	q.Speculate = speculation(c)
	if c.Bool("no-chat") {
		q.Prompt = prompt
		return q, nil
	}
	if c.Bool("no-think") {
		q.Think = new(false)
	}
	if system := c.String("system"); system != "" {
		q.Messages = append(q.Messages, chat.Message{Role: "system", Content: system})
	}
	q.Messages = append(q.Messages, chat.Message{Role: "user", Content: prompt})
	return q, nil
}

// maxPrompt is far above what fits a context.
const maxPrompt = 64 << 20

// prompt is the flag's value, or standard input less the end of its last line.
func (p *program) prompt(flag string) (string, error) {
	if flag != "-" {
		return flag, nil
	}
	text, err := io.ReadAll(io.LimitReader(p.stdin, maxPrompt+1))
	if err != nil {
		return "", fmt.Errorf("read the prompt from standard input: %w", err)
	}
	if len(text) > maxPrompt {
		return "", fmt.Errorf("the prompt on standard input is longer than %s", bytesText(maxPrompt))
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r"), nil
}

// stream prints an answer as it comes, and then its statistics.
func (p *program) stream(c *cli.Context, r *runner.Runner, q runner.Request) error {
	out := &answerWriter{w: p.stdout}
	for ev, err := range r.Generate(c.Context, q) {
		if werr := out.show(ev); werr != nil {
			return werr
		}
		if ev.Result != nil && ev.Result.PromptTokens > 0 {
			if werr := out.end(); werr != nil {
				return werr
			}
			fmt.Fprintln(p.stderr, statistics(ev.Result))
		}
		if err != nil {
			return err
		}
	}
	return nil
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

// completion is what --json prints. Times are in seconds.
type completion struct {
	Model            string  `json:"model"`
	Text             string  `json:"text"`
	Reasoning        string  `json:"reasoning,omitempty"`
	FinishReason     string  `json:"finish_reason"` // stop, length or cancelled
	PromptTokens     int     `json:"prompt_tokens"`
	CompletionTokens int     `json:"completion_tokens"`
	DraftedTokens    int     `json:"drafted_tokens,omitempty"`
	AcceptedTokens   int     `json:"accepted_tokens,omitempty"`
	TTFT             float64 `json:"ttft_s"`
	PromptPerSecond  float64 `json:"prompt_tokens_per_second"`
	TokensPerSecond  float64 `json:"tokens_per_second"`
}

// answerJSON prints an object for a whole answer, and for one that was interrupted.
func (p *program) answerJSON(c *cli.Context, r *runner.Runner, q runner.Request, model string) error {
	answers, err := r.Answers(c.Context, q)
	if err != nil && answers[0].Result.Reason != runner.Cancelled {
		return err
	}
	a := answers[0]
	return cmp.Or(p.writeJSON(completion{
		Model:            model,
		Text:             a.Text,
		Reasoning:        a.Reasoning,
		FinishReason:     string(a.Result.Reason),
		PromptTokens:     a.Result.PromptTokens,
		CompletionTokens: a.Result.GeneratedTokens,
		DraftedTokens:    a.Result.DraftedTokens,
		AcceptedTokens:   a.Result.AcceptedTokens,
		TTFT:             a.Result.TTFT.Seconds(),
		PromptPerSecond:  a.Result.PromptPerSecond,
		TokensPerSecond:  a.Result.TokensPerSecond,
	}), err)
}
