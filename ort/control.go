package ort

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/qwenrt/qwenrt/ort/internal/capi"
)

// A RunControl stops runs that are under way. It is made once and used for many
// runs, one after the other or at once; it is safe for concurrent use.
//
//	stop := control.Watch(ctx)
//	defer stop()
//	for { ...
//		if err := binding.Run(control); err != nil {
//			return err // ErrCancelled, and ctx.Err(), soon after ctx ends
//		}
//	}
//
// ONNX Runtime looks at the request between two nodes, so a run stops after the
// node that it is in; in a loop, after a node of the loop's body.
type RunControl struct {
	runs sync.WaitGroup // those that use options

	mu      sync.Mutex
	options *capi.RunOptions // nil once closed
	stopped error            // why runs are to stop; nil where they are not
}

// NewRunControl returns a control that stops nothing yet.
func NewRunControl() (*RunControl, error) {
	if _, err := current(); err != nil {
		return nil, err
	}
	options, err := capi.NewRunOptions()
	if err != nil {
		return nil, wrap("run options", err)
	}
	return &RunControl{options: options}, nil
}

// Terminate stops the runs that use c, now and until Reset or Watch: they return
// ErrCancelled.
func (c *RunControl) Terminate() { c.stop(ErrCancelled) }

// stop keeps the first reason. Setting a flag cannot fail in ONNX Runtime; if it
// did, the run would go on and the next one would be refused.
func (c *RunControl) stop(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.options == nil || c.stopped != nil {
		return
	}
	c.stopped = why
	_ = capi.Terminate(c.options)
}

// Reset takes Terminate back, so that the next run is a run again.
func (c *RunControl) Reset() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.options == nil {
		return c.closedError()
	}
	c.stopped = nil
	return wrap("run options", capi.Unterminate(c.options))
}

// Watch resets c and then terminates it when ctx ends, until stop is called. One
// Watch serves a whole generation: it costs the runs nothing. When stop returns,
// ctx has no hold on c any more; a termination that it caused stays until Reset or
// the next Watch.
func (c *RunControl) Watch(ctx context.Context) (stop func()) {
	_ = c.Reset() // fails on a closed control alone, and so will the run
	if ctx.Done() == nil {
		return func() {}
	}
	if ctx.Err() != nil {
		c.stop(contextError(ctx))
		return func() {}
	}
	done := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		defer close(done)
		c.stop(contextError(ctx))
	})
	return sync.OnceFunc(func() {
		if !cancel() {
			<-done
		}
	})
}

// contextError says that ctx has ended, and why.
func contextError(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if cause == nil || cause == err {
		return fmt.Errorf("%w: %w", ErrCancelled, err)
	}
	return fmt.Errorf("%w: %w: %w", ErrCancelled, err, cause)
}

// AddRunConfigEntry sets a run configuration entry, with the keys of ONNX
// Runtime's onnxruntime_run_options_config_keys.h, for runs that begin later.
func (c *RunControl) AddRunConfigEntry(key, value string) error {
	if key == "" || hasZero(key) || hasZero(value) {
		return invalid("run configuration entry %q = %q", key, value)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.options == nil {
		return c.closedError()
	}
	return wrap("run options", capi.AddRunConfig(c.options, key, value))
}

// Close terminates the runs that use c, waits for them, and releases it. Later runs
// with c fail with ErrClosed; a second Close does nothing.
func (c *RunControl) Close() {
	c.Terminate()
	c.mu.Lock()
	options := c.options
	c.options = nil
	c.mu.Unlock()
	c.runs.Wait()
	if options != nil {
		capi.ReleaseRunOptions(options)
	}
}

// begin returns the options for a run. Without an error, end follows.
func (c *RunControl) begin() (*capi.RunOptions, error) {
	if c == nil {
		return nil, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.options == nil {
		return nil, c.closedError()
	}
	if c.stopped != nil {
		return nil, fmt.Errorf("ort: run: %w", c.stopped)
	}
	c.runs.Add(1)
	return c.options, nil
}

// end takes what the run returned and returns what it means.
func (c *RunControl) end(err error) error {
	if c == nil {
		return wrap("run", err)
	}
	c.runs.Done()
	if err == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !strings.Contains(err.Error(), "terminate flag"):
		return wrap("run", err)
	case c.stopped != nil:
		return fmt.Errorf("ort: run: %w", c.stopped)
	}
	// Somebody has called Reset before the run came back.
	return fmt.Errorf("ort: run: %w", ErrCancelled)
}

func (c *RunControl) closedError() error { return fmt.Errorf("ort: run control: %w", ErrClosed) }
