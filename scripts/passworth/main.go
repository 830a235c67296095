// Command passworth measures what each pass of the optimiser is worth on the CPU: it builds a checkpoint with
// all passes, and once for each pass without it, and compares the speeds.
//
//	go run ./scripts/passworth [-qwenrt bin/qwenrt] [-work DIR] [-keep] [-budget 15s] CHECKPOINT
//
// Two folders at a time are open and run in turn in short slices (qwenrt bench ab), so that the noise of the machine meets
// both. A ratio is the speed without the pass over the speed with all of them: below 1 the pass pays. Behind it is its interval
// of 99 % confidence. It prints a Markdown table.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"time"

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
	pp, tg  result // of the speed to that with all passes
	problem string // why there is no such folder
}

// result is a ratio and its interval, as qwenrt bench ab prints it.
type result struct {
	Ratio float64  `json:"ratio"`
	Low   float64  `json:"lo"`
	High  *float64 `json:"hi"` // null: unbounded, too little was measured
}

func (r result) String() string {
	if r.High == nil {
		return fmt.Sprintf("%.2f (not sure)", r.Ratio)
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f)", r.Ratio, r.Low, *r.High)
}

func run(ctx context.Context) error {
	binary := flag.String("qwenrt", "bin/qwenrt", "the `program` to measure")
	work := flag.String("work", "build/passworth", "`folder` for what is built")
	keep := flag.Bool("keep", false, "use what an earlier call has built there")
	budget := flag.Duration("budget", 15*time.Second, "`time` for a comparison")
	threads := flag.Int("threads", 2, "CPU `threads`")
	flag.Parse()
	if flag.NArg() != 1 {
		return fmt.Errorf("usage: passworth [options] CHECKPOINT")
	}
	b := builder{*binary, flag.Arg(0), *work, *keep}
	variants, err := b.variants(ctx)
	if err != nil {
		return err
	}
	for _, v := range variants[1:] {
		if v.problem == "" {
			fmt.Fprintf(os.Stderr, "without %s\n", v.pass)
			if err := v.measure(ctx, *binary, variants[0].dir, *budget, *threads); err != nil {
				return err
			}
		}
	}
	table(variants)
	return nil
}

type builder struct {
	binary, checkpoint, work string
	keep                     bool
}

// variants makes the folders, one for each pass that applies.
func (b *builder) variants(ctx context.Context) ([]*variant, error) {
	if err := os.MkdirAll(b.work, 0o777); err != nil {
		return nil, err
	}
	all := &variant{dir: filepath.Join(b.work, "all")}
	if err := b.build(ctx, all); err != nil {
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
		v := &variant{pass: p.Name, count: p.Count, dir: filepath.Join(b.work, p.Name)}
		if err := b.build(ctx, v); err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			v.problem = err.Error()
		}
		variants = append(variants, v)
	}
	return variants, nil
}

func (b *builder) build(ctx context.Context, v *variant) error {
	model := filepath.Join(v.dir, "model.onnx")
	if _, err := os.Stat(model); err != nil || !b.keep {
		args := []string{"build", b.checkpoint, "-o", v.dir, "--force"}
		if v.pass != "" {
			args = append(args, "--disable", v.pass)
		}
		fmt.Fprintln(os.Stderr, b.binary, args)
		if out, err := exec.CommandContext(ctx, b.binary, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
	}
	m, err := ir.Load(model)
	if err != nil {
		return err
	}
	defer m.Close()
	v.nodes = inspect.Summarize(m).Nodes
	for _, name := range []string{model, model + ".data"} {
		info, err := os.Stat(name)
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

func (v *variant) measure(ctx context.Context, binary, all string, budget time.Duration, threads int) error {
	out, err := exec.CommandContext(ctx, binary, "bench", "ab", all, v.dir, "-p", "512", "-n", "64",
		"-t", strconv.Itoa(threads), "--budget", budget.String(), "-o", "json").Output()
	if err != nil {
		return fmt.Errorf("bench ab %s %s: %w", all, v.dir, err)
	}
	var records []struct {
		Test struct {
			Prompt int `json:"n_prompt"`
		} `json:"test"`
		Result result `json:"result"`
	}
	if err := json.Unmarshal(out, &records); err != nil {
		return err
	}
	for _, r := range records {
		if r.Test.Prompt > 0 {
			v.pp = r.Result
		} else {
			v.tg = r.Result
		}
	}
	return nil
}

func table(variants []*variant) {
	fmt.Println("| without | applied | nodes | MB | pp512 ratio | tg64 ratio |")
	fmt.Println("|---|---:|---:|---:|---:|---:|")
	for i, v := range variants {
		switch {
		case i == 0:
			fmt.Printf("| (nothing) | | %d | %.1f | 1 | 1 |\n", v.nodes, float64(v.bytes)/1e6)
		case v.problem != "":
			fmt.Printf("| %s | %d | not built: %s |\n", v.pass, v.count, v.problem)
		default:
			fmt.Printf("| %s | %d | %d | %.1f | %v | %v |\n", v.pass, v.count, v.nodes, float64(v.bytes)/1e6, v.pp, v.tg)
		}
	}
}
