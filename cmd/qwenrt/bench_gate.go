package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/internal/atomicfile"
	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/bench"
	"github.com/qwenrt/qwenrt/runner/bench/gate"
	"github.com/qwenrt/qwenrt/runner/bench/stats"
	"github.com/qwenrt/qwenrt/runner/eval"
	"github.com/qwenrt/qwenrt/runner/machine"
)

func (p *program) benchGateCommand() *cli.Command {
	return &cli.Command{
		Name:      "gate",
		Usage:     "fail where a model has become slower, larger or worse",
		ArgsUsage: "MODEL",
		UsageText: "qwenrt bench gate MODEL --against REFERENCE [options]\nqwenrt bench gate MODEL --baseline FILE [options]",
		Description: "Compares MODEL with another in the same run, with values that a file has, or speeds with the one and the\n" +
			"rest with the other. The exit code is 0 where all is within the limits, 1 where something is beyond, and 3\n" +
			"where the machine was too noisy to say, or the file has no value for it.\n" +
			"REFERENCE is " + sideHelp + "\n\n" +
			"Metrics, with their limits:\n" + metricHelp() + "\n" +
			"Example: qwenrt bench gate build/int4 --against main/int4 --threshold 5% -p 128 -n 64 -t 2",
		Flags: slices.Concat([]cli.Flag{
			&cli.StringFlag{Name: "against", Usage: "what to compare with in the same run"},
			&cli.StringFlag{Name: "baseline", Usage: "`FILE` of values to compare with"},
			boolFlag("update-baseline", "write what was measured to the file of --baseline, and pass"),
			&cli.StringFlag{Name: "threshold", Usage: "how much slower is still the same", Value: "5%"},
			&cli.StringSliceFlag{Name: "metric", Usage: "`NAME[=LIMIT],...` to look at; LIMIT is 5%, or 0.01 where it is absolute; a test's name has a limit for its speed"},
			&cli.StringFlag{Name: "machine", Usage: "class of this machine in the file", Value: machineClass()},
			&cli.StringFlag{Name: "text", Usage: "`FILE` of text for perplexity"},
			&cli.StringFlag{Name: "reference", Usage: "`MODEL` from which KL divergence is measured"},
			&cli.IntFlag{Name: "ctx", Aliases: []string{"c"}, Usage: "tokens in a chunk of text", Value: eval.DefaultContext},
			&cli.IntFlag{Name: "chunks", Usage: "measure the first `N` chunks of text only (default: all)"},
			&cli.StringFlag{Name: "junit", Usage: "write JUnit XML to `FILE`"},
			&cli.StringFlag{Name: "summary", Usage: "append the table to `FILE`, such as $GITHUB_STEP_SUMMARY"},
			boolFlag("annotations", "write GitHub's annotations to standard error"),
			&cli.StringFlag{Name: "history", Usage: "append the values to `FILE`, see qwenrt bench history"},
			&cli.StringFlag{Name: "label", Usage: "of this run in the history, such as a commit"},
		}, testFlags([]int{128}, []int{64}), versusFlags(), hubFlags()),
		Action: p.benchGate,
	}
}

// gated is a metric of bench gate.
type gated struct {
	gate.Metric
	limit string
	about string
	group string // what is measured together
}

const speedMetric = "speed"

// gatedMetrics lists the metrics. Limits are what an unchanged build stays within: counts do not move, sums in another order
// move perplexity a little.
var gatedMetrics = []gated{
	{gate.Metric{Name: speedMetric}, "", "of each test", speedMetric},
	{gate.Metric{Name: "nodes", Unit: "operators", Better: gate.Lower}, "0", "in the graph", "counts"},
	{gate.Metric{Name: "kernels", Unit: "operators", Better: gate.Lower}, "0", "run in a decode step", "counts"},
	{gate.Metric{Name: "traffic", Unit: "bytes", Better: gate.Lower}, "1%", "that they read and write", "counts"},
	{gate.Metric{Name: "bytes", Unit: "bytes", Better: gate.Lower}, "1%", "of the model", "counts"},
	{gate.Metric{Name: "allocs", Unit: "allocations", Better: gate.Lower}, "0", "in a decode step", "counts"},
	{gate.Metric{Name: "instructions", Unit: "instructions", Better: gate.Lower, Machine: true}, "1%", "in a decode step on one thread", "instructions"},
	{gate.Metric{Name: "hash", Better: gate.Equal}, "0", "of the model's files", "hash"},
	{gate.Metric{Name: "memory", Unit: "bytes", Better: gate.Lower, Machine: true}, "10%", "peak of a process that runs the tests once", "memory"},
	{gate.Metric{Name: "ppl", Better: gate.Lower}, "0.5%", "perplexity on --text", "accuracy"},
	{gate.Metric{Name: "kld", Unit: "nats", Better: gate.Lower}, "10%", "KL divergence from --reference", "accuracy"},
	{gate.Metric{Name: "top1", Better: gate.Higher}, "0.01", "agreement with --reference", "accuracy"},
}

// metricHelp is a line for each metric.
func metricHelp() string {
	var b strings.Builder
	for _, m := range gatedMetrics {
		fmt.Fprintf(&b, "   %-14s%s", m.Name, m.about)
		if m.limit != "" && m.Better != gate.Equal {
			b.WriteString(", " + m.limit)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// machineClass tells machines apart whose speeds are not to be compared.
func machineClass() string {
	name := machine.CPUName()
	return fmt.Sprintf("%s-%s, %s, %d CPUs", runtime.GOOS, runtime.GOARCH, strings.Join(strings.Fields(name), " "), runtime.NumCPU())
}

// gateJob is one call of bench gate.
type gateJob struct {
	p       *program
	c       *cli.Context
	model   string // as named
	path    string // of its .onnx file
	tests   []bench.Test
	metrics []gated
	limits  map[string]gate.Limit // by metric or test
	versus  bench.Versus
	base    *gate.Baseline // nil without --baseline
	update  bool
	report  gate.Report

	uncounted string // why there are no instructions
}

func (p *program) benchGate(c *cli.Context) error {
	arg, err := argument(c)
	if err != nil {
		return err
	}
	j := &gateJob{p: p, c: c, model: arg, update: c.Bool("update-baseline")}
	if err := j.read(); err != nil {
		return err
	}
	if j.path, err = p.model(c, arg); err != nil {
		return err
	}
	if err := j.measure(); err != nil {
		return err
	}
	if err := j.write(); err != nil {
		return err
	}
	switch verdict := j.report.Verdict(); {
	case j.update || verdict == gate.Pass:
		return nil
	case verdict == gate.Regression:
		return errReported
	default:
		return reported(exitUnsure)
	}
}

// read reads the flags and the file of --baseline.
func (j *gateJob) read() (err error) {
	c := j.c
	if j.versus, err = versus(c); err != nil {
		return err
	}
	if j.tests, err = tests(c); err != nil {
		return err
	}
	against, baseline := c.String("against"), c.String("baseline")
	switch {
	case against == "" && baseline == "":
		return commandUsage(c, "missing --against REFERENCE or --baseline FILE")
	case j.update && baseline == "":
		return commandUsage(c, "--update-baseline needs --baseline FILE")
	case c.Int("ctx") < 1 || c.Int("chunks") < 0:
		return commandUsage(c, "--ctx is %d and --chunks %d: want 1 or more, and 0 or more", c.Int("ctx"), c.Int("chunks"))
	}
	if err := j.readMetrics(); err != nil {
		return err
	}
	if baseline != "" {
		if j.base, err = gate.ReadBaseline(baseline); err != nil {
			return err
		}
	}
	j.report = gate.Report{Model: j.model, Against: cmp.Or(against, baseline), Machine: c.String("machine")}
	return nil
}

// readMetrics reads --metric and --threshold.
func (j *gateJob) readMetrics() error {
	c := j.c
	j.limits = map[string]gate.Limit{}
	set := func(name, text string) error {
		l, err := gate.ParseLimit(text)
		if err != nil {
			return commandUsage(c, "%s: %s", name, strings.TrimPrefix(err.Error(), "gate: "))
		}
		j.limits[name] = l
		return nil
	}
	if err := set(speedMetric, c.String("threshold")); err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, text := range c.StringSlice("metric") {
		name, limit, limited := strings.Cut(text, "=")
		isTest := slices.ContainsFunc(j.tests, func(t bench.Test) bool { return t.String() == name })
		if !isTest && !slices.ContainsFunc(gatedMetrics, func(m gated) bool { return m.Name == name }) {
			return commandUsage(c, "--metric %q: want one of %s, or a test such as %v", name, metricNames(), j.tests[0])
		}
		if isTest {
			wanted[speedMetric] = true
		}
		wanted[name] = true
		if limited {
			if err := set(name, limit); err != nil {
				return err
			}
		}
	}
	if len(wanted) == 0 {
		j.defaultMetrics(wanted)
	}
	for _, m := range gatedMetrics {
		if !wanted[m.Name] {
			continue
		}
		if _, has := j.limits[m.Name]; !has {
			if err := set(m.Name, m.limit); err != nil {
				return err
			}
		}
		switch {
		case m.group == "accuracy" && !c.IsSet("text"):
			return commandUsage(c, "--metric %s needs --text FILE", m.Name)
		case (m.Name == "kld" || m.Name == "top1") && !c.IsSet("reference"):
			return commandUsage(c, "--metric %s needs --reference MODEL", m.Name)
		}
		j.metrics = append(j.metrics, m)
	}
	return nil
}

// defaultMetrics are those that what is given can tell: speeds against another model, and counts against a file.
func (j *gateJob) defaultMetrics(wanted map[string]bool) {
	wanted[speedMetric] = j.c.IsSet("against")
	for _, m := range gatedMetrics {
		if m.group == "counts" {
			wanted[m.Name] = j.c.IsSet("baseline")
		}
	}
	wanted["ppl"] = j.c.IsSet("text")
	wanted["kld"] = j.c.IsSet("text") && j.c.IsSet("reference")
	wanted["top1"] = wanted["kld"]
}

func metricNames() string {
	var names []string
	for _, m := range gatedMetrics {
		names = append(names, m.Name)
	}
	return strings.Join(names, ", ")
}

// measure fills the report in, what is cheap to know first.
func (j *gateJob) measure() error {
	fresh, err := j.values(j.path, sideThreads(j.c, 1))
	if err != nil {
		return err
	}
	var old map[string]gate.Value
	if against := j.c.String("against"); against != "" && j.base == nil && len(fresh) > 0 {
		if isProgram(against) || strings.HasPrefix(against, "exec:") {
			return commandUsage(j.c, "%s is a program, which can tell speeds alone: use --baseline FILE for the other metrics", against)
		}
		side, err := j.p.prepareSide(j.c, against, j.model)
		if err != nil {
			return err
		}
		if old, err = j.values(side.File, sideThreads(j.c, 0)); err != nil {
			return err
		}
	}
	for _, m := range j.metrics {
		switch value, measured := fresh[m.Name]; {
		case m.Name == speedMetric && j.c.IsSet("against"):
			err = j.speedsAgainst()
		case m.Name == speedMetric:
			err = j.speedsOfBaseline()
		case measured && old != nil:
			j.add(gate.Compare(m.Metric, old[m.Name], value, j.limits[m.Name]))
		case measured:
			j.compareWithBaseline(m.Metric, value)
		default:
			j.add(gate.Absent(m.Metric, gate.Value{Absent: true}, j.limits[m.Name], j.uncounted))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (j *gateJob) add(l gate.Line) { j.report.Lines = append(j.report.Lines, l) }

func (j *gateJob) compareWithBaseline(m gate.Metric, value gate.Value) {
	old, known := j.base.Lookup(m, j.report.Machine)
	switch {
	case j.update:
		j.base.Set(m, j.report.Machine, value)
		j.add(gate.Recorded(m, value, j.limits[m.Name]))
	case known:
		j.add(gate.Compare(m, old, value, j.limits[m.Name]))
	default:
		j.add(gate.Absent(m, value, j.limits[m.Name], j.noValue()))
	}
}

func (j *gateJob) noValue() string {
	return fmt.Sprintf("%s has no value for this machine: use --update-baseline", j.c.String("baseline"))
}

// values measures what the metrics ask for, speeds left out.
func (j *gateJob) values(path string, threads int) (map[string]gate.Value, error) {
	groups := map[string]bool{}
	for _, m := range j.metrics {
		groups[m.group] = true
	}
	values := map[string]gate.Value{}
	if groups["counts"] {
		n, err := bench.Count(j.c.Context, path, runner.Options{Threads: threads}, 0)
		if err != nil {
			return nil, err
		}
		values["nodes"], values["kernels"] = gate.Value{Number: float64(n.Nodes)}, gate.Value{Number: float64(n.Kernels)}
		values["traffic"], values["bytes"] = gate.Value{Number: float64(n.Traffic)}, gate.Value{Number: float64(n.Bytes)}
		values["allocs"] = gate.Value{Number: n.Allocs}
	}
	if groups["instructions"] {
		switch n, err := bench.Instructions(j.c.Context, path, runner.Options{}, 0); {
		case err == nil:
			values["instructions"] = gate.Value{Number: n}
		case errors.Is(err, bench.ErrNoCounter):
			j.uncounted = oneLine(err)
		default:
			return nil, err
		}
	}
	if groups["hash"] {
		m, err := bench.Describe(path)
		if err != nil {
			return nil, err
		}
		values["hash"] = gate.Value{Text: m.Hash}
	}
	if groups["memory"] {
		peak, err := j.peakMemory(path, threads)
		if err != nil {
			return nil, err
		}
		values["memory"] = gate.Value{Number: float64(peak)}
	}
	if groups["accuracy"] {
		r, err := j.accuracy(path, threads)
		if err != nil {
			return nil, err
		}
		values["ppl"] = gate.Value{Number: r.Perplexity}
		if d := r.Divergence; d != nil {
			values["kld"], values["top1"] = gate.Value{Number: d.KLD.Mean}, gate.Value{Number: d.Top1}
		}
	}
	return values, nil
}

// peakMemory runs the tests in a process of its own: this one has had other models in memory.
func (j *gateJob) peakMemory(path string, threads int) (int64, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	args := []string{"bench", path, "-t", strconv.Itoa(threads), "-b", strconv.Itoa(j.c.Int("batch-size")), "-r", "1", "--no-warmup", "-o", "json"}
	for _, name := range []string{"n-prompt", "n-gen", "n-depth"} {
		for _, n := range j.c.IntSlice(name) {
			args = append(args, "--"+name, strconv.Itoa(n))
		}
	}
	for _, pg := range *j.c.Generic("pg").(*pairs) {
		args = append(args, "--pg", fmt.Sprintf("%d,%d", pg.Prompt, pg.Gen))
	}
	run := exec.CommandContext(j.c.Context, self, args...)
	run.Stderr = j.p.stderr
	out, err := run.Output()
	if err != nil {
		return 0, fmt.Errorf("measure memory: %w", err)
	}
	var records []bench.Record
	if err := json.Unmarshal(out, &records); err != nil {
		return 0, fmt.Errorf("measure memory: %w", err)
	}
	peak := int64(0)
	for _, r := range records {
		peak = max(peak, r.PeakRSS)
	}
	return peak, nil
}

func (j *gateJob) accuracy(path string, threads int) (result *eval.Result, err error) {
	o := eval.Options{Context: j.c.Int("ctx"), Chunks: j.c.Int("chunks")}
	open := func(path string) (*runner.Runner, error) {
		return runner.Open(j.c.Context, path, runner.Options{Threads: threads, PrefillChunk: o.Context})
	}
	if j.c.IsSet("reference") {
		file, err := j.p.model(j.c, j.c.String("reference"))
		if err != nil {
			return nil, err
		}
		reference, err := open(file)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, reference.Close()) }()
		o.Reference = eval.ModelReference(reference)
	}
	r, err := open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return j.p.measure(j.c, r, o, j.model)
}

// speedLimit is that of a test, or of all of them.
func (j *gateJob) speedLimit(t bench.Test) gate.Limit {
	if l, own := j.limits[t.String()]; own {
		return l
	}
	return j.limits[speedMetric]
}

// speedsAgainst compares speeds with --against in this run.
func (j *gateJob) speedsAgainst() error {
	v := j.versus
	v.Enough = func(t bench.Test, r stats.Ratio) bool { return gate.Sure(r, j.speedLimit(t)) }
	against, model := j.c.String("against"), j.path
	if isConfig(against) { // it may ask for other weights
		model = j.model
	}
	sides, err := j.p.sides(j.c, []string{against, j.path}, model)
	if err != nil {
		return err
	}
	results, err := j.p.compareSides(j.c, v, sides, j.tests)
	if err != nil {
		return err
	}
	for _, r := range results {
		old, fresh := r.Speeds()
		j.add(gate.Speed(r.Test.String(), old, fresh, r.Ratio, j.speedLimit(r.Test)))
	}
	return nil
}

// speedsOfBaseline compares speeds with those of the file: for machines that do nothing else.
func (j *gateJob) speedsOfBaseline() (err error) {
	s, err := bench.Open(j.c.Context, j.path, runner.Options{Threads: sideThreads(j.c, 1), PrefillChunk: j.c.Int("batch-size")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	for _, t := range j.tests {
		m := gate.Metric{Name: t.String(), Unit: "t/s", Better: gate.Higher, Machine: true}
		limit := j.speedLimit(t)
		old, known := j.base.Lookup(m, j.report.Machine)
		known = known && len(old.Times) > 0
		var ratio stats.Ratio
		times, err := s.Times(j.c.Context, t, j.versus.Budget, func(looks int, times []float64) bool {
			if !known || j.update {
				return len(times) >= baselineTimes
			}
			ratio = stats.Unpaired(old.Times, times, stats.Look(j.versus.Confidence, looks))
			return gate.Sure(ratio, limit)
		})
		if err != nil {
			return err
		}
		fresh := gate.Value{Number: t.Speed(stats.Median(times)), Times: times}
		switch {
		case j.update:
			j.base.Set(m, j.report.Machine, fresh)
			j.add(gate.Recorded(m, fresh, limit))
		case known:
			j.add(gate.Speed(t.String(), old.Number, fresh.Number, ratio, limit))
		default:
			j.add(gate.Absent(m, fresh, limit, j.noValue()))
		}
	}
	return nil
}

// baselineTimes is the number of repetitions that a baseline keeps.
const baselineTimes = 20

// write writes the report where the flags say, and the baseline.
func (j *gateJob) write() error {
	c, r := j.c, &j.report
	if err := r.WriteMarkdown(j.p.stdout); err != nil {
		return err
	}
	if c.Bool("annotations") {
		if err := r.WriteAnnotations(j.p.stderr); err != nil {
			return err
		}
	}
	if path := c.String("junit"); path != "" {
		if err := newFile(path, r.WriteJUnit); err != nil {
			return err
		}
	}
	if path := c.String("summary"); path != "" {
		if err := appendFile(path, r.WriteMarkdown); err != nil {
			return err
		}
	}
	if path := c.String("history"); path != "" {
		label := c.String("label")
		if err := appendFile(path, r.Entry(time.Now(), label).Write); err != nil {
			return err
		}
	}
	if !j.update {
		return nil
	}
	text, err := j.base.Encode()
	if err != nil {
		return err
	}
	return atomicfile.WriteBytes(c.String("baseline"), 0o666, text)
}

// appendFile has lines added to a file, which is made where it is not there.
func appendFile(path string, write func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

func (p *program) benchHistoryCommand() *cli.Command {
	return &cli.Command{
		Name:      "history",
		Usage:     "draw what bench gate --history wrote",
		ArgsUsage: "FILE",
		UsageText: "qwenrt bench history FILE --chart OUT.svg",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "chart", Usage: "write the drawing to `FILE` as SVG"},
		},
		Action: func(c *cli.Context) error {
			arg, err := argument(c)
			if err != nil {
				return err
			}
			if c.String("chart") == "" {
				return commandUsage(c, "missing --chart FILE")
			}
			f, err := os.Open(filepath.Clean(arg))
			if err != nil {
				return err
			}
			defer f.Close()
			entries, err := gate.ReadHistory(f)
			if err != nil {
				return err
			}
			return newFile(c.String("chart"), func(w io.Writer) error { return gate.WriteChart(w, entries) })
		},
	}
}
