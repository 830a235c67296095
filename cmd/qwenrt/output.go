package main

import (
	"encoding/json"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/internal/atomicfile"
)

// formFlag chooses between a table for people and JSON for programs.
func formFlag() cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "form of the output: table or json", Value: "table"}
}

// asJSON reads the form.
func asJSON(c *cli.Context) (bool, error) {
	switch form := c.String("output"); form {
	case "json":
		return true, nil
	case "table":
		return false, nil
	default:
		return false, commandUsage(c, "output %q: want table or json", form)
	}
}

func (p *program) writeJSON(v any) error {
	e := json.NewEncoder(p.stdout)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// newFile has a file written, which takes its name when it is complete.
func newFile(path string, write func(io.Writer) error) error {
	return atomicfile.Write(path, 0o666, write)
}
