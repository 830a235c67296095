package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/graphopt/inspect"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/models/folder"
)

func (p *program) diffCommand() *cli.Command {
	return &cli.Command{
		Name:      "diff",
		Usage:     "show what differs between two models",
		ArgsUsage: "A B",
		UsageText: "qwenrt diff A B [options]",
		Description: "A and B are model folders or .onnx files. Lines begin with - for what only A has, + for what only B has,\n" +
			"~ for what is not the same. The exit code is as diff(1) has it: 0 where nothing differs, 1 where something\n" +
			"does, 2 where the models cannot be compared.\n\n" +
			"Example: qwenrt diff onnx fused",
		Flags: []cli.Flag{formFlag()},
		Action: func(c *cli.Context) error {
			err := p.diff(c)
			if err != nil && err != errReported && c.Context.Err() == nil {
				return usage("%s", oneLine(err)) // whose exit code is 2
			}
			return err
		},
	}
}

func (p *program) diff(c *cli.Context) error {
	if c.NArg() != 2 {
		return commandUsage(c, "want two models, got %d", c.NArg())
	}
	jsonForm, err := asJSON(c)
	if err != nil {
		return err
	}
	changes, err := diffFiles(c.Context, c.Args().Get(0), c.Args().Get(1))
	if err != nil {
		return err
	}
	if jsonForm {
		err = p.writeJSON(changes)
	} else {
		err = printChanges(p.stdout, changes)
	}
	if err == nil && !changes.Empty() {
		return errReported // exit code 1
	}
	return err
}

func diffFiles(ctx context.Context, a, b string) (*inspect.Changes, error) {
	var models [2]*ir.Model
	for i, arg := range []string{a, b} {
		file, err := folder.ModelFile(arg)
		if err != nil {
			return nil, err
		}
		if models[i], err = ir.Load(file); err != nil {
			return nil, err
		}
		defer models[i].Close()
	}
	return inspect.Diff(ctx, models[0], models[1])
}

func printChanges(w io.Writer, c *inspect.Changes) error {
	var b strings.Builder
	section := func(name string, lines []string) {
		if len(lines) > 0 {
			fmt.Fprintf(&b, "%s\n  %s\n", name, strings.Join(lines, "\n  "))
		}
	}
	section("model", changeLines(c.Model))
	section("inputs", setLines(c.Inputs))
	section("outputs", setLines(c.Outputs))
	var counts []string
	for _, o := range c.Operators {
		counts = append(counts, fmt.Sprintf("~ %s: %d → %d", o.Name, o.Before, o.After))
	}
	section("operators", counts)
	section("nodes", setLines(c.Nodes))
	section("initializers", setLines(c.Initializers))
	if c.BytesBefore != c.BytesAfter {
		fmt.Fprintf(&b, "bytes of initializers: %s → %s\n", bytesText(c.BytesBefore), bytesText(c.BytesAfter))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func setLines(s inspect.Set) []string {
	var lines []string
	for _, i := range s.Removed {
		lines = append(lines, fmt.Sprintf("- %s: %s", i.Name, i.What))
	}
	for _, i := range s.Added {
		lines = append(lines, fmt.Sprintf("+ %s: %s", i.Name, i.What))
	}
	return append(lines, changeLines(s.Changed)...)
}

func changeLines(changes []inspect.Change) []string {
	var lines []string
	for _, c := range changes {
		switch {
		case c.Before == c.After:
			lines = append(lines, fmt.Sprintf("~ %s: %s with other content", c.Name, c.Before))
		case c.Before == "":
			lines = append(lines, fmt.Sprintf("+ %s: %s", c.Name, c.After))
		case c.After == "":
			lines = append(lines, fmt.Sprintf("- %s: %s", c.Name, c.Before))
		default:
			lines = append(lines, fmt.Sprintf("~ %s: %s → %s", c.Name, c.Before, c.After))
		}
	}
	return lines
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
