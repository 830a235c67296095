package main

import (
	"fmt"
	"runtime"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/runner"
)

func (p *program) versionCommand() *cli.Command {
	return &cli.Command{
		Name:        "version",
		Usage:       "print the version",
		ArgsUsage:   " ",
		Description: "Example: qwenrt version",
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			_, err := fmt.Fprintf(p.stdout, "qwenrt %s %s %s/%s\n", runner.Version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
