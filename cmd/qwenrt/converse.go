package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/chat"
)

const converseHelp = `/help           show this
/reset          begin a new conversation; the system message stays
/system [TEXT]  set the system message, or without TEXT leave it out, and begin a new conversation
/think [on|off] think before answering, or not; without a word, leave it to the model
/save FILE      write the conversation to a file
/load FILE      go on with a conversation from a file
/quit           leave, as Ctrl-D does
"""             begins and ends a message of several lines
Ctrl-C          ends an answer`

// conversing is a conversation on the command line.
type conversing struct {
	p        *program
	c        *cli.Context
	r        *runner.Runner
	q        runner.Request // without messages
	system   string
	messages []chat.Message // without the system's
}

func (p *program) converse(c *cli.Context, r *runner.Runner, q runner.Request) error {
	t := &conversing{p: p, c: c, r: r, q: q, system: c.String("system")}
	var in lineReader = newPipeLines(p.stdin)
	if file := p.terminal(); file != nil && !c.Bool("interactive") {
		in = newTerminalLines(file, p.stdout, historyFile())
		t.note("%s\n/help lists what can be typed beside messages.", r.Info().Dir)
	}
	// An interrupt is for the answer, not for the program.
	ctx, stop := signal.NotifyContext(context.WithoutCancel(c.Context), syscall.SIGTERM)
	defer stop()
	err := t.loop(ctx, in)
	return errors.Join(err, in.close())
}

func (t *conversing) loop(ctx context.Context, in lineReader) error {
	for ctx.Err() == nil {
		text, err := readMessage(in)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		name, rest, _ := strings.Cut(strings.TrimSpace(text), " ")
		switch {
		case name == "":
		case name == "/quit" || name == "/exit" || name == "/bye":
			return nil
		case strings.HasPrefix(name, "/"):
			if err := t.command(name, strings.TrimSpace(rest)); err != nil {
				t.note("%s", oneLine(err))
			}
		default:
			if err := t.turn(ctx, text); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

func (t *conversing) note(format string, args ...any) {
	fmt.Fprintf(t.p.stderr, format+"\n", args...)
}

func (t *conversing) command(name, rest string) error {
	switch name {
	case "/help":
		t.note("%s", converseHelp)
	case "/reset":
		t.messages = nil
	case "/system":
		t.system, t.messages = rest, nil
	case "/think":
		return t.think(rest)
	case "/save":
		return t.save(rest)
	case "/load":
		return t.load(rest)
	default:
		return fmt.Errorf("unknown command %s; /help lists what there is", name)
	}
	return nil
}

func (t *conversing) think(word string) error {
	switch word {
	case "on", "off":
		t.q.Think = new(word == "on")
	case "":
		t.q.Think = nil
	default:
		return fmt.Errorf("/think %q: want on, off, or nothing", word)
	}
	return nil
}

// saved is the file of a conversation: messages as the OpenAI API has them.
type saved struct {
	Messages []chat.Message `json:"messages"`
}

func (t *conversing) all() []chat.Message {
	if t.system == "" {
		return t.messages
	}
	return append([]chat.Message{{Role: "system", Content: t.system}}, t.messages...)
}

func (t *conversing) save(file string) error {
	if file == "" {
		return errors.New("/save FILE: the name is missing")
	}
	return newFile(file, func(w io.Writer) error {
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(saved{t.all()})
	})
}

func (t *conversing) load(file string) error {
	if file == "" {
		return errors.New("/load FILE: the name is missing")
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	var s saved
	d := json.NewDecoder(io.LimitReader(f, maxPrompt))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return fmt.Errorf("%s is no saved conversation: %w", file, err)
	}
	for _, m := range s.Messages {
		if m.Role == "" {
			return fmt.Errorf("%s is no saved conversation: a message has no role", file)
		}
	}
	t.system, t.messages = "", s.Messages
	if len(s.Messages) > 0 && s.Messages[0].Role == "system" {
		t.system, t.messages = s.Messages[0].Content, s.Messages[1:]
	}
	t.note("%d messages", len(t.messages))
	return nil
}

// turn answers a message. What is wrong with it is said, and the conversation goes on without it; the error
// is of the output.
func (t *conversing) turn(ctx context.Context, text string) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	before := t.messages
	t.messages = append(t.messages, chat.Message{Role: "user", Content: text})
	q := t.q
	q.Messages = t.all()
	out := &answerWriter{w: t.p.stdout, hide: t.c.Bool("hide-thinking")}
	var content, reasoning strings.Builder
	for ev, err := range t.r.Generate(ctx, q) {
		content.WriteString(ev.Text)
		reasoning.WriteString(ev.Reasoning)
		if werr := out.show(ev); werr != nil {
			return werr
		}
		if ev.Result == nil {
			continue
		}
		if werr := out.end(); werr != nil {
			return werr
		}
		if err != nil && ev.Result.Reason != runner.Cancelled {
			t.messages = before
			t.note("%s", oneLine(err))
			if errors.Is(err, runner.ErrContext) {
				t.note("/reset begins a new conversation")
			}
			return nil
		}
		if t.c.Bool("stats") {
			t.p.tell(t.c, t.r, ev.Result)
		}
	}
	t.messages = append(t.messages, chat.Message{Role: "assistant", Content: content.String(), ReasoningContent: reasoning.String()})
	return nil
}
