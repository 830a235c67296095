// Command claims measures what each kind of acceleration brings, against the plain graph: speed, memory, and, as a rule, less than is
// claimed somewhere.
//
//	go run ./scripts/claims [-qwenrt bin/qwenrt] [-rounds 3] [-only GLOB] CHECKPOINT
//
// Each row is a way to run the checkpoint, as flags of `qwenrt bench`; the models are built in the user's cache first. Rounds go
// through all rows in turn, so that a machine that slows down does so for all; the table has medians. Memory is what the process has
// allocated at the end (RssAnon).
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"strings"

	"github.com/qwenrt/qwenrt/runner/bench/stats"
)

// way is a row.
type way struct {
	name, claim string // what others claim: speed, memory
	flags       string
}

const plain = "--precision none --attention plain --fused-kernels=false --compile off"

// briefly calibrates on a little text: speed and memory do not depend on how much there is.
const briefly = "--config scripts/claims/brief.yaml"

func ways() []way {
	return []way{
		{"plain graph", "", plain},
		{"compiled by ONNX Runtime", "1.3-1.8x", "--precision none --attention plain --fused-kernels=false --compile default"},
		{"fused kernels", "1.1-1.3x", "--precision none --attention plain"},
		{"flash attention", "1.5-2x", "--precision none --fused-kernels=false"},
		{"fused kernels and flash attention", "", "--precision none"},
		{"memory-efficient attention", "1.3x", "--precision none --attention memory_efficient"},
		{"chunks of 128 in prefill", "-30 % activations", "--precision none -b 128"},
		{"reduce_overhead", "", "--precision none --compile reduce_overhead --max-context 1024"},
		{"weights in int8", "", "--precision int8"},
		{"dynamic INT8", "1.3-1.8x", "--precision dynamic_int8 " + briefly},
		{"static INT8", "1.5-2.5x, -75 %", "--precision static_int8 " + briefly},
		{"INT4, blocks of 32", "2-3x, -75 %", "--precision int4"},
		{"INT4, blocks of 128", "2-3x, -75 %", "--precision int4 --block-size 128"},
		{"INT4, prepacked weights", "", "--precision int4 --prepack-weights"},
		{"INT4, KV cache in INT8", "", "--precision int4 --kv int8"},
		{"fp16", "1.2-1.5x, -50 %", "--precision fp16"},
		{"bf16", "1.2-1.5x, -50 %", "--precision bf16"},
	}
}

// figures are one row's, a value a round.
type figures struct {
	prefill, decode, memory, load []float64
	refused                       string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "claims:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	program := flag.String("qwenrt", "bin/qwenrt", "the `program` to measure")
	rounds := flag.Int("rounds", 3, "how often each row runs")
	only := flag.String("only", "*", "`glob` for the names of the rows to take; the plain graph is always one")
	built := flag.Bool("built", false, "the models are in the cache: begin with the first round")
	flag.Parse()
	if flag.NArg() != 1 || *rounds < 1 {
		return errors.New("usage: claims [options] CHECKPOINT")
	}
	var all []way
	for i, w := range ways() {
		ok, err := path.Match(*only, w.name)
		if err != nil {
			return err
		}
		if ok || i == 0 {
			all = append(all, w)
		}
	}
	results := make([]figures, len(all))
	for round := range *rounds + 1 { // the first builds the models, and is not counted
		if round == 0 && *built {
			continue
		}
		for i, w := range all {
			if results[i].refused != "" {
				continue
			}
			fmt.Fprintf(os.Stderr, "round %d of %d: %s\n", round, *rounds, w.name)
			err := results[i].measure(ctx, *program, flag.Arg(0), w, round == 0)
			if ctx.Err() != nil {
				print(all, results) // of the rounds that are done
				return ctx.Err()
			}
			if err != nil && round > 0 {
				return err
			}
		}
	}
	print(all, results)
	return nil
}

// measure runs a row once. What the program refuses is a result.
func (f *figures) measure(ctx context.Context, program, checkpoint string, w way, build bool) error {
	test := "-p 256 -n 16 -r 1"
	if build {
		test = "-p 1 -n 0 -r 1 --no-warmup"
	}
	args := append([]string{"bench", checkpoint, "-o", "json", "--strict"}, strings.Fields(test+" "+w.flags)...)
	c := exec.CommandContext(ctx, program, args...)
	var errs strings.Builder
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(errs.String()), "\n")
		f.refused = lines[len(lines)-1]
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, f.refused)
	}
	if build {
		return nil
	}
	var records []struct {
		Gen    int     `json:"n_gen"`
		Speed  float64 `json:"avg_ts"`
		Memory float64 `json:"rss_anon"`
		Load   float64 `json:"load_s"`
	}
	if err := json.Unmarshal(out, &records); err != nil {
		return err
	}
	for _, r := range records {
		if r.Gen > 0 {
			f.decode = append(f.decode, r.Speed)
		} else {
			f.prefill = append(f.prefill, r.Speed)
		}
	}
	last := records[len(records)-1]
	f.memory, f.load = append(f.memory, last.Memory), append(f.load, last.Load)
	return nil
}

func print(all []way, results []figures) {
	fmt.Println("| | flags | claimed elsewhere | prefill t/s | | decode t/s | | memory | | load |")
	fmt.Println("|---|---|---|---:|---:|---:|---:|---:|---:|---:|")
	base := results[0]
	for i, w := range all {
		f := results[i]
		if len(f.decode) == 0 && f.refused == "" {
			continue // not run
		}
		if f.refused != "" {
			fmt.Printf("| %s | `%s` | %s | refused: %s |\n", w.name, w.flags, w.claim, f.refused)
			continue
		}
		median := stats.Median
		ratio := func(a, b []float64) float64 {
			if len(b) == 0 { // the plain graph was refused
				return math.NaN()
			}
			return median(a) / median(b)
		}
		fmt.Printf("| %s | `%s` | %s | %.0f | %.2fx | %.1f | %.2fx | %.2f GB | %+.0f %% | %.2f s |\n", w.name, w.flags, w.claim,
			median(f.prefill), ratio(f.prefill, base.prefill), median(f.decode), ratio(f.decode, base.decode),
			median(f.memory)/1e9, 100*(ratio(f.memory, base.memory)-1), median(f.load))
	}
}
