package ort_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/ort"
)

// A longRun is a binding of a loop whose length the test sets.
type longRun struct {
	*ort.Binding
	n     *ort.Tensor
	y     *ort.Tensor
	begun *ort.Tensor // written just before the loop
}

const forever = 1 << 62 // turns of the loop

func newLongRun(t testing.TB) longRun {
	s := open(t, "loop", ort.SessionConfig{Threads: 1})
	r := longRun{bind(t, s), tensor(t, ort.Int64, []int64{forever}), floats(t, []float32{0}, 1), floats(t, []float32{0}, 1)}
	require.NoError(t, r.BindInput("n", r.n))
	require.NoError(t, r.BindInput("x", floats(t, []float32{0.5}, 1)))
	require.NoError(t, r.BindOutput("y", r.y))
	require.NoError(t, r.BindOutput("begun", r.begun))
	return r
}

// inBackground begins an endless run, and returns where its error will be when the
// run has come to the loop.
func (r longRun) inBackground(c *ort.RunControl) <-chan error {
	begun := (*uint32)(unsafe.Pointer(unsafe.SliceData(r.begun.Bytes())))
	atomic.StoreUint32(begun, 0)
	ended := make(chan error, 1)
	go func() { ended <- r.Run(c) }()
	for atomic.LoadUint32(begun) == 0 {
		runtime.Gosched()
	}
	return ended
}

// works checks that a run of few turns gives the right result.
func (r longRun) works(t *testing.T, c *ort.RunControl) {
	t.Helper()
	ort.Data[int64](r.n)[0] = 2
	require.NoError(t, r.Run(c))
	require.InDelta(t, 0.639, ort.Data[float32](r.y)[0], 1e-3, "cos(cos(0.5))")
	ort.Data[int64](r.n)[0] = forever
}

func TestTerminate(t *testing.T) {
	r, c := newLongRun(t), control(t)
	ended := r.inBackground(c)
	c.Terminate()
	requireError(t, <-ended, ort.ErrCancelled, "run")
	requireError(t, r.Run(c), ort.ErrCancelled, "run")
	require.NoError(t, c.Reset())
	r.works(t, c)
	r.works(t, nil)
}

func TestWatch(t *testing.T) {
	r, c := newLongRun(t), control(t)
	for range 3 {
		ctx, cancel := context.WithCancel(context.Background())
		stop := c.Watch(ctx)
		r.works(t, c)
		ended := r.inBackground(c)
		cancel()
		err := <-ended
		requireError(t, err, ort.ErrCancelled, "run")
		require.ErrorIs(t, err, context.Canceled)
		stop()
		stop()
	}
	stop := c.Watch(context.Background())
	r.works(t, c)
	stop()
}

func TestWatchNamesTheCause(t *testing.T) {
	r, c := newLongRun(t), control(t)
	why := errors.New("the user has left")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(why)
	defer c.Watch(ctx)()
	err := r.Run(c)
	requireError(t, err, ort.ErrCancelled, "the user has left")
	require.ErrorIs(t, err, why)
	require.ErrorIs(t, err, context.Canceled)

	ctx, cancelDeadline := context.WithTimeout(context.Background(), 1)
	defer cancelDeadline()
	defer c.Watch(ctx)()
	require.ErrorIs(t, r.Run(c), context.DeadlineExceeded)
}

// A context that ends after stop must not stop the next generation.
func TestStoppedWatchHasNoHold(t *testing.T) {
	r, c := newLongRun(t), control(t)
	for range 50 {
		ctx, cancel := context.WithCancel(context.Background())
		stop := c.Watch(ctx)
		var race sync.WaitGroup
		race.Go(cancel)
		stop()
		require.NoError(t, c.Reset())
		race.Wait()
		r.works(t, c)
	}
}

func TestSessionRunStopsWithItsContext(t *testing.T) {
	s := open(t, "loop", ort.SessionConfig{Threads: 1})
	inputs := map[string]*ort.Tensor{"n": tensor(t, ort.Int64, []int64{forever}), "x": floats(t, []float32{0.5}, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		_, err := s.Run(ctx, inputs, nil)
		ended <- err
	}()
	cancel()
	err := <-ended
	requireError(t, err, ort.ErrCancelled, "run")
	require.ErrorIs(t, err, context.Canceled)
}

// One control stops many runs, and Close of it waits for them.
func TestCloseEndsRuns(t *testing.T) {
	c := control(t)
	var ends []<-chan error
	for range 3 {
		ends = append(ends, newLongRun(t).inBackground(c))
	}
	c.Close()
	c.Close()
	for _, ended := range ends {
		requireError(t, <-ended, ort.ErrCancelled, "run")
	}
	c.Terminate() // does nothing
	requireError(t, c.Reset(), ort.ErrClosed, "run control")
	requireError(t, c.AddRunConfigEntry("a", "b"), ort.ErrClosed, "run control")
}

func TestAddRunConfigEntry(t *testing.T) {
	r, c := newLongRun(t), control(t)
	require.NoError(t, c.AddRunConfigEntry("memory.enable_memory_arena_shrinkage", "cpu:0"))
	r.works(t, c)
	requireError(t, c.AddRunConfigEntry("", "x"), ort.ErrInvalidArgument, "entry")
	require.NoError(t, c.AddRunConfigEntry("memory.enable_memory_arena_shrinkage", "nowhere:0"))
	requireError(t, r.Run(c), ort.ErrInvalidArgument, "nowhere")
}
