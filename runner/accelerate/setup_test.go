package accelerate_test

import (
	"context"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/runner/accelerate"
)

// watched is a context that calls do once, when somebody begins to wait for its end.
type watched struct {
	context.Context
	do func()
}

func (w watched) Done() <-chan struct{} {
	w.do()
	return w.Context.Done()
}

// TestBenchmarkOfOneSetup holds that a benchmark tells the options of the set-up that it measured, though another took its place.
func TestBenchmarkOfOneSetup(t *testing.T) {
	ownCache(t)
	m := open(t, accelerate.Source{Dir: carried}, accelerate.Config{MaxContext: 100})
	change := sync.OnceFunc(func() {
		require.NoError(t, m.Reconfigure(t.Context(), accelerate.Config{MaxContext: 200}))
	})
	b, err := m.Benchmark(watched{t.Context(), change}, accelerate.Benchmark{Tokens: 2, Iterations: 1})
	require.NoError(t, err)
	require.Equal(t, "200", outcome(t, m, "max_context").Applied, "it was changed meanwhile")
	require.Contains(t, b.Applied, "max_context=100")
}

// TestReconfigureWaits holds that who waits for another's change stops when the context does.
func TestReconfigureWaits(t *testing.T) {
	ownCache(t)
	begun, goOn := make(chan struct{}), make(chan struct{})
	arrive := sync.OnceFunc(func() { close(begun) })
	changing := false // once the model is open
	m, err := accelerate.Open(t.Context(), quick, accelerate.Config{}, accelerate.Events{Step: func(accelerate.Step) {
		if changing {
			arrive()
			<-goOn
		}
	}})
	require.NoError(t, err)
	defer m.Close()
	changing = true
	first := make(chan error)
	go func() { first <- m.Reconfigure(t.Context(), accelerate.Config{BlockSize: 64}) }()
	<-begun
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = m.Reconfigure(ctx, accelerate.Config{BlockSize: 128})
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "another call is changing the set-up", "it has not begun to open its own")
	close(goOn)
	require.NoError(t, <-first)
	require.Equal(t, "64", outcome(t, m, "block_size").Applied)
}

func TestSpinOutcome(t *testing.T) {
	ownCache(t)
	const spinning, stop = "session.intra_op.allow_spinning", "session.force_spinning_stop"
	for _, c := range []struct {
		why     string
		spin    accelerate.Spin
		entries map[string]string
		applied string
		reason  string
	}{
		{"as asked", accelerate.SpinOff, nil, "off", ""},
		{"an entry switches it on", accelerate.SpinOff, map[string]string{spinning: "1"}, "on", "session_entries win over it, with " + spinning + "=1"},
		{"an entry switches it off", accelerate.SpinInRun, map[string]string{spinning: "0"}, "off", "session_entries win over it, with " + spinning + "=0"},
		{"an entry says the same", accelerate.SpinOff, map[string]string{spinning: "0"}, "off", ""},
		{"nothing else asks", "", map[string]string{spinning: "0"}, "off", ""},
		{"an end with each run", "", map[string]string{stop: "1"}, "in_run", ""},
		{"no end with each run", accelerate.SpinInRun, map[string]string{stop: "0"}, "on", "session_entries win over it, with " + stop + "=0"},
		{"another entry", accelerate.SpinOn, map[string]string{"session.disable_prepacking": "1"}, "on", ""},
	} {
		conf := accelerate.Config{Spin: c.spin, SessionEntries: c.entries}
		o := outcome(t, open(t, quick, conf), "spin")
		require.Equal(t, c.applied, o.Applied, c.why)
		require.Equal(t, c.reason, o.Reason, c.why)
	}
}

func TestMoreThreadsThanCPUs(t *testing.T) {
	ownCache(t)
	cpus := ort.DefaultThreads()
	require.Empty(t, outcome(t, open(t, quick, accelerate.Config{Threads: cpus}), "threads").Reason)
	more := accelerate.Config{Threads: cpus + 1}
	o := outcome(t, open(t, quick, more), "threads")
	require.Equal(t, strconv.Itoa(cpus+1), o.Applied)
	require.Equal(t, "more than the CPUs that this process may use: "+strconv.Itoa(cpus), o.Reason)
	more.Strict = true
	_, err := accelerate.Open(t.Context(), quick, more, accelerate.Events{})
	require.ErrorIs(t, err, accelerate.ErrNotApplied)
}
