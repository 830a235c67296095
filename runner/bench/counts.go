package bench

import (
	"context"
	"errors"
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

// countSteps is the number of decode steps whose costs are counted.
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
	err = steps(ctx, path, o, depth, func(n int, run func() error) error {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := run()
		runtime.ReadMemStats(&after)
		allocs = float64((after.Mallocs - before.Mallocs) / uint64(n))
		return err
	})
	return allocs, err
}

// ErrNoCounter means that the machine cannot count instructions, or does not let this process do so.
var ErrNoCounter = errors.New("the machine does not count instructions")

// Instructions counts the CPU's instructions in a decode step behind depth tokens of context, on one thread: several wait for each
// other in loops, which are instructions too. They depend on the kind of CPU, for which kernels differ, and on nothing else that
// shows. o.Threads is ignored.
//
// Errors: ErrNoCounter, and as for Run.
func Instructions(ctx context.Context, path string, o runner.Options, depth int) (perStep float64, err error) {
	runtime.LockOSThread() // on which they are counted
	defer runtime.UnlockOSThread()
	o.Threads = 1
	err = steps(ctx, path, o, depth, func(n int, run func() error) error {
		count, err := hardwareInstructions.count(run)
		perStep = float64(count) / float64(n)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("bench: count: %w", err)
	}
	return perStep, nil
}

// steps opens a model, warms it up, and has measure run n decode steps.
func steps(ctx context.Context, path string, o runner.Options, depth int, measure func(n int, run func() error) error) error {
	r, err := runner.Open(ctx, path, o)
	if err != nil {
		return err
	}
	defer r.Close()
	b, err := newTrial(ctx, r, 0)
	if err != nil {
		return err
	}
	defer b.close()
	t := Test{Gen: min(countSteps, r.Info().ContextLength-depth), Depth: depth}
	if t.Gen < 1 {
		return fmt.Errorf("%w: no room behind %d tokens", runner.ErrContext, depth)
	}
	if err := b.seq.Reserve(depth + t.Gen); err != nil {
		return err
	}
	if _, err := b.run(ctx, Test{Gen: 1, Depth: depth}); err != nil { // binds what a step needs
		return err
	}
	return measure(t.Gen, func() error {
		_, err := b.run(ctx, t)
		return err
	})
}
