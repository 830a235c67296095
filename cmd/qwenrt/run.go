package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/accelerate"
	"github.com/qwenrt/qwenrt/runner/chat"
)

func (p *program) runCommand() *cli.Command {
	return &cli.Command{
		Name:      "run",
		Usage:     "answer a prompt, many prompts, or chat",
		ArgsUsage: "MODEL",
		UsageText: "qwenrt run MODEL [-p PROMPT | --batch FILE --results FILE] [options]",
		Description: "With -p, the answer streams to standard output, its statistics go to standard error. Without, on a\n" +
			"terminal, it is a conversation: /help lists what can be typed beside messages. With --batch,\n" +
			"requests are the lines of a file, {\"id\": ..., \"prompt\": ...} or {\"id\": ..., \"messages\": [...]}, and each\n" +
			"answer is a line of the results; a second run does what is missing there.\n" + modelHelp + "\n\n" +
			"Examples: qwenrt run Qwen/Qwen3-0.6B -p 'What is a harbor?' --no-think\n" +
			"          qwenrt run Qwen/Qwen3-0.6B --batch questions.jsonl --results answers.jsonl --slots 4",
		Flags: slices.Concat([]cli.Flag{
			&cli.StringFlag{Name: "prompt", Aliases: []string{"p"}, Usage: "what to answer; - reads standard input"},
			boolFlag("interactive", "converse though standard input is no terminal: a line is a message"),
			&cli.StringFlag{Name: "batch", Usage: "answer the requests in `FILE`, JSON lines"},
			&cli.StringFlag{Name: "results", Usage: "append the answers to a batch to `FILE`, and skip those that are there"},
			&cli.IntFlag{Name: "slots", Usage: "answers made at a time, in common runs", DefaultText: "one after the other"},
			&cli.StringFlag{Name: "system", Usage: "system message"},
			&cli.StringFlag{Name: "tools", Usage: "functions that the model may call: a JSON list in `FILE`"},
			&cli.StringFlag{Name: "tool-choice", Usage: "with --tools: auto, none, required, or the `NAME` of the one to call", Value: "auto"},
			boolFlag("no-chat", "continue the prompt as it is, without the chat template"),
			boolFlag("think", "think first, where the model can choose"),
			boolFlag("no-think", "answer without thinking first"),
			boolFlag("hide-thinking", "show the answer only"),
			boolFlag("json", "print an object with text, counts and speed for each answer"),
			boolFlag("stats", "tell times, speed and memory in full"),
			&cli.IntFlag{Name: "threads", Usage: "CPU threads", DefaultText: "the CPUs that this process may use"},
			&cli.IntFlag{Name: "prefill-chunk", Usage: "tokens of the prompt that are run at once", Value: runner.DefaultPrefillChunk},
		}, answerFlags(), grammarFlags(), samplingFlags(), speculationFlags(), runFlags(), hubFlags()),
		Action: p.answer,
	}
}

// mode is what a run command does.
type mode int

const (
	single mode = iota
	converse
	batch
)

func (p *program) mode(c *cli.Context) (mode, error) {
	switch {
	case c.IsSet("prompt") && (c.IsSet("batch") || c.Bool("interactive")):
		return 0, commandUsage(c, "--prompt, --batch and --interactive exclude each other")
	case c.IsSet("batch") != c.IsSet("results"):
		return 0, commandUsage(c, "--batch FILE and --results FILE belong together")
	case c.IsSet("slots") && !c.IsSet("batch") && c.Int("n") < 2:
		return 0, commandUsage(c, "--slots is for --batch and --n")
	case c.IsSet("batch") && c.Int("n") > 1:
		return 0, commandUsage(c, "--n is not for --batch: give a request as often as it is to be answered, with a seed each")
	case c.IsSet("prompt"):
		return single, nil
	case c.IsSet("batch"):
		return batch, nil
	case c.Bool("interactive") || p.terminal() != nil:
		for _, name := range []string{"json", "n", "no-chat", "logprobs", "echo", "tools", "tool-choice"} {
			if c.IsSet(name) {
				return 0, commandUsage(c, "--%s is not for conversations", name)
			}
		}
		return converse, nil
	}
	return 0, commandUsage(c, "missing prompt: pass it with -p PROMPT, or with -p - on standard input")
}

// terminal is where a conversation can be held, nil if standard input and output are none.
func (p *program) terminal() *os.File {
	in, ok := p.stdin.(*os.File)
	out, is := p.stdout.(*standardOutput)
	if ok && is && term.IsTerminal(int(in.Fd())) && term.IsTerminal(int(out.file.Fd())) {
		return in
	}
	return nil
}

func (p *program) answer(c *cli.Context) error {
	arg, err := argument(c)
	if err != nil {
		return err
	}
	m, err := p.mode(c)
	if err != nil {
		return err
	}
	conf, err := config(c)
	if err != nil {
		return err
	}
	request, err := p.request(c)
	if err != nil {
		return err
	}
	if m == single {
		if err := p.addPrompt(c, &request); err != nil {
			return err
		}
	}
	constrain, err := constraintOf(c)
	if err != nil {
		return err
	}
	if m == batch {
		if err := checkJobs(c.String("batch")); err != nil {
			return err
		}
	}
	r, release, err := p.runner(c, arg, m, conf)
	if err != nil {
		return err
	}
	defer release()
	request.Sampling = new(overSampling(c, r.Info().Sampling))
	if request.Constraint, err = constrain(r); err != nil {
		return err
	}
	if request.Draft, err = openDraft(c, conf); err != nil {
		return err
	}
	if request.Draft != nil {
		defer request.Draft.Close()
	}
	switch {
	case m == converse:
		return p.converse(c, r, request)
	case m == batch:
		return p.batch(c, r, request, arg)
	case c.Bool("json"):
		return p.answerJSON(c, r, request, arg)
	}
	return p.stream(c, r, request)
}

// runner opens the model. Conversations, batches and answers that share runs keep what prompts have in common.
func (p *program) runner(c *cli.Context, arg string, m mode, conf accelerate.Config) (r *runner.Runner, release func(), err error) {
	if m != single || conf.Slots > 1 {
		conf.PrefixCache = cmp.Or(conf.PrefixCache, prefixMemory)
	}
	if c.String("draft") != "" { // or threads that spin would take the cores that the draft model wants
		conf.Spin = cmp.Or(conf.Spin, accelerate.SpinInRun)
	}
	model, err := p.openAs(c, arg, conf)
	if err != nil {
		return nil, nil, err
	}
	p.tellUnapplied(model.Info())
	r, leave, err := model.Use()
	if err != nil {
		return nil, nil, errors.Join(err, model.Close())
	}
	return r, func() { leave(); model.Close() }, nil
}

// prefixMemory bounds what is kept of a conversation, or of what the requests of a batch have in common.
const prefixMemory = 1 << 30

// maxPrompt is far above what fits a context.
const maxPrompt = 64 << 20

// addPrompt makes the prompt part of a request.
func (p *program) addPrompt(c *cli.Context, q *runner.Request) error {
	prompt, err := p.prompt(c.String("prompt"))
	if err != nil {
		return err
	}
	if prompt == "" {
		return commandUsage(c, "the prompt is empty")
	}
	if c.Bool("no-chat") {
		q.Prompt = prompt
		return nil
	}
	q.Messages = conversation(c, chat.Message{Role: "user", Content: prompt})
	return nil
}

// conversation begins with the system message, if there is one.
func conversation(c *cli.Context, messages ...chat.Message) []chat.Message {
	if system := c.String("system"); system != "" {
		return append([]chat.Message{{Role: "system", Content: system}}, messages...)
	}
	return messages
}

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

// stream prints an answer as it comes, and then its statistics. Several come one below the other; those that
// are made at the same time, when they are whole.
func (p *program) stream(c *cli.Context, r *runner.Runner, q runner.Request) error {
	events := r.Generate(c.Context, q)
	if q.N > 1 && r.Info().Slots > 1 {
		events = whole(r.Answers(c.Context, q))
	}
	out := &answerWriter{w: p.stdout, hide: c.Bool("hide-thinking")}
	for ev, err := range events {
		if ev.Answer > out.index {
			out.index = ev.Answer
			if werr := out.write("\n"); werr != nil {
				return werr
			}
		}
		if werr := out.show(ev); werr != nil {
			return werr
		}
		if ev.Result != nil && ev.Result.PromptTokens > 0 {
			if werr := out.end(); werr != nil {
				return werr
			}
			p.tell(c, r, ev.Result)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// whole gives answers as one event each. The error comes with the last.
func whole(answers []runner.Answer, err error) iter.Seq2[runner.Event, error] {
	return func(yield func(runner.Event, error) bool) {
		for i, a := range answers {
			var e error
			if i == len(answers)-1 {
				e = err
			}
			if !yield(runner.Event{Answer: i, Text: a.Text, Reasoning: a.Reasoning, ToolCalls: a.ToolCalls, Result: &a.Result}, e) {
				return
			}
		}
	}
}
