package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/runner/accelerate"
)

// boolFlag is a flag that is off unless it is there.
func boolFlag(name, usage string) cli.Flag {
	return &cli.BoolFlag{Name: name, Usage: usage, DisableDefaultText: true}
}

func outputFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "model folder to write"},
		boolFlag("force", "replace a model folder that is there"),
	}
}

func exportFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "dtype", Usage: "type of weights, activations and KV cache: fp32, fp16 or bf16", Value: string(accelerate.DefaultDType)},
	}
}

func optimizeFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "target", Usage: "execution provider: cpu, cuda or coreml", Value: string(accelerate.DefaultTarget)},
	}
}

// quantizeFlags take one of the given precisions.
func quantizeFlags(precisions string) []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "precision", Usage: "of the weights: " + precisions, Value: string(accelerate.DefaultPrecision)},
		&cli.IntFlag{Name: "block-size", Usage: "weights that share a scale: 16, 32, 64, 128 or 256", Value: accelerate.DefaultBlockSize},
		&cli.BoolFlag{Name: "symmetric", Usage: "no zero points; --symmetric=false for those", Value: accelerate.DefaultSymmetric},
	}
}

// config reads those flags of a command that it has.
func config(c *cli.Context) (accelerate.Config, error) {
	conf := accelerate.Config{
		Precision: accelerate.Precision(c.String("precision")),
		DType:     accelerate.DType(c.String("dtype")),
		Target:    graphopt.Target(c.String("target")),
		Passes:    c.StringSlice("passes"),
		Disable:   c.StringSlice("disable"),

		KeepFloat32:  c.StringSlice("keep-fp32"),
		NarrowLogits: c.Bool("narrow-logits"),
		Lenient:      c.Bool("lenient"),
		Sequence:     c.Int64("sequence"),
		Total:        c.Int64("total"),
	}
	if c.IsSet("block-size") {
		conf.BlockSize = c.Int("block-size")
		if conf.BlockSize == 0 { // which asks for the default in a Config; typed, it is a mistake
			return conf, commandUsage(c, "--block-size is 0")
		}
	}
	if c.IsSet("symmetric") {
		conf.Symmetric = new(c.Bool("symmetric"))
	}
	for _, name := range []string{"precision", "dtype", "target"} {
		if c.IsSet(name) && c.String(name) == "" {
			return conf, commandUsage(c, "--%s is empty", name)
		}
	}
	if err := conf.Validate(); err != nil {
		return conf, commandUsage(c, "%s", strings.TrimPrefix(err.Error(), "accelerate: "))
	}
	return conf, nil
}

func (p *program) buildCommand() *cli.Command {
	return &cli.Command{
		Name:      "build",
		Usage:     "make a checkpoint into a model folder, in one step",
		ArgsUsage: "HF_DIR",
		UsageText: "qwenrt build HF_DIR -o OUT [options]",
		Description: "The same as export, optimize and quantize in a row, without folders in between.\n" + checkpointHelp + "\n\n" +
			"Example: qwenrt build Qwen3-0.6B -o qwen3-int4",
		Flags: slices.Concat(outputFlags(), exportFlags(), optimizeFlags(), quantizeFlags("none, int4 or int8"), hubFlags(), []cli.Flag{
			&cli.StringSliceFlag{Name: "disable", Usage: "passes of the optimiser to leave out, as `NAME,...`"},
			boolFlag("lenient", "go on where the target has no kernel, and say so"),
		}),
		Action: func(c *cli.Context) error {
			return p.fromCheckpoint(c, accelerate.Build, "qwenrt run %s -p 'What is a harbor?'")
		},
	}
}

type (
	checkpointWork = func(context.Context, accelerate.Source, accelerate.Output, accelerate.Config, accelerate.Events) (*accelerate.Report, error)
	folderWork     = func(context.Context, string, accelerate.Output, accelerate.Config, accelerate.Events) (*accelerate.Report, error)
)

// fromCheckpoint makes a model folder out of a checkpoint. next is the command to type after it.
func (p *program) fromCheckpoint(c *cli.Context, work checkpointWork, next string) error {
	return p.make(c, next, func(arg string, out accelerate.Output, conf accelerate.Config, e accelerate.Events) (*accelerate.Report, error) {
		source, err := p.checkpoint(c, arg)
		if err != nil {
			return nil, err
		}
		return work(c.Context, source, out, conf, e)
	})
}

// fromFolder makes a model folder out of another.
func (p *program) fromFolder(c *cli.Context, work folderWork, next string) error {
	return p.make(c, next, func(arg string, out accelerate.Output, conf accelerate.Config, e accelerate.Events) (*accelerate.Report, error) {
		return work(c.Context, arg, out, conf, e)
	})
}

type makeFunc = func(arg string, out accelerate.Output, conf accelerate.Config, e accelerate.Events) (*accelerate.Report, error)

func (p *program) make(c *cli.Context, next string, work makeFunc) error {
	arg, err := argument(c)
	if err != nil {
		return err
	}
	conf, err := config(c)
	if err != nil {
		return err
	}
	out := accelerate.Output{Dir: c.String("output"), Replace: c.Bool("force")}
	if out.Dir == "" {
		return commandUsage(c, "missing -o OUT")
	}
	progress := newProgress(p.stderr)
	defer progress.done()
	report, err := work(arg, out, conf, progress.events())
	if err != nil {
		return err
	}
	progress.done()
	text := summary(report) + "\n"
	if report.Missing != "" {
		text += "no kernel: " + report.Missing + "\n"
	}
	_, err = fmt.Fprintf(p.stdout, "%snext: %s\n", text, fmt.Sprintf(next, shellWord(out.Dir)))
	return err
}

// summary is a line about a model folder that has been made.
func summary(r *accelerate.Report) string {
	nodes := fmt.Sprintf("%d nodes", r.NodesAfter)
	if r.NodesBefore != r.NodesAfter {
		nodes = fmt.Sprintf("%d → %d nodes", r.NodesBefore, r.NodesAfter)
	}
	parts := []string{nodes, bytesText(r.Bytes)}
	if r.BitsPerWeight > 0 {
		parts = append(parts, fmt.Sprintf("%.2f bits a weight", r.BitsPerWeight))
	}
	parts = append(parts, fmt.Sprintf("%.1f s", r.Elapsed.Seconds()))
	return r.Dir + ": " + strings.Join(parts, ", ")
}

// shellWord quotes a path that a shell would take apart.
func shellWord(s string) string {
	if strings.ContainsAny(s, " \t\n'\"\\$`!*?[](){}<>|&;~#") {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}
