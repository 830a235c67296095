package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/eval"
)

func (p *program) evalCommand() *cli.Command {
	return &cli.Command{
		Name:      "eval",
		Usage:     "measure how good a model's predictions are",
		ArgsUsage: "MODEL",
		UsageText: "qwenrt eval MODEL --text FILE [options]\nqwenrt eval --compare A B ... --text FILE [options]",
		Description: "Perplexity as llama-perplexity measures it: the text is cut into chunks, and the second half of each is\n" +
			"scored. With a reference also KL divergence, agreement on the likeliest token, and the change of the\n" +
			"probability of the text's tokens (Δp). --compare makes one table of several models; the first is the\n" +
			"reference of the others.\n" + modelHelp + "\n\n" +
			"Example: qwenrt eval int4 --text wiki.test.raw --reference fused",
		Flags: slices.Concat([]cli.Flag{
			formFlag(),
			&cli.StringFlag{Name: "text", Usage: "`FILE` of text to predict (default: that of --reference-logits)"},
			&cli.StringFlag{Name: "reference", Usage: "compare with this `MODEL`"},
			&cli.StringFlag{Name: "reference-logits", Usage: "compare with what --save-logits, or llama-perplexity, wrote to `FILE`"},
			&cli.StringFlag{Name: "save-logits", Usage: "write the model's log-probabilities to `FILE`: two bytes a token of the vocabulary and position"},
			&cli.IntFlag{Name: "ctx", Aliases: []string{"c"}, Usage: "tokens in a chunk (default: 512, or as --reference-logits has it)"},
			&cli.IntFlag{Name: "chunks", Usage: "measure the first `N` chunks only (default: all)"},
			&cli.IntFlag{Name: "threads", Aliases: []string{"t"}, Usage: "CPU threads (default: the CPUs that this process may use)"},
			boolFlag("compare", "make a table of several models: size, quality, and speed as qwenrt bench measures it"),
			boolFlag("no-bench", "leave speed out of --compare"),
			&cli.StringFlag{Name: "chart", Usage: "draw the table of --compare to `FILE` as SVG: quality against size and speed"},
		}, hubFlags()),
		Action: func(c *cli.Context) error {
			if err := checkEvalFlags(c); err != nil {
				return err
			}
			if c.Bool("compare") {
				return p.compare(c)
			}
			return p.eval(c)
		},
	}
}

// checkEvalFlags finds what is wrong with flags before a model is made or opened.
func checkEvalFlags(c *cli.Context) error {
	if _, err := asJSON(c); err != nil {
		return err
	}
	for _, name := range []string{"ctx", "chunks", "threads"} {
		if c.IsSet(name) && c.Int(name) < 1 {
			return commandUsage(c, "--%s is %d: want 1 or more", name, c.Int(name))
		}
	}
	for _, name := range []string{"text", "reference", "reference-logits", "save-logits", "chart"} {
		if c.IsSet(name) && c.String(name) == "" {
			return commandUsage(c, "--%s is empty", name)
		}
	}
	if c.Bool("compare") {
		for _, name := range []string{"reference", "reference-logits", "save-logits"} {
			if c.IsSet(name) {
				return commandUsage(c, "--%s does not go with --compare, where the first model is the reference", name)
			}
		}
	} else {
		for _, name := range []string{"no-bench", "chart"} {
			if c.IsSet(name) {
				return commandUsage(c, "--%s is for --compare", name)
			}
		}
	}
	if c.IsSet("reference") && c.IsSet("reference-logits") {
		return commandUsage(c, "--reference or --reference-logits, not both")
	}
	if !c.IsSet("text") && !c.IsSet("reference-logits") {
		return commandUsage(c, "missing --text FILE")
	}
	return nil
}

func (p *program) eval(c *cli.Context) (err error) {
	arg, err := argument(c)
	if err != nil {
		return err
	}
	o := eval.Options{Context: c.Int("ctx"), Chunks: c.Int("chunks")}
	closeReference, err := p.reference(c, &o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeReference()) }()
	r, err := p.openEval(c, arg, o.Context)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	var result *eval.Result
	measure := func(w io.Writer) error {
		o.Save = w
		result, err = p.measure(c, r, o, arg)
		return err
	}
	if path := c.String("save-logits"); path != "" {
		err = newFile(path, measure)
	} else {
		err = measure(nil)
	}
	if err != nil {
		return err
	}
	if jsonForm, _ := asJSON(c); jsonForm {
		return p.writeJSON(result)
	}
	return printResult(p.stdout, result)
}

// reference opens what the flags name, and takes the length of chunks from a file that has it.
func (p *program) reference(c *cli.Context, o *eval.Options) (closer func() error, err error) {
	if path := c.String("reference-logits"); path != "" {
		file, err := eval.OpenLogits(path)
		if err != nil {
			return nil, err
		}
		if o.Context == 0 {
			o.Context = file.Context()
		}
		o.Reference = file
		return file.Close, nil
	}
	if o.Context == 0 {
		o.Context = eval.DefaultContext
	}
	if !c.IsSet("reference") {
		return func() error { return nil }, nil
	}
	r, err := p.openEval(c, c.String("reference"), o.Context)
	if err != nil {
		return nil, err
	}
	o.Reference = eval.ModelReference(r)
	return r.Close, nil
}

// openEval opens a model that runs whole chunks at once.
func (p *program) openEval(c *cli.Context, arg string, chunk int) (*runner.Runner, error) {
	path, err := p.model(c, arg)
	if err != nil {
		return nil, err
	}
	return runner.Open(c.Context, path, runner.Options{Threads: c.Int("threads"), PrefillChunk: chunk})
}

// measure measures a model on the text of --text, with progress.
func (p *program) measure(c *cli.Context, r *runner.Runner, o eval.Options, name string) (*eval.Result, error) {
	var tokens []int32
	if c.IsSet("text") {
		var err error
		if tokens, err = tokenizeFile(r, c.String("text")); err != nil {
			return nil, err
		}
	}
	progress := newProgress(p.stderr)
	defer progress.done()
	progress.begin("evaluating " + name)
	o.Progress = func(done, total int) { progress.count(done, total, "chunks") }
	return eval.Measure(c.Context, r, tokens, o)
}

// maxText is far above any text for evaluation: wikitext's test set has 1.3 MB.
const maxText = 1 << 30

func tokenizeFile(r *runner.Runner, path string) ([]int32, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxText+1))
	if err != nil {
		return nil, err
	}
	if len(text) == 0 || len(text) > maxText {
		return nil, fmt.Errorf("%s: a text of %d bytes: want 1 to %d", path, len(text), maxText)
	}
	return eval.Tokenize(r, string(text))
}

func printResult(w io.Writer, r *eval.Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(t, name+"\t"+format+"\n", args...) }
	row("tokens", "%d, of which %d are scored in %d chunks of %d", r.Tokens, r.Scored, r.Chunks, r.Context)
	row("perplexity", "%.4f ± %.4f", r.Perplexity, r.Error)
	if d := r.Divergence; d != nil {
		row("reference's perplexity", "%.4f ± %.4f", d.ReferencePerplexity, d.ReferenceError)
		row("ratio of perplexities", "%.5f ± %.5f", d.Ratio, d.RatioError)
		row("KL divergence, mean", "%.6f ± %.6f", d.KLD.Mean, d.KLD.Error)
		row("  median", "%.6f", d.KLD.Median)
		row("  90 %%", "%.6f", d.KLD.P90)
		row("  99 %%", "%.6f", d.KLD.P99)
		row("  99.9 %%", "%.6f", d.KLD.P999)
		row("  max", "%.6f", d.KLD.Max)
		row("same likeliest token", "%.2f ± %.2f %%", 100*d.Top1, 100*d.Top1Error)
		row("Δp, mean", "%.3f ± %.3f %%", 100*d.DeltaP.Mean, 100*d.DeltaP.MeanError)
		row("Δp, RMS", "%.3f ± %.3f %%", 100*d.DeltaP.RMS, 100*d.DeltaP.RMSError)
	}
	return t.Flush()
}
