// Command optimizecost runs the optimiser on a model and writes nothing: how long does each pass take?
//
//	go run ./scripts/optimizecost [-target cpu] MODEL
//
// MODEL is a Hugging Face folder, which is exported in memory, or a .onnx file. Its weights may be sparse, as
// scripts/randomqwen -sparse makes them for sizes that are too large to be written. scripts/bench/optimize.sh runs it for
// two sizes and measures the memory beside.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"time"

	"github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/passes"
	"github.com/qwenrt/qwenrt/models/folder"
	"github.com/qwenrt/qwenrt/models/qwen3"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "optimizecost:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	name := flag.String("target", string(graphopt.CPU), "execution `provider`: cpu, cuda or coreml")
	flag.Parse()
	target, err := graphopt.ParseTarget(*name)
	if err != nil {
		return err
	}
	if flag.NArg() != 1 {
		return fmt.Errorf("usage: optimizecost [-target cpu] MODEL")
	}
	start := time.Now()
	m, positions, closer, err := open(flag.Arg(0))
	if err != nil {
		return err
	}
	defer closer()
	fmt.Printf("%-12s %6d nodes %8.3f s\n", "load", m.Graph.NumNodes(), time.Since(start).Seconds())
	var total time.Duration
	for _, p := range passes.All() {
		if len(p.Targets) > 0 && !slices.Contains(p.Targets, target) {
			continue
		}
		start := time.Now()
		r, err := graphopt.Run(ctx, m, []*graphopt.Pass{p}, graphopt.Options{Target: target, MaxPositions: positions})
		if err != nil {
			return err
		}
		took := time.Since(start)
		total += took
		fmt.Printf("%-12s %6d times %8.3f s\n", p.Name, r.Passes[0].Count, took.Seconds())
	}
	fmt.Printf("%-12s %6d nodes %8.3f s\n", "all", m.Graph.NumNodes(), total.Seconds())
	return nil
}

// open gives a model and its context length.
func open(path string) (m *ir.Model, positions int64, closer func() error, err error) {
	if filepath.Ext(path) == ".onnx" {
		facts, err := qwen3.ReadFacts(folder.ConfigDir(path))
		if err != nil {
			return nil, 0, nil, err
		}
		m, err := ir.Load(path)
		if err != nil {
			return nil, 0, nil, err
		}
		return m, int64(facts.ContextLength), m.Close, nil
	}
	source, err := qwen3.Open(path)
	if err != nil {
		return nil, 0, nil, err
	}
	if m, err = source.Model(qwen3.Options{}); err != nil {
		return nil, 0, nil, err
	}
	return m, int64(source.Facts().ContextLength), source.Close, nil
}
