package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/accelerate"
)

func (p *program) infoCommand() *cli.Command {
	return &cli.Command{
		Name:      "info",
		Usage:     "show how a model is run: options as applied, memory, speed",
		ArgsUsage: "MODEL",
		UsageText: "qwenrt info MODEL [options]",
		Description: "What is asked for and what is applied, with the reason where they differ; how weights are stored; memory as\n" +
			"estimated before loading, and measured after.\n" + modelHelp + "\n\n" +
			"Example: qwenrt info Qwen/Qwen3-0.6B --preset low-memory --benchmark 3",
		Flags: slices.Concat([]cli.Flag{
			formFlag(),
			boolFlag("estimate", "tell what memory the model will take, and do not load it; --strict then checks what the graph shows"),
			&cli.IntFlag{Name: "benchmark", Usage: "measure `N` short answers too", DefaultText: "none"},
			&cli.StringFlag{Name: "text", Usage: "that --benchmark continues", DefaultText: "a sentence"},
			&cli.IntFlag{Name: "threads", Usage: "CPU threads", DefaultText: "the CPUs that this process may use"},
			&cli.IntFlag{Name: "prefill-chunk", Usage: "tokens of the prompt that are run at once", Value: runner.DefaultPrefillChunk},
		}, runFlags(), hubFlags()),
		Action: p.info,
	}
}

// report is what info prints as JSON.
type report struct {
	accelerate.Info
	Benchmark *accelerate.BenchmarkResult `json:"benchmark,omitempty"`
}

func (p *program) info(c *cli.Context) error {
	arg, err := argument(c)
	if err != nil {
		return err
	}
	jsonForm, err := asJSON(c)
	if err != nil {
		return err
	}
	if n := c.Int("benchmark"); c.IsSet("benchmark") && n < 1 {
		return commandUsage(c, "--benchmark is %d: want 1 or more", n)
	}
	if c.Bool("estimate") {
		return p.infoEstimate(c, arg, jsonForm)
	}
	m, err := p.open(c, arg)
	if err != nil {
		return err
	}
	defer m.Close()
	r := report{Info: m.Info()}
	if c.IsSet("benchmark") {
		if r.Benchmark, err = m.Benchmark(c.Context, accelerate.Benchmark{Text: c.String("text"), Iterations: c.Int("benchmark")}); err != nil {
			return err
		}
	}
	if jsonForm {
		return p.writeJSON(r)
	}
	return printInfo(p.stdout, r)
}

func (p *program) infoEstimate(c *cli.Context, arg string, jsonForm bool) error {
	prepared, err := p.prepare(c, arg)
	if err != nil {
		return err
	}
	if err := prepared.Check(); err != nil {
		return err
	}
	e, err := prepared.Estimate()
	if err != nil {
		return err
	}
	if jsonForm {
		return p.writeJSON(e)
	}
	t := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	printEstimate(t, e)
	return t.Flush()
}

func printInfo(w io.Writer, r report) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	m := r.Model
	fmt.Fprintf(t, "model\t%s\n", m.File)
	if m.Name != "" {
		fmt.Fprintf(t, "made from\t%s\n", m.Name)
	}
	fmt.Fprintf(t, "weights\t%.2f M, %.2f bits each\n", float64(m.Parameters)/1e6, r.BitsPerWeight)
	fmt.Fprintf(t, "shape\t%d layers, %d KV heads of %d, vocabulary %d, context %d\n", m.Layers, m.KVHeads, m.HeadDim, m.Vocabulary, m.Context)
	fmt.Fprintf(t, "onnxruntime\t%s (%s)\n", m.ORTVersion, m.Library)
	for _, q := range r.Quantization {
		fmt.Fprintf(t, "stored\t%d tensors in %s, %d bits, block %d\n", q.Tensors, q.Operator, q.Bits, q.BlockSize)
	}
	var fused []string
	for _, o := range r.Fused {
		fused = append(fused, fmt.Sprintf("%s ×%d", strings.TrimPrefix(o.Name, "com.microsoft."), o.Count))
	}
	fmt.Fprintf(t, "fused\t%s\n\n", strings.Join(fused, ", "))
	fmt.Fprintln(t, "option\trequested\tapplied\tshown by")
	for _, o := range r.Options {
		requested := o.Requested
		if requested == "" {
			requested = "-"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", o.Option, requested, o.Applied, o.Fact)
	}
	fmt.Fprintln(t)
	printEstimate(t, r.Memory.Estimate)
	if n := r.Memory.Measured; n.Anonymous > 0 {
		fmt.Fprintf(t, "measured\t%s allocated by the process now, %s at most resident with mapped files\n", bytesText(n.Anonymous), bytesText(n.Peak))
	}
	if b := r.Benchmark; b != nil {
		fmt.Fprintf(t, "benchmark\t%d × %d prompt tokens and %d generated: mean latency %.3f s, first token %.3f s, prefill %.1f tokens/s, decode %.1f tokens/s\n",
			b.Iterations, b.PromptTokens, b.Tokens, b.Latency.Seconds(), b.TTFT.Seconds(), b.PromptPerSecond, b.TokensPerSecond)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, o := range r.Options {
		if o.Reason != "" {
			if _, err := fmt.Fprintf(w, "\nnot applied: %s: %s\n", o.Option, o.Reason); err != nil {
				return err
			}
		}
	}
	return nil
}

func printEstimate(w io.Writer, e accelerate.Estimate) {
	fmt.Fprintf(w, "estimate\t%s of weights as kernels pack them, and %s mapped; %s (%.0f %%) less than fp32\n",
		bytesText(e.Packed), bytesText(e.Mapped), bytesText(e.Saved), e.SavedPercent())
	fmt.Fprintf(w, "\t%s of KV cache for %d tokens, %s of activations\n", bytesText(e.KV), e.Context, bytesText(e.Activations))
}
