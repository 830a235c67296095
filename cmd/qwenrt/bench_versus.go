package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/accelerate"
	"github.com/qwenrt/qwenrt/runner/bench"
	"github.com/qwenrt/qwenrt/runner/bench/stats"
	"github.com/qwenrt/qwenrt/runner/machine"
)

// sideHelp has room for a few words in front.
const sideHelp = "a model as for qwenrt bench; or a configuration, a .yaml or .json file as for --config\n" +
	"elsewhere; or a program, such as another build of qwenrt; or exec:COMMAND, a shell command that answers as\n" +
	"qwenrt bench worker does."

func (p *program) benchVersusCommand() *cli.Command {
	return &cli.Command{
		Name:      "ab",
		Usage:     "compare two models or programs, run in turn",
		ArgsUsage: "A B",
		UsageText: "qwenrt bench ab A B [options]",
		Description: "Both are open at the same time and run in turn, in short slices and random order, so that the noise of the\n" +
			"machine meets both; and both are opened afresh every second. It goes on until the ratio is known to within\n" +
			"--precision, or until the budget is spent. The ratio is B's speed over A's, the median of all rounds, with\n" +
			"the interval of the sign test.\n" +
			"A and B are each " + sideHelp + "\n" +
			"Configurations and programs are given the model of --model; a configuration's threads and chunks are its\n" +
			"own where -t and -b do not say.\n\n" +
			"Example: qwenrt bench ab int4-b32 int4-b128 -p 128 -n 64 -t 2",
		Flags: slices.Concat(testFlags([]int{128}, []int{64}), versusFlags(), []cli.Flag{
			&cli.StringFlag{Name: "model", Usage: "`MODEL` of sides that are configurations or programs"},
			&cli.Float64Flag{Name: "precision", Usage: "half the width of the interval that is narrow enough", Value: 0.01},
			&cli.Float64Flag{Name: "margin", Usage: "a difference that does not count", Value: 0.01},
			formatFlag("md or json"),
		}, hubFlags()),
		Action: p.benchVersus,
	}
}

// testFlags say which tests are run; what they are called is llama-bench's.
func testFlags(prompt, gen []int) []cli.Flag {
	return []cli.Flag{
		&cli.IntSliceFlag{Name: "n-prompt", Aliases: []string{"p"}, Usage: "tokens of prefill; 0 is none", Value: cli.NewIntSlice(prompt...)},
		&cli.IntSliceFlag{Name: "n-gen", Aliases: []string{"n"}, Usage: "tokens to decode; 0 is none", Value: cli.NewIntSlice(gen...)},
		&cli.GenericFlag{Name: "pg", Usage: "prefill and decoding in a row, as `P,N`; may be repeated (default: none)", Value: &pairs{}},
		&cli.IntSliceFlag{Name: "n-depth", Aliases: []string{"d"}, Usage: "tokens of context before a test, not timed", Value: cli.NewIntSlice(0)},
	}
}

// versusFlags say how two sides are compared.
func versusFlags() []cli.Flag {
	return []cli.Flag{
		&cli.IntSliceFlag{Name: "threads", Aliases: []string{"t"}, Usage: "CPU threads, or those of A and of B as `NA,NB` (default: the CPUs that this process may use)"},
		&cli.IntFlag{Name: "batch-size", Aliases: []string{"b"}, Usage: "tokens of prefill that are run at once", Value: runner.DefaultPrefillChunk},
		&cli.DurationFlag{Name: "budget", Usage: "time for a test", Value: bench.DefaultBudget},
		&cli.DurationFlag{Name: "round", Usage: "time for a test until both sides are opened afresh", Value: bench.DefaultRound},
		&cli.DurationFlag{Name: "slice", Usage: "time for which one side decodes before it is the other's turn", Value: bench.DefaultSlice},
		&cli.Float64Flag{Name: "confidence", Usage: "that the interval holds the ratio", Value: 0.99},
		&cli.Uint64Flag{Name: "seed", Usage: "of the order of slices"},
	}
}

func formatFlag(forms string) cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "form of the output: " + forms, Value: string(bench.Markdown)}
}

// mdOrJSON reads the form of commands that have two.
func mdOrJSON(c *cli.Context) (asJSON bool, err error) {
	switch form := bench.Format(c.String("output")); form {
	case bench.Markdown, bench.JSON:
		return form == bench.JSON, nil
	default:
		return false, commandUsage(c, "output %q: want md or json", form)
	}
}

// tests are those of the flags.
func tests(c *cli.Context) ([]bench.Test, error) {
	config := bench.Config{
		Prompt: c.IntSlice("n-prompt"), Gen: c.IntSlice("n-gen"), PromptGen: *c.Generic("pg").(*pairs), Depth: c.IntSlice("n-depth"),
	}
	list, err := config.Tests()
	if err != nil {
		return nil, commandUsage(c, "%s", strings.ReplaceAll(oneLine(err), "bench: ", ""))
	}
	return list, nil
}

// versus reads versusFlags.
func versus(c *cli.Context) (bench.Versus, error) {
	v := bench.Versus{Confidence: c.Float64("confidence"), Budget: c.Duration("budget"), Round: c.Duration("round"), Slice: c.Duration("slice"), Seed: c.Uint64("seed")}
	switch {
	case !(v.Confidence >= 0.5 && v.Confidence < 1):
		return v, commandUsage(c, "--confidence is %v: want 0.5 or more, below 1", v.Confidence)
	case v.Budget <= 0 || v.Round <= 0 || v.Slice <= 0:
		return v, commandUsage(c, "--budget is %v, --round %v and --slice %v: want times", v.Budget, v.Round, v.Slice)
	case c.Int("batch-size") < 1:
		return v, commandUsage(c, "--batch-size is %d: want 1 or more", c.Int("batch-size"))
	}
	if n := len(c.IntSlice("threads")); n > 2 {
		return v, commandUsage(c, "--threads has %d numbers: want one, or one for each side", n)
	}
	for _, n := range c.IntSlice("threads") {
		if n < 1 {
			return v, commandUsage(c, "--threads is %d: want 1 or more", n)
		}
	}
	return v, nil
}

// sideThreads are the threads of side 0 or 1.
func sideThreads(c *cli.Context, side int) int {
	counts := threadCounts(c, runner.Options{})
	return counts[min(side, len(counts)-1)]
}

func (p *program) benchVersus(c *cli.Context) (err error) {
	v, err := versus(c)
	if err != nil {
		return err
	}
	list, err := tests(c)
	if err != nil {
		return err
	}
	asJSON, err := mdOrJSON(c)
	if err != nil {
		return err
	}
	precision, margin := c.Float64("precision"), c.Float64("margin")
	switch {
	case c.NArg() != 2:
		return commandUsage(c, "want two sides A and B, got %d", c.NArg())
	case !(precision > 0) || !(margin >= 0):
		return commandUsage(c, "--precision is %v and --margin %v: want more than 0, and 0 or more", precision, margin)
	}
	v.Enough = func(_ bench.Test, r stats.Ratio) bool { return r.Spread() <= precision }
	sides, err := p.sides(c, c.Args().Slice(), c.String("model"))
	if err != nil {
		return err
	}
	results, err := p.compareSides(c, v, sides, list)
	if err != nil {
		return err
	}
	if !asJSON {
		return p.printVersus(sides, results, margin)
	}
	type record struct {
		CPU     string `json:"cpu_info"`
		Version string `json:"qwenrt_version"`
		SideA   *side  `json:"side_a"`
		SideB   *side  `json:"side_b"`
		bench.Comparison
	}
	records := make([]record, len(results))
	for i, r := range results {
		records[i] = record{machine.CPUName(), runner.Version(), &sides[0], &sides[1], r}
	}
	return p.writeJSON(records)
}

// compareSides runs tests on two sides.
func (p *program) compareSides(c *cli.Context, v bench.Versus, sides [2]side, list []bench.Test) ([]bench.Comparison, error) {
	progress := newProgress(p.stderr)
	defer progress.done()
	if progress.terminal {
		v.Progress = func(t bench.Test, rounds int, r stats.Ratio) {
			progress.begin(fmt.Sprintf("%v: %v after %d rounds", t, r, rounds))
		}
	}
	return v.CompareAfresh(c.Context, sides[0].open, sides[1].open, list)
}

// side is one side of a comparison, and what results say of it; of a program that is not much.
type side struct {
	Name    string `json:"name"`
	Model   string `json:"model_type,omitempty"`
	Hash    string `json:"model_hash,omitempty"`
	Threads int    `json:"n_threads,omitempty"`
	Batch   int    `json:"n_batch,omitempty"`
	open    bench.Opener
}

func (s *side) String() string {
	text := s.Name
	if s.Model != "" {
		text += ", " + s.Model
	}
	if s.Threads > 0 {
		text += fmt.Sprintf(", -t %d -b %d", s.Threads, s.Batch)
	}
	return text
}

// sides are the two that are named; model is for those that are configurations or programs.
func (p *program) sides(c *cli.Context, names []string, model string) (sides [2]side, err error) {
	for i, name := range names {
		if sides[i], err = p.side(c, name, model, sideThreads(c, i)); err != nil {
			break
		}
	}
	return sides, err
}

// side finds out how one side of a comparison is opened.
func (p *program) side(c *cli.Context, name, model string, threads int) (side, error) {
	s := side{Name: name, Threads: threads, Batch: c.Int("batch-size")}
	worker := func(name string, args ...string) bench.Opener {
		return func(context.Context) (bench.Contender, error) { return bench.StartWorker(name, args...) }
	}
	if command, ok := strings.CutPrefix(name, "exec:"); ok {
		return side{Name: name, open: worker("sh", "-c", "exec "+command)}, nil
	}
	if isProgram(name) {
		if model == "" {
			return s, commandUsage(c, "%s is a program: name the model that it is to run with --model", name)
		}
		path, err := filepath.Abs(name)
		s.open = worker(path, "bench", "worker", model, "-t", strconv.Itoa(s.Threads), "-b", strconv.Itoa(s.Batch))
		return s, err
	}
	prepared, err := p.prepareSide(c, name, model)
	if err != nil {
		return s, err
	}
	o := prepared.Options
	if c.IsSet("threads") || o.Threads == 0 {
		o.Threads = s.Threads
	}
	if c.IsSet("batch-size") || o.PrefillChunk == 0 {
		o.PrefillChunk = s.Batch
	}
	described, err := bench.Describe(prepared.File) // reads the files, so that the first opening is like the others
	s.Model, s.Hash, s.Threads, s.Batch = described.Type, described.Hash, o.Threads, o.PrefillChunk
	check := p.checker(prepared)
	s.open = func(ctx context.Context) (bench.Contender, error) {
		r, err := runner.Open(ctx, prepared.File, o)
		if err != nil {
			return nil, err
		}
		if err := check(r); err != nil {
			return nil, errors.Join(err, r.Close())
		}
		subject := bench.Subject{Runner: r, Options: o, Model: described}
		return subject.Contend()
	}
	return s, err
}

// prepareSide prepares a side that is a model, or a configuration with which model is run.
func (p *program) prepareSide(c *cli.Context, name, model string) (*accelerate.Prepared, error) {
	if !isConfig(name) {
		return p.prepare(c, name)
	}
	if model == "" {
		return nil, commandUsage(c, "%s is a configuration: name the model that is run with it with --model", name)
	}
	conf, err := accelerate.ReadConfig(name)
	if err != nil {
		return nil, err
	}
	return p.prepareAs(c, model, conf)
}

// isConfig reports whether a file is a configuration by its name.
func isConfig(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path))
}

// isProgram reports whether a file may be executed, and is neither a model nor a configuration: some file systems let every file be.
func isProgram(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 && !strings.HasSuffix(path, ".onnx") && !isConfig(path)
}

func (p *program) printVersus(sides [2]side, results []bench.Comparison, margin float64) error {
	var b strings.Builder
	fmt.Fprintf(&b, "A: %v\nB: %v\n\n", &sides[0], &sides[1])
	b.WriteString("| test | A, t/s | B, t/s | B to A | interval | rounds | verdict |\n|---|---:|---:|---:|---:|---:|---|\n")
	var ratios []float64
	for _, r := range results {
		x, y := r.Speeds()
		ratios = append(ratios, r.Ratio.Center)
		fmt.Fprintf(&b, "| %v | %.2f | %.2f | %.3fx | %.3f–%.3f | %d | %s |\n", r.Test, x, y,
			r.Ratio.Center, r.Ratio.Lo, r.Ratio.Hi, len(r.A), r.Ratio.Verdict(margin))
	}
	if len(results) > 1 {
		fmt.Fprintf(&b, "| geometric mean | | | %.3fx | | | |\n", stats.GeometricMean(ratios))
	}
	_, err := fmt.Fprint(p.stdout, b.String())
	return err
}

func (p *program) benchWorkerCommand() *cli.Command {
	return &cli.Command{
		Name:      "worker",
		Usage:     "run the tests that another program asks for",
		ArgsUsage: "MODEL",
		UsageText: "qwenrt bench worker MODEL [options]",
		Description: "What bench ab and bench gate start to measure another build of qwenrt; other runtimes may answer in the\n" +
			"same way. It reads tests from standard input, a JSON object a line such as\n" +
			"{\"n_prompt\": 0, \"n_gen\": 4, \"n_depth\": 128}, runs each once, and answers {\"ns\": 104857600} or\n" +
			"{\"error\": \"...\"}. A test that begins at the depth where the last one ended goes on from there.",
		Flags: slices.Concat([]cli.Flag{
			&cli.IntFlag{Name: "threads", Aliases: []string{"t"}, Usage: "CPU threads (default: the CPUs that this process may use)"},
			&cli.IntFlag{Name: "batch-size", Aliases: []string{"b"}, Usage: "tokens of prefill that are run at once", Value: runner.DefaultPrefillChunk},
		}, hubFlags()),
		Action: func(c *cli.Context) error {
			arg, err := argument(c)
			if err != nil {
				return err
			}
			path, err := p.model(c, arg)
			if err != nil {
				return err
			}
			s, err := bench.Open(c.Context, path, runner.Options{Threads: c.Int("threads"), PrefillChunk: c.Int("batch-size")})
			if err != nil {
				return err
			}
			side, err := s.Contend()
			if err != nil {
				return err
			}
			return errors.Join(bench.Serve(c.Context, side, p.stdin, p.stdout), side.Close())
		},
	}
}

func (p *program) benchCompareCommand() *cli.Command {
	return &cli.Command{
		Name:      "compare",
		Usage:     "compare the results of two runs",
		ArgsUsage: "OLD NEW",
		UsageText: "qwenrt bench compare OLD NEW [options]",
		Description: "OLD and NEW are files that qwenrt bench -o json or -o jsonl wrote, or llama-bench. Tests with the same\n" +
			"settings are compared: the ratio is Hodges and Lehmann's, its interval that of the Mann-Whitney test. Runs\n" +
			"that lie apart in time met another machine each; bench ab compares more exactly.\n\n" +
			"Example: qwenrt bench compare old.json new.json",
		Flags: []cli.Flag{
			&cli.Float64Flag{Name: "confidence", Usage: "that the interval holds the ratio", Value: 0.95},
			&cli.Float64Flag{Name: "margin", Usage: "a difference that does not count", Value: 0.01},
			formatFlag("md or json"),
		},
		Action: p.benchCompare,
	}
}

func (p *program) benchCompare(c *cli.Context) error {
	asJSON, err := mdOrJSON(c)
	if err != nil {
		return err
	}
	confidence, margin := c.Float64("confidence"), c.Float64("margin")
	switch {
	case c.NArg() != 2:
		return commandUsage(c, "want two files OLD and NEW, got %d", c.NArg())
	case !(confidence >= 0.5 && confidence < 1) || !(margin >= 0):
		return commandUsage(c, "--confidence is %v and --margin %v: want 0.5 or more, below 1, and 0 or more", confidence, margin)
	}
	var sets [2][]bench.Record
	for i, path := range c.Args().Slice() {
		if sets[i], err = bench.ReadFile(path); err != nil {
			return err
		}
	}
	changes := bench.Changes(sets[0], sets[1], confidence)
	if len(changes) == 0 {
		return errors.New("the files have no test with the same settings")
	}
	if asJSON {
		return p.writeJSON(changes)
	}
	return p.printChanges(changes, margin)
}

func (p *program) printChanges(changes []bench.Change, margin float64) error {
	var b strings.Builder
	b.WriteString("| model | threads | test | old, t/s | new, t/s | new to old | interval | p | runs | verdict |\n|---|---:|---|---:|---:|---:|---:|---:|---:|---|\n")
	var ratios []float64
	for _, r := range changes {
		ratios = append(ratios, r.Ratio.Center)
		fmt.Fprintf(&b, "| %s | %d | %v | %.2f | %.2f | %.3fx | %.3f–%.3f | %.3f | %d+%d | %s |\n", r.Model, r.Threads, r.Test, r.Old, r.New,
			r.Ratio.Center, r.Ratio.Lo, r.Ratio.Hi, r.Ratio.P, r.OldRuns, r.NewRuns, r.Ratio.Verdict(margin))
	}
	fmt.Fprintf(&b, "| geometric mean | | | | | %.3fx | | | | |\n", stats.GeometricMean(ratios))
	_, err := fmt.Fprint(p.stdout, b.String())
	return err
}
