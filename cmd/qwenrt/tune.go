package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/quantize/calib"
	"github.com/qwenrt/qwenrt/runner/accelerate"
	"github.com/qwenrt/qwenrt/runner/tune"
)

func (p *program) tuneCommand() *cli.Command {
	return &cli.Command{
		Name:      "tune",
		Usage:     "find the fastest configuration for this machine by trying",
		ArgsUsage: "HF_DIR",
		Description: "Tries precisions, threads and other settings against each other on the model itself, within a bound on\n" +
			"quality, and writes what it finds as the profile that --compile max_autotune takes. It may be\n" +
			"interrupted: the next call goes on where it was.\n" + checkpointHelp + "\n\n" +
			"Example: qwenrt tune Qwen/Qwen3-0.6B --goal latency --max-kld 0.02",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "goal", Usage: "latency, throughput or memory", Value: string(tune.Latency)},
			&cli.IntFlag{Name: "context", Usage: "tokens of a sequence", Value: 512},
			&cli.Float64Flag{Name: "max-kld", Usage: "the most that predictions may differ from the unquantised model's, as mean KL divergence", Value: tune.DefaultMaxKLD},
			&cli.DurationFlag{Name: "budget", Usage: "the most time that two settings run against each other", Value: tune.DefaultBudget},
			&cli.StringSliceFlag{Name: "dimension", Usage: "search these only: " + strings.Join(tune.DimensionNames(), ", ") + "; may be repeated"},
			&cli.StringFlag{Name: "text", Usage: "`FILE` to compare predictions on", DefaultText: "a built-in text"},
			&cli.StringFlag{Name: "config", Usage: "configuration `FILE` with settings that stay", DefaultText: "none"},
			boolFlag("again", "forget what an earlier call has found"),
			formFlag(),
		}, hubFlags()...),
		Action: p.tune,
	}
}

// tuned is the JSON form.
type tuned struct {
	*tune.Found
	Profile string `json:"profile"`
}

func (p *program) tune(c *cli.Context) error {
	jsonForm, err := asJSON(c)
	if err != nil {
		return err
	}
	arg, err := argument(c)
	if err != nil {
		return err
	}
	for _, name := range []string{"context", "max-kld", "budget"} {
		if v := c.Value(name); c.IsSet(name) && (v == 0 || v == 0.0 || v == time.Duration(0)) {
			return commandUsage(c, "--%s is 0", name)
		}
	}
	from, m, err := p.recommendModel(c)
	if err != nil {
		return err
	}
	s := tune.Search{
		From: *from, Goal: tune.Goal(c.String("goal")), Context: c.Int("context"), MaxKLD: c.Float64("max-kld"),
		Budget: c.Duration("budget"), Dimensions: c.StringSlice("dimension"), Text: calib.BuiltIn()[0].Text,
	}
	if path := c.String("config"); path != "" {
		if s.Base, err = accelerate.ReadConfig(path); err != nil {
			return err
		}
	}
	if path := c.String("text"); path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		s.Text = string(text)
	}
	hash, err := from.Hash()
	if err != nil {
		return err
	}
	profile, err := accelerate.ProfilePath(hash)
	if err != nil {
		return err
	}
	s.State = strings.TrimSuffix(profile, filepath.Ext(profile)) + "-" + string(s.Goal) + ".trials.json"
	if c.Bool("again") {
		if err := os.Remove(s.State); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	progress := newProgress(p.stderr)
	defer progress.done()
	s.Events = tune.Events{Step: progress.begin, Build: progress.events()}
	if !jsonForm {
		s.Tried = func(t tune.Trial) {
			progress.done()
			fmt.Fprintln(p.stdout, trialLine(t))
		}
	}
	found, err := s.Run(c.Context, m)
	if err != nil {
		progress.done()
		if c.Context.Err() != nil {
			fmt.Fprintf(p.stderr, "what was found is kept; go on with: qwenrt tune %s\n", arg)
		}
		return err
	}
	progress.done()
	if profile, err = (accelerate.Profile{Model: hash, Config: found.Best}).Write(); err != nil {
		return err
	}
	if jsonForm {
		return p.writeJSON(tuned{found, profile})
	}
	return printTuned(p.stdout, found, arg, profile)
}

// trialLine tells of a trial while the search goes on.
func trialLine(t tune.Trial) string {
	verdict := "kept"
	if !t.Kept {
		verdict = t.Reason
	}
	ratio := ""
	if t.Ratio > 0 {
		ratio = fmt.Sprintf("%.3fx", t.Ratio)
	}
	return fmt.Sprintf("%-10s %-22s %8s  %s", t.Dimension, t.Value, ratio, verdict)
}

func printTuned(w io.Writer, f *tune.Found, model, profile string) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "\nfrontier\tdecode t/s\tmemory\tKLD\t\n")
	for _, x := range f.Frontier {
		fmt.Fprintf(t, "%s %s\t%.1f\t%s\t%.5f\t\n", x.Dimension, x.Value, x.Decode, bytesText(x.Memory), x.KLD)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\nprofile: %s\nnext: qwenrt run %s --compile max_autotune -p 'What is a harbor?'\n", profile, model)
	return err
}
