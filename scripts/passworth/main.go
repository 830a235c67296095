// Command passworth measures what each pass of the optimiser is worth on the CPU: it builds a checkpoint with
// all passes, and once for each pass without it, and times the folders in turn.
//
//	go run ./scripts/passworth [-qwenrt bin/qwenrt] [-work DIR] [-rounds 5] CHECKPOINT
//
// Each round runs every folder once, in random order, in a process of its own; a ratio is the median over the rounds
// of the speed without the pass over the speed with all of them, so below 1 the pass pays. It prints a Markdown table.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/qwenrt/qwenrt/graphopt/inspect"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "passworth:", err)
		os.Exit(1)
	}
}

// variant is a build: without one pass, or, the first, with all.
type variant struct {
	pass    string // the one that is left out; empty: none
	count   int    // how often it applies
	dir     string
	nodes   int
	bytes   int64
	pp, tg  []float64 // tokens/s, a round each
	problem string    // why there is no such folder
}

func run(ctx context.Context) error {
	binary := flag.String("qwenrt", "bin/qwenrt", "the `program` to measure")
	work := flag.String("work", "build/passworth", "`folder` for what is built")
	rounds := flag.Int("rounds", 5, "`number` of rounds")
	flag.Parse()
	if flag.NArg() != 1 || *rounds < 1 {
		return fmt.Errorf("usage: passworth [options] CHECKPOINT")
	}
	variants, err := build(ctx, *binary, flag.Arg(0), *work)
	if err != nil {
		return err
	}
	for r := range *rounds {
		for _, i := range rand.Perm(len(variants)) {
			v := variants[i]
			if v.problem != "" {
				continue
			}
			fmt.Fprintf(os.Stderr, "round %d of %d: without %q\n", r+1, *rounds, v.pass)
			if err := v.measure(ctx, *binary); err != nil {
				return err
			}
		}
	}
	table(variants)
	return nil
}

// build makes the folders, one for each pass that applies.
func build(ctx context.Context, binary, checkpoint, work string) ([]*variant, error) {
	if err := os.MkdirAll(work, 0o777); err != nil {
		return nil, err
	}
	all := &variant{dir: filepath.Join(work, "all")}
	if err := all.build(ctx, binary, checkpoint); err != nil {
		return nil, err
	}
	counts, err := all.passes()
	if err != nil {
		return nil, err
	}
	variants := []*variant{all}
	for _, p := range counts {
		if p.Count == 0 {
			continue
		}
		v := &variant{pass: p.Name, count: p.Count, dir: filepath.Join(work, p.Name)}
		if err := v.build(ctx, binary, checkpoint); err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			v.problem = err.Error()
		}
		variants = append(variants, v)
	}
	return variants, nil
}

func (v *variant) build(ctx context.Context, binary, checkpoint string) error {
	args := []string{"build", checkpoint, "-o", v.dir, "--force"}
	if v.pass != "" {
		args = append(args, "--disable", v.pass)
	}
	fmt.Fprintln(os.Stderr, binary, args)
	if out, err := exec.CommandContext(ctx, binary, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	m, err := ir.Load(filepath.Join(v.dir, "model.onnx"))
	if err != nil {
		return err
	}
	defer m.Close()
	v.nodes = inspect.Summarize(m).Nodes
	for _, name := range []string{"model.onnx", "model.onnx.data"} {
		info, err := os.Stat(filepath.Join(v.dir, name))
		if err != nil {
			return err
		}
		v.bytes += info.Size()
	}
	return nil
}

type count struct {
	Name  string `json:"name"`
	Count int    `json:"count"`
}

// passes reads from the manifest how often each pass applied.
func (v *variant) passes() ([]count, error) {
	text, err := os.ReadFile(filepath.Join(v.dir, "qwenrt.json"))
	if err != nil {
		return nil, err
	}
	var manifest struct {
		Steps []struct {
			Passes []count `json:"passes"`
		} `json:"steps"`
	}
	if err := json.Unmarshal(text, &manifest); err != nil {
		return nil, err
	}
	for _, s := range manifest.Steps {
		if len(s.Passes) > 0 {
			return s.Passes, nil
		}
	}
	return nil, fmt.Errorf("%s: qwenrt.json names no passes", v.dir)
}

func (v *variant) measure(ctx context.Context, binary string) error {
	out, err := exec.CommandContext(ctx, binary, "bench", v.dir, "-p", "512", "-n", "64", "-r", "2", "-o", "json").Output()
	if err != nil {
		return fmt.Errorf("bench %s: %w", v.dir, err)
	}
	var records []struct {
		Prompt int     `json:"n_prompt"`
		Speed  float64 `json:"avg_ts"`
	}
	if err := json.Unmarshal(out, &records); err != nil {
		return err
	}
	for _, r := range records {
		if r.Prompt > 0 {
			v.pp = append(v.pp, r.Speed)
		} else {
			v.tg = append(v.tg, r.Speed)
		}
	}
	return nil
}

func table(variants []*variant) {
	fmt.Println("| without | applied | nodes | MB | pp512 | tg64 | pp512 ratio | tg64 ratio |")
	fmt.Println("|---|---:|---:|---:|---:|---:|---:|---:|")
	all := variants[0]
	for _, v := range variants {
		name := v.pass
		if name == "" {
			name = "(nothing)"
		}
		if v.problem != "" {
			fmt.Printf("| %s | %d | not built: %s |\n", name, v.count, v.problem)
			continue
		}
		applied := ""
		if v.pass != "" {
			applied = strconv.Itoa(v.count)
		}
		fmt.Printf("| %s | %s | %d | %.1f | %.1f | %.2f | %.3f | %.3f |\n", name, applied, v.nodes, float64(v.bytes)/1e6,
			median(v.pp), median(v.tg), ratio(v.pp, all.pp), ratio(v.tg, all.tg))
	}
}

// ratio is the median of the rounds' own ratios.
func ratio(a, b []float64) float64 {
	r := make([]float64, min(len(a), len(b)))
	for i := range r {
		r[i] = a[i] / b[i]
	}
	return median(r)
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}
