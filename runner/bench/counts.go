package bench

import (
	"context"
	"fmt"
	"runtime"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/runner"
)

// Counts are costs that do not depend on how busy or how fast a machine is.
type Counts struct {
	Nodes   int     `json:"nodes"`   // operators in the model's graph
	Kernels int     `json:"kernels"` // operators that ONNX Runtime runs in a decode step, after its own optimisation
	Traffic int64   `json:"traffic"` // bytes that they read and write
	Bytes   int64   `json:"bytes"`   // of the model's constants
	Allocs  float64 `json:"allocs"`  // on Go's heap, in a decode step
}

// countSteps is the number of decode steps whose allocations are counted.
const countSteps = 64

// Count counts what the model at path takes for a decode step behind depth tokens of context.
//
// Errors: as for Run.
func Count(ctx context.Context, path string, o runner.Options, depth int) (Counts, error) {
	m, err := Describe(path)
	if err != nil {
		return Counts{}, err
	}
	c := Counts{Bytes: m.Size}
	profiles, err := MeasureProfile(ctx, path, o, Config{Prompt: []int{}, Gen: []int{1}, Depth: []int{depth}}, nil)
	if err != nil {
		return c, err
	}
	c.Kernels, c.Traffic = profiles[0].Kernels, profiles[0].Traffic
	if c.Nodes, err = nodes(m.File); err == nil {
		c.Allocs, err = stepAllocs(ctx, path, o, depth)
	}
	if err != nil {
		return c, fmt.Errorf("bench: count: %w", err)
	}
	return c, nil
}

func nodes(file string) (int, error) {
	m, err := ir.Load(file)
	if err != nil {
		return 0, err
	}
	defer m.Close()
	return m.Graph.NumNodes(), nil
}

// stepAllocs rounds down: what other goroutines allocate meanwhile is no part of a step.
func stepAllocs(ctx context.Context, path string, o runner.Options, depth int) (allocs float64, err error) {
	r, err := runner.Open(ctx, path, o)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	b, err := newTrial(ctx, r, 0)
	if err != nil {
		return 0, err
	}
	defer b.close()
	t := Test{Gen: min(countSteps, r.Info().ContextLength-depth), Depth: depth}
	if t.Gen < 1 {
		return 0, fmt.Errorf("%w: no room behind %d tokens", runner.ErrContext, depth)
	}
	if err := b.seq.Reserve(depth + t.Gen); err != nil {
		return 0, err
	}
	if _, err := b.run(ctx, Test{Gen: 1, Depth: depth}); err != nil { // binds what a step needs
		return 0, err
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := b.run(ctx, t); err != nil {
		return 0, err
	}
	runtime.ReadMemStats(&after)
	return float64((after.Mallocs - before.Mallocs) / uint64(t.Gen)), nil
}
