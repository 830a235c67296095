package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/bench/stats"
)

// Overhead is what package runner adds to ONNX Runtime's own time in a decode step.
type Overhead struct {
	Threads int `json:"n_threads"`
	Depth   int `json:"n_depth"`
	Steps   int `json:"n_gen"`
	// Step is the median time of a step as users see it, from the call of Sequence.Decode to its return.
	Step time.Duration `json:"step_ns"`
	// Own is the median of the part of a step outside InferenceSession::Run. ONNX Runtime counts in
	// whole microseconds, and its own binding code counts as ours.
	Own time.Duration `json:"overhead_ns"`
	// Ratio is Own by Step.
	Ratio float64 `json:"overhead"`
}

// MeasureOverhead decodes t.Gen tokens after t.Depth tokens of context; t.Prompt is ignored. It opens
// the model twice, one after the other: as it is, for Step, and with ONNX Runtime's profiler, which
// notes how long each run took inside, for Own. So the two sides of Own are the same run, and the
// noise of the machine, far larger than Own, does not come between. o.ProfilePrefix is ignored.
//
// Errors: as for Run.
func MeasureOverhead(ctx context.Context, path string, o runner.Options, t Test) (Overhead, error) {
	result, err := measureOverhead(ctx, path, o, t)
	if err != nil {
		if cause := ctx.Err(); cause != nil {
			err = cause
		}
		return Overhead{}, fmt.Errorf("bench: overhead: %w", err)
	}
	return result, nil
}

func measureOverhead(ctx context.Context, path string, o runner.Options, t Test) (result Overhead, err error) {
	if t.Gen < 1 || t.Depth < 0 {
		return result, fmt.Errorf("%d steps at depth %d: want 1 or more, and 0 or more", t.Gen, t.Depth)
	}
	dir, err := os.MkdirTemp("", "qwenrt-profile-")
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	o.ProfilePrefix = ""
	steps, info, err := timeSteps(ctx, path, o, t)
	if err != nil {
		return result, err
	}
	o.ProfilePrefix = filepath.Join(dir, "run")
	profiled, _, err := timeSteps(ctx, path, o, t)
	if err != nil {
		return result, err
	}
	runs, err := readProfile(dir)
	if err != nil {
		return result, err
	}
	if len(runs) < len(profiled) {
		return result, fmt.Errorf("ONNX Runtime's profile has %d runs, want at least %d", len(runs), len(profiled))
	}
	own := make([]float64, len(profiled))
	for i, run := range runs[len(runs)-len(profiled):] {
		own[i] = float64(profiled[i] - run.length)
	}
	result = Overhead{Threads: info.Threads, Depth: t.Depth, Steps: t.Gen}
	result.Step = time.Duration(stats.Median(floats(steps)))
	result.Own = max(0, time.Duration(stats.Median(own)))
	result.Ratio = float64(result.Own) / float64(result.Step)
	return result, nil
}

func floats(times []time.Duration) []float64 {
	values := make([]float64, len(times))
	for i, t := range times {
		values[i] = float64(t)
	}
	return values
}

// timeSteps opens a model and times t.Gen decode steps, the last runs before the model is closed.
func timeSteps(ctx context.Context, path string, o runner.Options, t Test) ([]time.Duration, runner.Info, error) {
	r, err := runner.Open(ctx, path, o)
	if err != nil {
		return nil, runner.Info{}, err
	}
	defer r.Close()
	info := r.Info()
	const warmup = 1
	if n := t.Depth + warmup + t.Gen; n > info.ContextLength {
		return nil, info, fmt.Errorf("%w: %d tokens, the model takes %d", runner.ErrContext, n, info.ContextLength)
	}
	b, err := newTrial(ctx, r, 0)
	if err != nil {
		return nil, info, err
	}
	defer b.close()
	if err := errors.Join(b.seq.Reserve(t.Depth+warmup+t.Gen), b.at(t.Depth)); err != nil {
		return nil, info, err
	}
	ids, times := b.tokens(warmup+t.Gen), make([]time.Duration, warmup+t.Gen)
	unwatched := context.Background()
	for i, id := range ids {
		if err := ctx.Err(); err != nil {
			return nil, info, err
		}
		start := time.Now()
		if _, err := b.seq.Decode(unwatched, id); err != nil {
			return nil, info, err
		}
		times[i] = time.Since(start)
	}
	return times[warmup:], info, nil
}
