package runner_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/sample"
)

func result(t testing.TB, r *runner.Runner, q runner.Request) (answer []int32, res runner.Result) {
	t.Helper()
	for ev, err := range r.Generate(t.Context(), q) {
		require.NoError(t, err)
		if ev.Result != nil {
			return answer, *ev.Result
		}
		answer = append(answer, ev.Token)
	}
	return answer, res
}

// TestSpeculation holds that guesses change nothing in an answer, greedy or drawn, whoever guesses: the text so
// far, a model that is the same and always right, one that is another and hardly ever is.
func TestSpeculation(t *testing.T) {
	m := toy{layers: 2, heads: 4, kvHeads: 2, headDim: 16, vocab: 24, rotary: toyContext}
	other := toy{layers: 1, vocab: 24}
	without := m.open(t, runner.Options{})
	dir := without.Info().Dir
	itself, another := open(t, dir, runner.Options{}), other.open(t, runner.Options{})
	for name, c := range map[string]struct {
		options runner.Options
		dir     string
		draft   *runner.Runner
	}{
		"text":             {runner.Options{}, dir, nil},
		"text, in a batch": {runner.Options{Slots: 2}, dir, nil},
		"text, a cache that is not written in place": {runner.Options{}, "", nil},
		"text, a short chunk":                        {runner.Options{PrefillChunk: 3}, dir, nil},
		"itself":                                     {runner.Options{}, dir, itself},
		"itself, in a batch":                         {runner.Options{Slots: 3, PrefixCache: 1 << 20}, dir, itself},
		"another model":                              {runner.Options{}, dir, another},
	} {
		t.Run(name, func(t *testing.T) {
			without := without
			if c.dir == "" {
				m := m
				m.unshared, m.rotary = true, 0
				c.dir = m.folder(t)
				without = open(t, c.dir, runner.Options{})
			}
			r := open(t, c.dir, c.options)
			var all sync.WaitGroup
			drafted, accepted := make([]int, 16), make([]int, 16)
			for i := range drafted {
				all.Go(func() {
					q := plain(m.prompt(2+i), 60)
					if i%2 == 1 {
						q.Sampling = &sample.Params{Temperature: 0.4, TopP: 0.9, Seed: uint64(i)}
					}
					want, _ := result(t, without, q)
					q.Speculate, q.Draft = 1+i%8, c.draft
					got, res := result(t, r, q)
					if !slices.Equal(want, got) {
						t.Errorf("%d: %v, want %v", i, got, want)
					}
					drafted[i], accepted[i] = res.DraftedTokens, res.AcceptedTokens
				})
			}
			all.Wait()
			all1, right := 0, 0
			for i := range drafted {
				all1, right = all1+drafted[i], right+accepted[i]
			}
			require.Positive(t, all1)
			require.LessOrEqual(t, right, all1)
			if name == "itself" {
				require.Greater(t, right, all1*6/10, "guesses that are the model's own")
			}
		})
	}
}

// The end of the context bounds guesses too.
func TestSpeculationToTheEnd(t *testing.T) {
	m := toy{layers: 1, vocab: 16, loud: 5}
	r := m.open(t, runner.Options{MaxContext: 100})
	q := plain(m.prompt(20), 0)
	want, plainResult := result(t, r, q)
	q.Speculate = 16
	got, res := result(t, r, q)
	require.Equal(t, want, got)
	require.Equal(t, plainResult.Reason, res.Reason)
	require.Greater(t, res.AcceptedTokens, 30, "a model that says the same again and again")
}

func TestSpeculationOptions(t *testing.T) {
	m := toy{}
	r := m.open(t, runner.Options{})
	for _, n := range []int{-1, 65} {
		q := plain(m.prompt(3), 1)
		q.Speculate = n
		_, _, err := r.Text(t.Context(), q)
		requireError(t, err, runner.ErrRequest, fmt.Sprintf("Speculate is %d", n))
	}
	q := plain(m.prompt(3), 1)
	q.Draft = r
	_, _, err := r.Text(t.Context(), q)
	requireError(t, err, runner.ErrRequest, "Draft without Speculate")
	q.Speculate = 1
	q.Draft = toy{files: map[string]string{"tokenizer.json": "{}"}}.open(t, runner.Options{})
	_, _, err = r.Text(t.Context(), q)
	requireError(t, err, runner.ErrRequest, "the tokenizer of the draft model")
	q.Draft, err = runner.Open(t.Context(), r.Info().Dir, runner.Options{})
	require.NoError(t, err)
	require.NoError(t, q.Draft.Close())
	_, _, err = r.Text(t.Context(), q)
	requireError(t, err, runner.ErrClosed, "closed")
}
