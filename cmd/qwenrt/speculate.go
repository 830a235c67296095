package main

import (
	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/runner"
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
