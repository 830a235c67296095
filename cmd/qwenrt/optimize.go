package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/passes"
	"github.com/qwenrt/qwenrt/runner/accelerate"
	"github.com/qwenrt/qwenrt/runner/eval"
)

var verifyBounds = fmt.Sprintf("%g, in fp16 %g, in bf16 %g", eval.DefaultBound, eval.DefaultFloat16Bound, eval.DefaultBFloat16Bound)

func (p *program) optimizeCommand() *cli.Command {
	return &cli.Command{
		Name:      "optimize",
		Usage:     "fuse a model's graph for ONNX Runtime",
		ArgsUsage: "IN",
		UsageText: "qwenrt optimize IN -o OUT [options]\nqwenrt optimize --list-passes",
		Description: "IN is a model folder, or a .onnx file with config.json beside it.\n\n" +
			"Example: qwenrt optimize onnx -o fused --verify",
		Flags: slices.Concat(outputFlags(), optimizeFlags(), []cli.Flag{
			&cli.StringFlag{Name: "dtype", Usage: "convert to fp16 or bf16", DefaultText: "stay as it is"},
			&cli.StringSliceFlag{Name: "keep-fp32", Usage: "operators and nodes (with * and ?) that --dtype leaves in fp32, as `NAME,...`"},
			boolFlag("narrow-logits", "give the logits --dtype too"),
			boolFlag("lenient", "go on where the target has no kernel, and say so"),
			&cli.Int64Flag{Name: "sequence", Usage: "fix the number of new tokens of a run, for coreml", DefaultText: "free"},
			&cli.Int64Flag{Name: "total", Usage: "fix the number of new and cached tokens together, for coreml", DefaultText: "free"},
			&cli.StringSliceFlag{Name: "passes", Usage: "run these passes only, as `NAME,...`", DefaultText: "all that serve the target"},
			&cli.StringSliceFlag{Name: "disable", Usage: "leave these passes out, as `NAME,...`"},
			boolFlag("list-passes", "list the passes, and do nothing else"),
			boolFlag("trace", "say where each rule matched, and where it nearly did and why not"),
			boolFlag("verify", "run the graph before and after on text, and write nothing where they differ"),
			&cli.StringFlag{Name: "verify-text", Usage: "text `FILE` for --verify", DefaultText: "a built-in one"},
			&cli.Float64Flag{Name: "verify-bound", Usage: "largest difference of logits that --verify lets pass, as a share of the largest logit", DefaultText: verifyBounds},
		}),
		Action: p.optimize,
	}
}

func (p *program) optimize(c *cli.Context) error {
	if c.Bool("list-passes") {
		if err := noArguments(c); err != nil {
			return err
		}
		return p.listPasses()
	}
	check, err := p.verification(c)
	if err != nil {
		return err
	}
	return p.make(c, "qwenrt quantize %s -o OUT", func(arg string, out accelerate.Output, conf accelerate.Config, e accelerate.Events) (*accelerate.Report, error) {
		if check != nil {
			e.Check = func(ctx context.Context, dir string) error { return check(ctx, arg, dir) }
		}
		if c.Bool("trace") {
			e.Trace = p.trace
		}
		return accelerate.Optimize(c.Context, arg, out, conf, e)
	})
}

func (p *program) listPasses() error {
	t := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	for _, pass := range passes.All() {
		targets := "all targets"
		if len(pass.Targets) > 0 {
			names := make([]string, len(pass.Targets))
			for i, target := range pass.Targets {
				names[i] = string(target)
			}
			targets = strings.Join(names, ", ")
		}
		fmt.Fprintf(t, "%s\t%s (%s)\n", pass.Name, pass.Doc, targets)
		if pass.Needs != "" {
			fmt.Fprintf(t, "\tneeds: %s\n", pass.Needs)
		}
	}
	return t.Flush()
}

// trace prints an event of the optimiser.
func (p *program) trace(e graphopt.Event) {
	rule := e.Pass
	if e.Rule != "" && e.Rule != e.Pass {
		rule += "/" + e.Rule
	}
	line := fmt.Sprintf("%s: %v at %s", rule, e.Kind, e.Node)
	if e.Reason != "" {
		line += ": " + e.Reason
	}
	if len(e.Nodes) > 0 {
		line += " [" + strings.Join(e.Nodes, " ") + "]"
	}
	fmt.Fprintln(p.stdout, line)
}

// verification gives the check that --verify asks for, nil without it.
func (p *program) verification(c *cli.Context) (func(ctx context.Context, before, after string) error, error) {
	if !c.Bool("verify") {
		for _, name := range []string{"verify-text", "verify-bound"} {
			if c.IsSet(name) {
				return nil, commandUsage(c, "--%s is for --verify", name)
			}
		}
		return nil, nil
	}
	o := eval.GraphOptions{Bound: c.Float64("verify-bound")}
	if c.IsSet("verify-bound") && !(o.Bound > 0) {
		return nil, commandUsage(c, "--verify-bound is %v: want a positive number", o.Bound)
	}
	if c.IsSet("verify-text") {
		text, err := os.ReadFile(c.String("verify-text"))
		if err != nil {
			return nil, err
		}
		o.Text = string(text)
		if o.Text == "" {
			return nil, fmt.Errorf("%s is empty", c.String("verify-text"))
		}
	}
	return func(ctx context.Context, before, after string) error {
		progress := newProgress(p.stderr)
		defer progress.done()
		progress.begin("verifying")
		r, err := eval.Graphs(ctx, before, after, o)
		if err != nil {
			return fmt.Errorf("verify: %w", err)
		}
		progress.done()
		if err := r.Err(); err != nil {
			return err
		}
		_, err = fmt.Fprintf(p.stdout, "verified on %d tokens: logits differ by %.2g at most, %.2g of the largest; mean KL divergence %.2g; top-1 agreement %.1f %%\n",
			r.Positions, r.MaxAbsolute, r.MaxRelative, r.MeanKLD, 100*r.Top1)
		return err
	}, nil
}
