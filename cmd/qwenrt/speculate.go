package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/accelerate"
)

func speculationFlags() []cli.Flag {
	return []cli.Flag{
		boolFlag("speculate", "guess tokens from the text so far and run several at once: faster where an answer copies, the same answer anyway"),
		&cli.StringFlag{Name: "draft", Usage: "guess with a smaller model instead: the `FOLDER` of one with the same tokenizer"},
	}
}

// speculation is Request.Speculate as the flags have it.
func speculation(c *cli.Context) int {
	if c.Bool("speculate") || c.String("draft") != "" {
		return runner.DefaultSpeculation
	}
	return 0
}

// openDraft opens the model that guesses, nil if none does.
func openDraft(c *cli.Context, conf accelerate.Config) (*runner.Runner, error) {
	draft := c.String("draft")
	if draft == "" {
		return nil, nil
	}
	r, err := runner.Open(c.Context, draft, runner.Options{Threads: conf.Threads, Spin: ort.SpinInRun})
	if err != nil {
		return nil, fmt.Errorf("--draft: %w", err)
	}
	return r, nil
}
