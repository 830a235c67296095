package bench

import (
	"errors"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/qwenrt/qwenrt/runner"
)

// TestPerfEvent counts what every machine counts, if it lets anybody: the time that a thread runs.
func TestPerfEvent(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	sum := 0
	n, err := perfEvent{unix.PERF_TYPE_SOFTWARE, unix.PERF_COUNT_SW_TASK_CLOCK}.count(func() error {
		for i := range 1_000_000 {
			sum += i
		}
		return nil
	})
	if errors.Is(err, ErrNoCounter) {
		t.Skipf("no events can be counted here, as in many containers (outside of one: sysctl kernel.perf_event_paranoid=2 allows it): %v", err)
	}
	require.NoError(t, err)
	require.Positive(t, n)
	failure := errors.New("failed")
	_, err = perfEvent{unix.PERF_TYPE_SOFTWARE, unix.PERF_COUNT_SW_TASK_CLOCK}.count(func() error { return failure })
	require.ErrorIs(t, err, failure)

	// What some virtual machines make of a counter that they do not have.
	_, err = perfEvent{unix.PERF_TYPE_SOFTWARE, unix.PERF_COUNT_SW_DUMMY}.count(func() error { return nil })
	require.ErrorIs(t, err, ErrNoCounter, "an event that does not happen")
}

// TestInstructions takes both answers: virtual machines often have no counter.
func TestInstructions(t *testing.T) {
	n, err := Instructions(t.Context(), toy(t), runner.Options{}, 0)
	if err != nil {
		require.ErrorIs(t, err, ErrNoCounter)
		return
	}
	require.Greater(t, n, 1000.0)
}
