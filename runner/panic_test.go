package runner_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/runner"
)

// TestPanicOfTheCaller holds that a panic in the loop over an answer ends that answer, reaches the caller, and leaves the
// runner as it was; also where generations share runs.
func TestPanicOfTheCaller(t *testing.T) {
	m := toy{}
	for _, o := range []runner.Options{{}, {Slots: 2}} {
		r := m.open(t, o)
		require.PanicsWithValue(t, "mine", func() {
			for range r.Generate(t.Context(), runner.Request{Tokens: m.prompt(3), MaxTokens: 5, IgnoreEOS: true}) {
				panic("mine")
			}
		})
		_, res, err := r.Text(t.Context(), runner.Request{Tokens: m.prompt(3), MaxTokens: 5, IgnoreEOS: true})
		require.NoError(t, err)
		require.Equal(t, 5, res.GeneratedTokens)
		require.NoError(t, r.Close(), "no generation is waited for")
	}
}

// broken is a constraint that panics where it is asked while the model runs.
type broken struct{ script }

func (b *broken) Mask([]uint32) (bool, error) { panic("its own") }
func (b *broken) Clone() runner.Constraint    { return b }

// TestPanicOfAConstraint holds that such a panic is the caller's to catch, too, whichever goroutine it comes from, and that the
// others of its call end.
func TestPanicOfAConstraint(t *testing.T) {
	m := toy{}
	bad := runner.Request{Tokens: m.prompt(3), Constraint: &broken{script{open: true}}}
	several, beams := bad, bad
	several.N, beams.Beams = 3, 2
	endless := runner.Request{Tokens: m.prompt(3), IgnoreEOS: true}
	for _, o := range []runner.Options{{}, {Slots: 2}} {
		r := m.open(t, o)
		for why, call := range map[string]func(){
			"one":     func() { _, _, _ = r.Text(t.Context(), bad) },
			"several": func() { _, _ = r.Answers(t.Context(), several) },
			"beams":   func() { _, _ = r.Answers(t.Context(), beams) },
			"a batch": func() {
				for range r.GenerateBatch(t.Context(), []runner.Request{endless, bad}) {
				}
			},
		} {
			require.PanicsWithValue(t, "its own", call, "%s, %d slots", why, o.Slots)
		}
		_, result, err := r.Text(t.Context(), runner.Request{Tokens: m.prompt(3), Constraint: &broken{}})
		require.NoError(t, err, "it is done from the beginning, and so not asked what may follow")
		require.Equal(t, runner.Stop, result.Reason)
		require.NoError(t, r.Close(), "no generation is waited for")
	}
}
