package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/qwenrt/qwenrt/runner"
)

// Contender is one side of a comparison: it runs tests when it is asked to, and takes the time.
//
// Where a test begins at the depth at which the last one ended, its context is that one's tokens: tg64 may
// be run as 16 times 4 tokens, each behind the last.
type Contender interface {
	Run(ctx context.Context, t Test) (time.Duration, error)
	Close() error
}

// Contend makes a contender of an open subject, which is closed with it, or where there is an error.
func (s *Subject) Contend() (Contender, error) {
	b, err := newTrial(context.Background(), s.Runner, 0)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", errors.Join(err, s.Close()))
	}
	return &local{s, b}, nil
}

// local is a contender in this process.
type local struct {
	s *Subject
	b *trial
}

func (l *local) Run(ctx context.Context, t Test) (time.Duration, error) {
	if n, most := t.Depth+t.tokens(), l.s.Runner.Info().ContextLength; n > most {
		return 0, fmt.Errorf("bench: %v: %w: %d tokens, the model takes %d", t, runner.ErrContext, n, most)
	}
	if err := l.b.seq.Reserve(t.Depth + t.tokens()); err != nil {
		return 0, err
	}
	return l.b.run(ctx, t)
}

func (l *local) Close() error {
	l.b.close()
	return l.s.Close()
}

// A worker is a contender in a process of its own. It reads tests from its standard input and answers each
// on its standard output, a JSON object a line both ways:
//
//	{"n_prompt": 0, "n_gen": 4, "n_depth": 128}
//	{"ns": 104857600}
//
// or {"error": "..."}. It runs nothing else, and ends when its input ends.
type workerAnswer struct {
	NS    int64  `json:"ns,omitempty"`
	Error string `json:"error,omitempty"`
}

// Serve is the worker's side: it answers the tests in r until they end.
func Serve(ctx context.Context, c Contender, r io.Reader, w io.Writer) error {
	tests, answers := json.NewDecoder(r), json.NewEncoder(w)
	for {
		var t Test
		switch err := tests.Decode(&t); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("bench: worker: read a test: %w", err)
		}
		d, err := c.Run(ctx, t)
		a := workerAnswer{NS: d.Nanoseconds()}
		if err != nil {
			a = workerAnswer{Error: err.Error()}
		}
		if err := answers.Encode(a); err != nil {
			return fmt.Errorf("bench: worker: %w", err)
		}
	}
}

// worker is a contender in another process.
type worker struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	answers *bufio.Reader
	stop    context.CancelFunc
}

// StartWorker starts a program that answers as Serve does. What it writes to its standard error goes to this
// program's. It is killed when a Run is cancelled, as there is no other way to stop it.
func StartWorker(name string, args ...string) (Contender, error) {
	ctx, stop := context.WithCancel(context.Background())
	w := &worker{cmd: exec.CommandContext(ctx, name, args...), stop: stop}
	w.cmd.Stderr = os.Stderr
	w.cmd.WaitDelay = time.Second // for what the program itself has started
	in, err := w.cmd.StdinPipe()
	if err == nil {
		var out io.Reader
		if out, err = w.cmd.StdoutPipe(); err == nil {
			w.in, w.answers = in, bufio.NewReader(out)
			err = w.cmd.Start()
		}
	}
	if err != nil {
		stop()
		return nil, fmt.Errorf("bench: worker: %w", err)
	}
	return w, nil
}

func (w *worker) Run(ctx context.Context, t Test) (time.Duration, error) {
	defer context.AfterFunc(ctx, w.stop)()
	d, err := w.ask(t)
	if err != nil {
		if cause := ctx.Err(); cause != nil {
			err = cause
		}
		return 0, fmt.Errorf("bench: worker %s: %v: %w", w.cmd.Path, t, err)
	}
	return d, nil
}

func (w *worker) ask(t Test) (time.Duration, error) {
	if err := json.NewEncoder(w.in).Encode(t); err != nil {
		return 0, err
	}
	line, err := w.answers.ReadBytes('\n')
	if err != nil {
		return 0, fmt.Errorf("no answer: %w", err)
	}
	var a workerAnswer
	if err := json.Unmarshal(line, &a); err != nil {
		return 0, fmt.Errorf("%q is no answer: %w", line, err)
	}
	if a.Error != "" {
		return 0, errors.New(a.Error)
	}
	if a.NS <= 0 {
		return 0, fmt.Errorf("%q is no answer: want a time", line)
	}
	return time.Duration(a.NS), nil
}

func (w *worker) Close() error {
	defer w.stop()
	if err := errors.Join(w.in.Close(), w.cmd.Wait()); err != nil {
		return fmt.Errorf("bench: worker %s: %w", w.cmd.Path, err)
	}
	return nil
}
