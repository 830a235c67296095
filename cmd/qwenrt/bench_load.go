package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/runner/accelerate"
	"github.com/qwenrt/qwenrt/runner/bench"
)

// loadConfig reads the flags of whole generations.
func loadConfig(c *cli.Context) (bench.LoadConfig, error) {
	config := bench.LoadConfig{
		Concurrency: []int{1}, Prompt: c.IntSlice("n-prompt")[0], Gen: c.IntSlice("n-gen")[0],
		Repetitions: c.Int("repetitions"), NoWarmup: c.Bool("no-warmup"), Seed: c.Uint64("seed"),
	}
	if c.IsSet("concurrency") {
		config.Concurrency = c.IntSlice("concurrency")
	}
	if format := bench.Format(c.String("output")); format != bench.Markdown && format != bench.JSON {
		return config, commandUsage(c, "--concurrency and --prompt-file are written as md or json, not as %s", format)
	}
	if slices.Min(config.Concurrency) < 1 || config.Gen < 1 || config.Prompt < 1 && !c.IsSet("prompt-file") {
		return config, commandUsage(c, "--concurrency, -n and -p: want 1 or more")
	}
	if !c.IsSet("prompt-file") {
		return config, nil
	}
	f, err := os.Open(c.String("prompt-file"))
	if err != nil {
		return config, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPrompt+1))
	if err == nil && (len(text) == 0 || len(text) > maxPrompt) {
		err = fmt.Errorf("%s: a prompt of %d bytes: want 1 to %d", f.Name(), len(text), maxPrompt)
	}
	config.Text = string(text)
	return config, err
}

func (p *program) benchLoad(c *cli.Context, m *accelerate.Prepared, config bench.LoadConfig) error {
	levels := []bench.Load{}
	for _, threads := range threadCounts(c) {
		o := m.Options
		o.Threads, o.PrefillChunk = threads, c.IntSlice("batch-size")[0]
		if c.IsSet("concurrency") {
			o.Slots = slices.Max(config.Concurrency)
		}
		s, err := bench.Open(c.Context, m.File, o)
		if err != nil {
			return err
		}
		l, err := bench.MeasureLoad(c.Context, s, config)
		s.Close()
		if err != nil {
			return err
		}
		levels = append(levels, l...)
	}
	if bench.Format(c.String("output")) == bench.JSON {
		return p.writeJSON(levels)
	}
	var b strings.Builder
	b.WriteString("| threads | at once | requests | prompt | new | tokenising | prefill t/s | decoding t/s | all new t/s | with prompts t/s | TTFT p50, p90, p99 | TPOT p50, p90, p99 |\n" +
		"|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, l := range levels {
		fmt.Fprintf(&b, "| %d | %d | %d | %d | %d | %s | %.1f | %.1f | %.1f | %.1f | %s | %s |\n", l.Threads, l.Concurrency, l.Requests, l.Prompt, l.Gen,
			millisecondsText(time.Duration(l.Tokenize)), l.PromptTS, l.DecodeTS, l.OutputTS, l.TotalTS, percentilesText(l.TTFT), percentilesText(l.TPOT))
	}
	_, err := fmt.Fprint(p.stdout, b.String())
	return err
}

func percentilesText(t bench.Percentiles) string {
	return fmt.Sprintf("%.1f, %.1f, %.1f ms", float64(t.P50)/1e6, float64(t.P90)/1e6, float64(t.P99)/1e6)
}
