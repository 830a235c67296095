package runner_test

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/runner"
)

// shifted is what Request.Shift should give: each token from a run of the tokens that are left by then.
func shifted(t *testing.T, r *runner.Runner, prompt []int32, keep, n int) (answer []int32) {
	t.Helper()
	limit := r.Info().ContextLength
	row := slices.Clone(prompt)
	for range n {
		s, err := r.NewSequence()
		require.NoError(t, err)
		logits, err := s.Prefill(t.Context(), row)
		require.NoError(t, err)
		best := int32(0)
		for i, l := range logits {
			if l > logits[best] {
				best = int32(i)
			}
		}
		s.Close()
		answer = append(answer, best)
		if row = append(row, best); len(row) > limit {
			left := (limit - keep + 1) / 2
			row = slices.Concat(row[:keep], row[len(row)-left:])
		}
	}
	return answer
}

func TestShift(t *testing.T) {
	m := batches["rotary embedding"]
	dir := m.folder(t)
	for name, o := range map[string]runner.Options{
		"alone": {MaxContext: 64}, "in a batch, with a prefix cache": {MaxContext: 64, Slots: 2, PrefixCache: 1 << 20},
	} {
		for _, c := range []struct {
			why                      string
			keep, speculate, answers int
		}{
			{"nothing is kept", 0, 0, 1},
			{"the beginning is kept", 20, 0, 1},
			{"all but one token is kept", 63, 0, 1},
			{"with guesses", 7, 4, 1},
			{"answers one after the other", 7, 0, 3},
		} {
			t.Run(name+", "+c.why, func(t *testing.T) {
				r := open(t, dir, o)
				prompt := m.prompt(40)
				want := shifted(t, r, prompt, c.keep, 150)
				q := plain(prompt, 150)
				q.Shift, q.Keep, q.Speculate, q.N = true, c.keep, c.speculate, c.answers
				got := make([][]int32, c.answers)
				for ev, err := range r.Generate(t.Context(), q) {
					require.NoError(t, err)
					if ev.Result == nil {
						got[ev.Answer] = append(got[ev.Answer], ev.Token)
						continue
					}
					require.Equal(t, runner.Length, ev.Result.Reason)
					require.Positive(t, ev.Result.Shifts)
				}
				for _, answer := range got {
					require.Equal(t, want, answer)
				}
			})
		}
	}
}

// What a prompt had from the prefix cache stays its own, whatever later runs find there.
func TestShiftCachedTokens(t *testing.T) {
	m := batches["rotary embedding"]
	for _, slots := range []int{0, 2} {
		r := m.open(t, runner.Options{MaxContext: 64, Slots: slots, PrefixCache: 1 << 20})
		q := plain(m.prompt(41), 150)
		q.Shift = true
		for _, cached := range []int{0, 32} { // whole blocks of 16
			_, res := result(t, r, q)
			require.Positive(t, res.Shifts)
			require.Equal(t, cached, res.CachedTokens)
		}
	}
}

func TestShiftCancelled(t *testing.T) {
	m := batches["rotary embedding"]
	for _, slots := range []int{0, 1} {
		r := m.open(t, runner.Options{MaxContext: 64, Slots: slots})
		ctx, cancel := context.WithCancel(t.Context())
		q := plain(m.prompt(10), 1000)
		q.Shift = true
		tokens := 0
		for ev, err := range r.Generate(ctx, q) {
			if tokens++; tokens == 300 {
				cancel()
			}
			if ev.Result != nil {
				requireError(t, err, context.Canceled, "cancel")
				require.Less(t, tokens, 400)
			}
		}
		cancel()
	}
}

func TestShiftFaults(t *testing.T) {
	m := toy{}
	r := m.open(t, runner.Options{MaxContext: 50})
	for says, change := range map[string]func(*runner.Request){
		"Shift without MaxTokens":           func(q *runner.Request) { q.Shift, q.MaxTokens = true, 0 },
		"Keep is 3 without Shift":           func(q *runner.Request) { q.Keep = 3 },
		"Keep is -1":                        func(q *runner.Request) { q.Shift, q.Keep = true, -1 },
		"Keep is 50, and the context is 50": func(q *runner.Request) { q.Shift, q.Keep = true, 50 },
	} {
		q := plain(m.prompt(3), 5)
		change(&q)
		_, _, err := r.Text(t.Context(), q)
		requireError(t, err, runner.ErrRequest, says)
	}
}
