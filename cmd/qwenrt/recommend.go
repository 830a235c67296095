package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/quantize/calib"
	"github.com/qwenrt/qwenrt/runner/accelerate"
	"github.com/qwenrt/qwenrt/runner/tune"
)

func (p *program) recommendCommand() *cli.Command {
	return &cli.Command{
		Name:      "recommend",
		Usage:     "say which configuration suits this machine",
		ArgsUsage: "[HF_DIR]",
		Description: "Looks at the machine, measures its kernels for two seconds, and says which configuration to use, why,\n" +
			"and what to expect.\n" + checkpointHelp + "\nWithout one, the answer is for a model of the shape of Qwen3-0.6B.\n\n" +
			"Example: qwenrt recommend Qwen/Qwen3-0.6B --goal latency --context 4096",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "device", Usage: "auto, cpu, cuda or coreml", Value: string(accelerate.DefaultDevice)},
			&cli.StringFlag{Name: "goal", Usage: "latency, throughput, memory or quality", Value: string(tune.Latency)},
			&cli.IntFlag{Name: "context", Usage: "tokens of a sequence", Value: tune.DefaultContext},
			&cli.StringFlag{Name: "memory", Usage: "the most that the process may take, such as 4GB", DefaultText: "what is free"},
			boolFlag("compare", "show all configurations, with what to expect of each"),
			boolFlag("measure", "with --compare: make and run them all, which takes minutes"),
			boolFlag("list-all", "show every option of a configuration, with its default and what it does"),
			formFlag(),
		}, hubFlags()...),
		Action: p.recommend,
	}
}

// recommended is the JSON form.
type recommended struct {
	*tune.Advice
	Command  string          `json:"command"`
	Measured []tune.Measured `json:"measured,omitempty"`
	Checks   []tune.Check    `json:"checks,omitempty"`
}

func (p *program) recommend(c *cli.Context) error {
	jsonForm, err := asJSON(c)
	if err != nil {
		return err
	}
	if c.Bool("list-all") {
		if err := noArguments(c); err != nil {
			return err
		}
		if jsonForm {
			return p.writeJSON(tune.Settings())
		}
		return printSettings(p.stdout, tune.Settings())
	}
	q, err := recommendRequest(c)
	if err != nil {
		return err
	}
	from, m, err := p.recommendModel(c)
	if err != nil {
		return err
	}
	progress := newProgress(p.stderr)
	defer progress.done()
	progress.begin("measuring kernels")
	a, err := tune.Recommend(c.Context, m, q)
	if err != nil {
		return err
	}
	progress.done()
	r := recommended{Advice: a, Command: fmt.Sprintf("qwenrt build %s -o OUT %s", argumentOr(c, "HF_DIR"), a.Best.Flags)}
	if c.Bool("measure") {
		e := tune.Events{Step: progress.begin, Build: progress.events()}
		if r.Measured, err = tune.Measure(c.Context, *from, a, calib.BuiltIn()[0].Text, e); err != nil {
			return err
		}
		progress.done()
		r.Checks = a.Judge(r.Measured)
	}
	if jsonForm {
		return p.writeJSON(r)
	}
	return printRecommended(p.stdout, r, m, c.Bool("compare"))
}

func argumentOr(c *cli.Context, otherwise string) string {
	if c.NArg() > 0 {
		return c.Args().First()
	}
	return otherwise
}

func recommendRequest(c *cli.Context) (q tune.Request, err error) {
	q = tune.Request{Device: accelerate.Device(c.String("device")), Goal: tune.Goal(c.String("goal"))}
	if c.IsSet("context") {
		if q.Context = c.Int("context"); q.Context < 1 {
			return q, commandUsage(c, "--context is %d: want 1 or more", q.Context)
		}
	}
	if c.IsSet("memory") {
		bytes, err := humanize.ParseBytes(c.String("memory"))
		if err != nil || bytes == 0 || bytes > 1<<62 {
			return q, commandUsage(c, "--memory %q: want a size such as 4GB", c.String("memory"))
		}
		q.Memory = int64(bytes)
	}
	if c.Bool("measure") && (!c.Bool("compare") || c.NArg() == 0) {
		return q, commandUsage(c, "--measure goes with --compare and a model")
	}
	return q, nil
}

// recommendModel reads the shape of the model that the command line names; without one there is no source.
func (p *program) recommendModel(c *cli.Context) (*accelerate.Source, tune.Model, error) {
	if c.NArg() == 0 {
		return nil, tune.Qwen3Small(), nil
	}
	arg, err := argument(c)
	if err != nil {
		return nil, tune.Model{}, err
	}
	from, err := p.source(c, arg)
	if err != nil {
		return nil, tune.Model{}, err
	}
	files := from.FS
	if files == nil {
		files = os.DirFS(from.Dir)
	}
	text, err := fs.ReadFile(files, "config.json")
	if err != nil {
		return nil, tune.Model{}, fmt.Errorf("%s: %w", arg, err)
	}
	m, err := tune.ParseModel(text)
	if err != nil {
		return nil, m, fmt.Errorf("%s: %w", arg, err)
	}
	return &from, m, nil
}

func printRecommended(w io.Writer, r recommended, m tune.Model, compare bool) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	on, b := r.Machine, r.Best
	line("machine", "%s, %d threads; %s; %s", on.CPU, on.Threads, strings.Join(on.Features, " "), memoryText(on.Memory))
	for _, g := range on.GPUs {
		line("", "%s, %s", g.Name, bytesText(g.Memory))
	}
	line("model", "%d layers of %d, %.2f billion weights", m.Layers, m.Layer.Hidden, float64(m.Weights())/1e9)
	line("goal", "%s, at %d tokens of context", r.Goal, r.Context)
	line("", "")
	line("use", "%s", b.Name)
	line("command", "%s", r.Command)
	for i, why := range r.Why {
		line(map[bool]string{true: "why"}[i == 0], "%s", why)
	}
	line("memory", "%s = %s weights + %s KV cache + %s activations + the program", bytesText(b.Memory.Total),
		bytesText(b.Memory.Weights), bytesText(b.Memory.KV), bytesText(b.Memory.Activations))
	if decode, prefill := r.Formula(m, b); decode != "" {
		line("decode", "%.1f tokens/s = %s", b.Speed.Decode, decode)
		line("prefill", "%.0f tokens/s = %s", b.Speed.Prefill, prefill)
	}
	if err := t.Flush(); err != nil || !compare {
		return err
	}
	_, err := io.WriteString(w, "\n"+comparison(r))
	return err
}

// comparison is a table in Markdown.
func comparison(r recommended) string {
	measured := map[string]tune.Measured{}
	for _, m := range r.Measured {
		measured[m.Name] = m
	}
	var b strings.Builder
	b.WriteString("| | memory | prefill t/s | decode t/s | KLD¹ |")
	if len(measured) > 0 {
		b.WriteString(" measured: memory | prefill | decode | KLD | top-1 |")
	}
	b.WriteString(" when |\n|---|---:|---:|---:|---:|")
	if len(measured) > 0 {
		b.WriteString("---:|---:|---:|---:|---:|")
	}
	b.WriteString("---|\n")
	for _, e := range r.All {
		memory := bytesText(e.Memory.Total)
		if !e.Fits {
			memory += " (too much)"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %.5f |", e.Name, memory, speed("%.0f", e.Speed.Prefill), speed("%.1f", e.Speed.Decode), e.KLD)
		if m, ok := measured[e.Name]; ok {
			fmt.Fprintf(&b, " %s | %.0f | %.1f | %.5f | %.1f %% |", bytesText(m.MeasuredMemory), m.MeasuredSpeed.Prefill, m.MeasuredSpeed.Decode, m.MeasuredKLD, 100*m.Top1)
		} else if len(measured) > 0 {
			b.WriteString(" | | | | |")
		}
		fmt.Fprintf(&b, " %s |\n", e.When)
	}
	b.WriteString("\n¹ KL divergence from fp32 on the carried model; larger models lose less.\n")
	for _, c := range r.Checks {
		fmt.Fprintf(&b, "%s: recommended %s, best measured %s, ratio %.2f\n", c.Goal, c.Recommended, c.Best, c.Ratio)
	}
	return b.String()
}

// speed is empty where nothing is known.
func speed(format string, v float64) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf(format, v)
}

func printSettings(w io.Writer, all []tune.Setting) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "option\tdefault\twhat it does")
	for _, s := range all {
		fmt.Fprintf(t, "%s\t%s\t%s\n", s.Name, s.Default, s.Effect)
	}
	return t.Flush()
}
