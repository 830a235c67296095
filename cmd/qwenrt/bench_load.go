package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/accelerate"
	"github.com/qwenrt/qwenrt/runner/bench"
)

// loadConfigs reads the flags of whole generations: a configuration for each prompt and each length of an answer.
func loadConfigs(c *cli.Context) ([]bench.LoadConfig, error) {
	format := bench.Format(c.String("output"))
	levels, prompts := []int{1}, c.IntSlice("n-prompt")
	if c.IsSet("concurrency") {
		levels = c.IntSlice("concurrency")
	}
	switch {
	case format != bench.Markdown && format != bench.JSON:
		return nil, commandUsage(c, "--concurrency and --prompt-file are written as md or json, not as %s", format)
	case c.IsSet("output-err"):
		return nil, commandUsage(c, "--concurrency and --prompt-file have no --output-err")
	case c.IsSet("n-depth") || c.IsSet("pg"):
		return nil, commandUsage(c, "--concurrency and --prompt-file time whole generations: they have no --n-depth and no --pg")
	case c.IsSet("prompt-file") && c.IsSet("n-prompt"):
		return nil, commandUsage(c, "--prompt-file or --n-prompt, not both")
	case slices.Min(slices.Concat(levels, c.IntSlice("n-gen"), prompts)) < 1:
		return nil, commandUsage(c, "--concurrency, -n and -p: want 1 or more")
	}
	text := ""
	if c.IsSet("prompt-file") {
		var err error
		if text, err = promptFile(c.String("prompt-file")); err != nil {
			return nil, err
		}
		prompts = []int{0}
	}
	var configs []bench.LoadConfig
	for _, prompt := range prompts {
		for _, gen := range c.IntSlice("n-gen") {
			configs = append(configs, bench.LoadConfig{
				Concurrency: levels, Prompt: prompt, Text: text, Gen: gen,
				Repetitions: c.Int("repetitions"), NoWarmup: c.Bool("no-warmup"), Seed: c.Uint64("seed"),
			})
		}
	}
	return configs, nil
}

func promptFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPrompt+1))
	if err == nil && (len(text) == 0 || len(text) > maxPrompt) {
		err = fmt.Errorf("%s: a prompt of %d bytes: want 1 to %d", path, len(text), maxPrompt)
	}
	return string(text), err
}

func (p *program) benchLoad(c *cli.Context, m *accelerate.Prepared, configs []bench.LoadConfig) error {
	levels := []bench.Load{}
	check := p.checker(m)
	for _, threads := range threadCounts(c, m.Options) {
		for _, batch := range chunks(c, m.Options) {
			o := m.Options
			o.Threads, o.PrefillChunk = threads, batch
			if c.IsSet("concurrency") {
				o.Slots = slices.Max(c.IntSlice("concurrency"))
			}
			measured, err := loadSession(c.Context, m.File, o, configs, check)
			if err != nil {
				return err
			}
			levels = append(levels, measured...)
		}
	}
	if bench.Format(c.String("output")) == bench.JSON {
		return p.writeJSON(levels)
	}
	var b strings.Builder
	b.WriteString("| threads | chunk | at once | requests | prompt | new | tokenising | prefill t/s | decoding t/s | all new t/s | with prompts t/s | TTFT p50, p90, p99 | TPOT p50, p90, p99 |\n" +
		"|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, l := range levels {
		fmt.Fprintf(&b, "| %d | %d | %d | %d | %d | %d | %s | %.1f | %.1f | %.1f | %.1f | %s | %s |\n", l.Threads, l.Batch, l.Concurrency, l.Requests, l.Prompt, l.Gen,
			millisecondsText(time.Duration(l.Tokenize)), l.PromptTS, l.DecodeTS, l.OutputTS, l.TotalTS, percentilesText(l.TTFT), percentilesText(l.TPOT))
	}
	_, err := fmt.Fprint(p.stdout, b.String())
	return err
}

// loadSession measures one session.
func loadSession(ctx context.Context, path string, o runner.Options, configs []bench.LoadConfig, check func(*runner.Runner) error) (levels []bench.Load, err error) {
	s, err := bench.Open(ctx, path, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := check(s.Runner); err != nil {
		return nil, err
	}
	for _, config := range configs {
		measured, err := bench.MeasureLoad(ctx, s, config)
		if err != nil {
			return nil, err
		}
		levels = append(levels, measured...)
	}
	return levels, nil
}

func percentilesText(t bench.Percentiles) string {
	return fmt.Sprintf("%.1f, %.1f, %.1f ms", float64(t.P50)/1e6, float64(t.P90)/1e6, float64(t.P99)/1e6)
}
