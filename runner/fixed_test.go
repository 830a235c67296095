//go:build unix

package runner_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/internal/reftest"
	"github.com/qwenrt/qwenrt/ort/orttest"
	"github.com/qwenrt/qwenrt/runner"
)

// TestFixedSteps holds that steps of one shape give the logits that steps as long as the sequence give.
func TestFixedSteps(t *testing.T) {
	for _, g := range graphs {
		dir := g.model.folder(t)
		if g.model.unshared {
			_, err := runner.Open(t.Context(), dir, runner.Options{FixedSteps: true})
			requireError(t, err, runner.ErrNotModel, "Options.FixedSteps is set, and the graph takes lengths from shapes")
			continue
		}
		r := open(t, dir, runner.Options{FixedSteps: true})
		require.True(t, r.Info().FixedSteps)
		fixed, usual := sequence(t, r), sequence(t, open(t, dir, runner.Options{}))
		require.Equal(t, r.Info().ContextLength, fixed.Capacity())
		prompt := g.model.prompt(40)
		prefill(t, fixed, prompt[:20])
		prefill(t, usual, prompt[:20])
		for i, token := range prompt[20:] {
			got, err := fixed.Decode(t.Context(), token)
			require.NoError(t, err)
			want, err := usual.Decode(t.Context(), token)
			require.NoError(t, err)
			require.LessOrEqual(t, reftest.MaxError(t, got, want, len(want)), 1e-4, "%s, step %d", g.why, i)
			if i == 10 {
				require.NoError(t, fixed.Truncate(7))
				require.NoError(t, usual.Truncate(7))
			}
		}
	}
}

// TestFixedStepsLengthOfMask refuses a graph in which something else than sums is made of the mask.
func TestFixedStepsLengthOfMask(t *testing.T) {
	m := toy{maskedElsewhere: true}
	require.True(t, m.open(t, runner.Options{}).Info().SharedKV)
	for _, o := range []runner.Options{{FixedSteps: true}, {Slots: 2}} {
		_, err := runner.Open(t.Context(), m.folder(t), o)
		requireError(t, err, runner.ErrNotModel, "optimize it")
	}
}

// TestFixtures holds that a sequence is bound to what one before it was bound to, that no two that are open share it, and
// that those beyond the bound run as well, unmarked.
func TestFixtures(t *testing.T) {
	r := small.open(t, onDevice(t, runner.Options{FixedSteps: true}))
	plain := small.open(t, runner.Options{})
	runs := orttest.Read(t).Runs
	var one []*runner.Sequence
	for range 3 {
		s, err := r.NewSequence()
		require.NoError(t, err)
		require.Zero(t, s.Len())
		prefill(t, s, small.prompt(50))
		requireFresh(t, plain, s, small.prompt(50))
		s.Close()
		s.Close()
		require.Zero(t, s.Len())
		require.ErrorIs(t, s.Truncate(0), runner.ErrClosed)
	}
	require.Equal(t, map[string]int{"-1": 3, "1": 3}, requireRecordable(t, runs), "prompts and steps")

	runs = orttest.Read(t).Runs
	for range 6 {
		s, err := r.NewSequence()
		require.NoError(t, err)
		prefill(t, s, small.prompt(30))
		one = append(one, s)
	}
	for range 2 {
		for _, s := range one {
			requireFresh(t, plain, s, small.prompt(30))
		}
	}
	require.Equal(t, map[string]int{"-1": 6 + 2*2, "1": 2, "2": 2, "3": 2, "4": 2}, requireRecordable(t, runs))
	did := counted(t, func() {
		for _, s := range one {
			s.Close()
		}
	})
	require.Positive(t, did.Frees, "of those beyond the bound")
	did = counted(t, func() {
		for range 4 {
			s, err := r.NewSequence()
			require.NoError(t, err)
			defer s.Close()
		}
	})
	require.Zero(t, did.Allocations)
}

// TestWatchOutlivesSequence holds that who watched a sequence has no hold on the next one that is bound to its memory.
func TestWatchOutlivesSequence(t *testing.T) {
	r := small.open(t, runner.Options{FixedSteps: true})
	s, err := r.NewSequence()
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	stop := s.Watch(ctx)
	s.Close()
	s.Watch(ctx)()
	next := sequence(t, r)
	end := next.Watch(t.Context())
	cancel()
	stop()
	decode(t, next, 1)
	end()
}
