package runner

import (
	"fmt"
	"runtime"
	"slices"
	"sync"

	"github.com/qwenrt/qwenrt/ort"
)

// fixture is what the decode steps of a sequence are bound to where they have a fixed shape: a cache with room for the
// whole context, as a pool of one place, and the step in which that place takes a token.
type fixture struct {
	pool pool
	step batch
}

// fix gives a new sequence a fixture.
func (s *Sequence) fix() error {
	s.fixed = &fixture{pool: pool{layout: s.r.layout, places: 1}}
	if err := s.fixed.pool.grow(s.r.context, []*Sequence{s}); err != nil {
		return err
	}
	if err := s.fixed.step.open(s.r, &s.fixed.pool, s.control); err != nil {
		return err
	}
	s.tokens = slices.Grow(s.tokens, s.r.context)
	return nil
}

func (f *fixture) close() {
	f.step.close()
	f.pool.close()
}

// maxFixtures bounds what is kept of closed sequences, and with it the graphs that a provider captures, which it keeps as
// long as the session. Sequences that are open beside so many decode as without Options.FixedSteps.
const maxFixtures = 4

// fixtures are sequences with fixtures that have been closed: the next ones are bound to the same memory, so that what
// was captured for it serves them too.
type fixtures struct {
	mu     sync.Mutex
	made   int
	free   []*Sequence
	closed bool
}

// take gives a sequence that was closed, or says whether one more may have a fixture.
func (f *fixtures) take() (s *Sequence, more bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.free); n > 0 {
		s, f.free = f.free[n-1], f.free[:n-1]
		return s, false
	}
	if f.made == maxFixtures {
		return nil, false
	}
	f.made++
	return nil, true
}

// give is for one that could not be made.
func (f *fixtures) give() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.made--
}

// keep takes over what s is bound to, but for its control, which somebody may still have; unless the runner is closed.
func (f *fixtures) keep(s *Sequence) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	c, err := newControl()
	if err != nil {
		f.made--
		return false
	}
	s.control.Close()
	kept := &Sequence{feed: s.feed, cache: s.cache, fixed: s.fixed, tokens: s.tokens[:0]}
	kept.control, kept.fixed.step.control = c, c
	f.free = append(f.free, kept)
	*s = Sequence{}
	return true
}

func (f *fixtures) close() {
	f.mu.Lock()
	free := f.free
	f.free, f.closed = nil, true
	f.mu.Unlock()
	for _, s := range free {
		s.Close()
	}
}

// newGraphs gives the first of n numbers that mark runs which a provider may capture, none of them used before; 0 where
// runs have no fixed shape.
func (r *Runner) newGraphs(n int) int {
	if r.thread == nil {
		return 0
	}
	return int(r.graphs.Add(int64(n))) - n + 1
}

// graphKey is the run configuration entry with the number of the CUDA graph that a run is captured as, or replayed from.
const graphKey = "gpu_graph_id"

// noGraph marks runs that are not captured.
const noGraph = -1

// thread runs a session on one thread of the operating system, a run at a time. CUDA graphs want both: ONNX Runtime keeps
// what it has captured by thread, and does not support runs at once.
type thread struct {
	runs chan *feed
	quit chan struct{}
}

func newThread() *thread {
	t := &thread{runs: make(chan *feed), quit: make(chan struct{})}
	go t.loop()
	return t
}

func (t *thread) loop() {
	runtime.LockOSThread()
	for {
		select {
		case f := <-t.runs:
			f.done <- f.binding.Run(f.control.RunControl)
		case <-t.quit:
			return
		}
	}
}

func (t *thread) run(f *feed) error {
	select {
	case t.runs <- f:
		return <-f.done
	case <-t.quit:
		return fmt.Errorf("runner: %w", ErrClosed)
	}
}

func (t *thread) close() { close(t.quit) }

// control stops the runs of a sequence or a batch, and marks them for providers that capture runs.
type control struct {
	*ort.RunControl
	graph int // the mark; 0: none yet
}

func newControl() (*control, error) {
	c, err := ort.NewRunControl()
	if err != nil {
		return nil, err
	}
	return &control{RunControl: c}, nil
}
