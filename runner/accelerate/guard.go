package accelerate

import (
	"context"

	"github.com/qwenrt/qwenrt/graphopt"
)

// guard takes panics in the functions of Events, some of which are called from goroutines that write weights, where
// nobody could recover from them. The work is cancelled, what it has written is removed, and the panic goes on in the
// goroutine of the caller.
type guard struct {
	panicked any
}

// take is deferred around each call; calls do not overlap.
func (g *guard) take(cancel context.CancelFunc) {
	if p := recover(); p != nil {
		g.panicked = p
		cancel()
	}
}

// events are e, guarded.
func (g *guard) events(e Events, cancel context.CancelFunc) Events {
	step, progress, trace, tensor := e.Step, e.Progress, e.Trace, e.Tensor
	if step != nil {
		e.Step = func(s Step) {
			defer g.take(cancel)
			step(s)
		}
	}
	if progress != nil {
		e.Progress = func(done, total int64) {
			defer g.take(cancel)
			progress(done, total)
		}
	}
	if trace != nil {
		e.Trace = func(v graphopt.Event) {
			defer g.take(cancel)
			trace(v)
		}
	}
	if tensor != nil {
		e.Tensor = func(p TensorProgress) {
			defer g.take(cancel)
			tensor(p)
		}
	}
	return e
}

func (g *guard) check(ctx context.Context, e Events, dir string) error {
	defer g.take(func() {})
	return e.Check(ctx, dir)
}
