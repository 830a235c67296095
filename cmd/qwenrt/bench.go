package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/accelerate"
	"github.com/qwenrt/qwenrt/runner/bench"
)

func (p *program) benchCommand() *cli.Command {
	return &cli.Command{
		Name:      "bench",
		Usage:     "measure speed as llama-bench does",
		ArgsUsage: "MODEL",
		UsageText: "qwenrt bench MODEL [options]",
		Description: "ppN is the prefill of N random tokens, tgN the decoding of N tokens one by one. Lists such as\n" +
			"-p 512,1024 make a cross product. Each test is warmed up and then repeated; the table shows mean ± sample\n" +
			"deviation, JSON all repetitions.\n" + modelHelp + "\n\n" +
			"Example: qwenrt bench Qwen/Qwen3-0.6B -p 512 -n 128 -d 0,2048 -t 2",
		Flags: slices.Concat(testFlags([]int{512}, []int{128}), []cli.Flag{
			&cli.IntFlag{Name: "repetitions", Aliases: []string{"r"}, Usage: "of each test", Value: bench.DefaultRepetitions},
			&cli.IntSliceFlag{Name: "threads", Aliases: []string{"t"}, Usage: "CPU threads (default: the configuration's, or the CPUs that this process may use)"},
			&cli.IntSliceFlag{Name: "batch-size", Aliases: []string{"b"}, Usage: fmt.Sprintf("tokens of prefill that are run at once (default: the configuration's, or %d)", runner.DefaultPrefillChunk)},
			&cli.BoolFlag{Name: "no-warmup", Usage: "time the first run too"},
			&cli.Uint64Flag{Name: "seed", Usage: "of the random tokens"},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "form of the output: md, json, jsonl, csv or gobench", Value: string(bench.Markdown)},
			&cli.StringFlag{Name: "output-err", Aliases: []string{"oe"}, Usage: "form of a second output, to standard error (default: none)"},
			&cli.StringFlag{Name: "profile", Usage: "show instead where the time goes, by operator and layer, and write a trace for ui.perfetto.dev to `FILE`"},
			&cli.BoolFlag{Name: "overhead", Usage: "measure instead what qwenrt adds to ONNX Runtime's time in a decode step, at the first -n, -d"},
			&cli.IntSliceFlag{Name: "concurrency", Usage: "measure instead whole generations, so many at once (1,2,4,8), -r for each client"},
			&cli.StringFlag{Name: "prompt-file", Usage: "measure instead whole generations behind the text of `FILE`, tokenising included"},
		}, runFlags(), hubFlags()),
		Action: p.bench,
		Subcommands: []*cli.Command{
			p.benchCompareCommand(),
			p.benchVersusCommand(),
			p.benchGateCommand(),
			p.benchHistoryCommand(),
			p.benchWorkerCommand(),
		},
	}
}

func (p *program) bench(c *cli.Context) error {
	arg, err := argument(c)
	if err != nil {
		return err
	}
	config, err := benchConfig(c)
	if err != nil {
		return err
	}
	whole := c.IsSet("concurrency") || c.IsSet("prompt-file")
	var load []bench.LoadConfig
	if whole {
		if load, err = loadConfigs(c); err != nil {
			return err
		}
	}
	prepared, err := p.prepare(c, arg)
	if err != nil {
		return err
	}
	if whole {
		return p.benchLoad(c, prepared, load)
	}
	if c.Bool("overhead") {
		return p.benchOverhead(c, prepared)
	}
	if c.IsSet("profile") {
		return p.benchProfile(c, prepared, config)
	}
	return p.benchSpeed(c, prepared, config)
}

// benchConfig reads the flags, and finds what is wrong with them before a model is made or opened.
func benchConfig(c *cli.Context) (bench.Config, error) {
	config := bench.Config{
		Prompt:      c.IntSlice("n-prompt"),
		Gen:         c.IntSlice("n-gen"),
		PromptGen:   *c.Generic("pg").(*pairs),
		Depth:       c.IntSlice("n-depth"),
		Repetitions: c.Int("repetitions"),
		NoWarmup:    c.Bool("no-warmup"),
		Seed:        c.Uint64("seed"),
	}
	if config.Repetitions < 1 {
		return config, commandUsage(c, "--repetitions is %d: want 1 or more", config.Repetitions)
	}
	if _, err := config.Tests(); err != nil {
		return config, commandUsage(c, "%s", strings.ReplaceAll(oneLine(err), "bench: ", ""))
	}
	format := bench.Format(c.String("output"))
	switch {
	case !format.Valid():
		return config, commandUsage(c, "output %q: want md, json, jsonl, csv or gobench", format)
	case c.IsSet("output-err") && !bench.Format(c.String("output-err")).Valid():
		return config, commandUsage(c, "output-err %q: want md, json, jsonl, csv or gobench", c.String("output-err"))
	case c.Bool("overhead") && c.IsSet("profile"):
		return config, commandUsage(c, "--overhead or --profile, not both")
	case (c.IsSet("concurrency") || c.IsSet("prompt-file")) && (c.Bool("overhead") || c.IsSet("profile")):
		return config, commandUsage(c, "--concurrency and --prompt-file, or --overhead or --profile, not both")
	case c.IsSet("profile") && (c.String("profile") == "" || format != bench.Markdown && format != bench.JSON):
		return config, commandUsage(c, "--profile wants a file, and is written as md or json")
	case c.Bool("overhead") && format != bench.Markdown && format != bench.JSON:
		return config, commandUsage(c, "--overhead is written as md or json, not as %s", format)
	case c.Bool("overhead") && config.Gen[0] < 1:
		return config, commandUsage(c, "--overhead needs tokens to decode: -n 1 or more")
	}
	for _, name := range []string{"threads", "batch-size"} {
		for _, n := range c.IntSlice(name) {
			if n < 1 {
				return config, commandUsage(c, "--%s is %d: want 1 or more", name, n)
			}
		}
	}
	return config, nil
}

// threadCounts are the numbers of threads to measure with, each with a session of its own: those of the flag, or the one that
// the model was prepared with.
func threadCounts(c *cli.Context, o runner.Options) []int {
	if c.IsSet("threads") {
		return c.IntSlice("threads")
	}
	return []int{cmp.Or(o.Threads, ort.DefaultThreads())}
}

// chunks are the numbers of tokens of prefill that are run at once, as threadCounts are of threads.
func chunks(c *cli.Context, o runner.Options) []int {
	if c.IsSet("batch-size") {
		return c.IntSlice("batch-size")
	}
	return []int{cmp.Or(o.PrefillChunk, runner.DefaultPrefillChunk)}
}

// checker gives what looks at the sessions of a benchmark: what was asked for and is not applied is told with the first of them,
// or is an error.
func (p *program) checker(m *accelerate.Prepared) func(*runner.Runner) error {
	told := false
	return func(r *runner.Runner) error {
		info, err := m.Info(r)
		if err == nil && !told { // once, for sessions differ in threads and chunks alone
			told = true
			p.tellUnapplied(info)
		}
		return err
	}
}

// check is checker for measurements that open the model themselves: it opens it before they do.
func (p *program) check(c *cli.Context, m *accelerate.Prepared) error {
	r, err := runner.Open(c.Context, m.File, m.Options)
	if err != nil {
		return err
	}
	return errors.Join(p.checker(m)(r), r.Close())
}

func (p *program) benchSpeed(c *cli.Context, m *accelerate.Prepared, config bench.Config) (err error) {
	w, err := bench.NewWriter(p.stdout, bench.Format(c.String("output")))
	if err != nil {
		return err
	}
	writers := []*bench.Writer{w}
	if c.IsSet("output-err") {
		second, err := bench.NewWriter(p.stderr, bench.Format(c.String("output-err")))
		if err != nil {
			return err
		}
		writers = append(writers, second)
	}
	defer func() { // what was measured before an error stays readable
		for _, w := range writers {
			err = errors.Join(err, w.Close())
		}
	}()
	check := p.checker(m)
	for _, threads := range threadCounts(c, m.Options) {
		for _, batch := range chunks(c, m.Options) {
			o := m.Options
			o.Threads, o.PrefillChunk = threads, batch
			if err := p.benchSession(c, m.File, o, config, check, writers); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *program) benchSession(c *cli.Context, path string, o runner.Options, config bench.Config, check func(*runner.Runner) error, writers []*bench.Writer) error {
	progress := newProgress(p.stderr)
	defer progress.done()
	show := func(format string, args ...any) {
		if progress.terminal { // elsewhere the table is all there is to see
			progress.begin(fmt.Sprintf(format, args...))
		}
	}
	show("loading")
	s, err := bench.Open(c.Context, path, o)
	if err != nil {
		return err
	}
	defer s.Close()
	progress.done()
	if err := check(s.Runner); err != nil {
		return err
	}
	var writing error
	_, err = bench.Run(c.Context, s, config, bench.Events{
		Repetition: func(t bench.Test, n, of int) {
			if n == 0 {
				show("%v: warming up", t)
			} else {
				show("%v: run %d of %d", t, n, of)
			}
		},
		Record: func(r bench.Record) {
			progress.done()
			for _, w := range writers {
				writing = errors.Join(writing, w.Write(r))
			}
		},
	})
	return errors.Join(err, writing)
}

func (p *program) benchProfile(c *cli.Context, m *accelerate.Prepared, config bench.Config) error {
	if err := p.check(c, m); err != nil {
		return err
	}
	o := m.Options
	o.Threads, o.PrefillChunk = threadCounts(c, o)[0], chunks(c, o)[0]
	var profiles []bench.Profile
	err := newFile(c.String("profile"), func(w io.Writer) (err error) {
		profiles, err = bench.MeasureProfile(c.Context, m.File, o, config, w)
		return err
	})
	if err != nil {
		return err
	}
	if bench.Format(c.String("output")) == bench.JSON {
		return p.writeJSON(profiles)
	}
	var b strings.Builder
	for _, r := range profiles {
		fmt.Fprintf(&b, "%v: %d runs of %d operators, %s\n\n", r.Test, r.Runs, r.Kernels, millisecondsText(r.Time))
		shares(&b, "operator", r.Types, r.Time)
		shares(&b, "layer", r.Layers, r.Time)
	}
	_, err = fmt.Fprint(p.stdout, b.String())
	return err
}

// shares writes a table of the parts of a time.
func shares(b *strings.Builder, what string, parts []bench.Share, total time.Duration) {
	fmt.Fprintf(b, "| %s | calls | time | share | GB/s |\n|---|---:|---:|---:|---:|\n", what)
	for _, s := range parts {
		name := cmp.Or(s.Name, "outside of layers")
		seconds := max(s.Time.Seconds(), 1e-9)
		fmt.Fprintf(b, "| %s | %d | %s | %.1f %% | %.1f |\n", name, s.Calls, millisecondsText(s.Time), 100*float64(s.Time)/float64(max(total, 1)), float64(s.Bytes)/1e9/seconds)
	}
	b.WriteByte('\n')
}

func millisecondsText(d time.Duration) string { return fmt.Sprintf("%.2f ms", d.Seconds()*1e3) }

func (p *program) benchOverhead(c *cli.Context, m *accelerate.Prepared) error {
	if err := p.check(c, m); err != nil {
		return err
	}
	test := bench.Test{Gen: c.IntSlice("n-gen")[0], Depth: c.IntSlice("n-depth")[0]}
	results := []bench.Overhead{}
	for _, threads := range threadCounts(c, m.Options) {
		options := m.Options
		options.Threads = threads
		o, err := bench.MeasureOverhead(c.Context, m.File, options, test)
		if err != nil {
			return err
		}
		results = append(results, o)
	}
	if bench.Format(c.String("output")) == bench.JSON {
		e := json.NewEncoder(p.stdout)
		e.SetIndent("", "  ")
		return e.Encode(results)
	}
	var table strings.Builder
	table.WriteString("| threads | test | decode step, µs | outside ONNX Runtime, µs | share |\n|---:|---|---:|---:|---:|\n")
	for _, o := range results {
		fmt.Fprintf(&table, "| %d | %v | %.1f | %.1f | %.3f %% |\n", o.Threads, test,
			float64(o.Step.Nanoseconds())/1e3, float64(o.Own.Nanoseconds())/1e3, 100*o.Ratio)
	}
	_, err := fmt.Fprint(p.stdout, table.String())
	return err
}

// pairs are the values of --pg.
type pairs []bench.PromptGen

// Set adds a pair such as "512,128".
func (p *pairs) Set(text string) error {
	a, b, ok := strings.Cut(text, ",")
	prompt, err := strconv.Atoi(strings.TrimSpace(a))
	gen, err2 := strconv.Atoi(strings.TrimSpace(b))
	if !ok || err != nil || err2 != nil {
		return errors.New("want two numbers, as in 512,128")
	}
	*p = append(*p, bench.PromptGen{Prompt: prompt, Gen: gen})
	return nil
}

func (p *pairs) String() string { return "" }
