package runner_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/internal/reftest"
	"github.com/qwenrt/qwenrt/runner"
)

// TestOperations does 10,000 random things to some sequences and slots of a batch at a time, and compares the logits that
// come with those of the same tokens run afresh, all at once.
func TestOperations(t *testing.T) {
	for name, c := range map[string]struct {
		model   toy
		options runner.Options
		steps   int
	}{
		"shared cache":   {toy{layers: 2, heads: 2, headDim: 16, rotary: toyContext}, runner.Options{PrefillChunk: 40}, 4000},
		"unshared cache": {toy{layers: 2, heads: 2, unshared: true}, runner.Options{PrefillChunk: 40}, 3000},
		"slots":          {toy{layers: 2, heads: 2, headDim: 16, rotary: toyContext}, runner.Options{PrefillChunk: 40, Slots: 4, PrefixCache: 1 << 16}, 3000},
		"fixed steps": {
			toy{layers: 2, heads: 2, headDim: 16, rotary: toyContext}, runner.Options{PrefillChunk: 40, FixedSteps: true, PrefixCache: 1 << 16}, 1000,
		},
		"fixed steps of slots": {toy{layers: 2, heads: 2, headDim: 16, rotary: toyContext}, runner.Options{PrefillChunk: 40, FixedSteps: true, Slots: 4}, 1000},
	} {
		t.Run(name, func(t *testing.T) {
			operate(t, c.model.open(t, c.options), c.steps)
		})
	}
}

// operate does so many things.
func operate(t *testing.T, r *runner.Runner, steps int) {
	t.Helper()
	o := operations{t: t, r: r, random: rand.New(rand.NewPCG(11, 12)), path: filepath.Join(t.TempDir(), "snapshot")}
	o.fresh = sequence(t, open(t, o.r.Info().Dir, runner.Options{}))
	for range steps {
		o.step()
	}
	for _, row := range o.rows {
		row.Close()
	}
	require.Positive(t, o.cancelled, "some runs were stopped")
	require.Greater(t, o.compared, steps/3)
}

type operations struct {
	t      *testing.T
	r      *runner.Runner
	fresh  *runner.Sequence // of another runner
	random *rand.Rand
	path   string
	rows   []*row
	saved  []int32 // tokens of the snapshot at path; nil: none

	cancelled, compared int
}

// row is a decoder with the tokens that it should have.
type row struct {
	runner.Decoder
	tokens []int32
}

const (
	mostRows   = 4 // as many as the batch has slots
	mostTokens = 400
)

func (o *operations) step() {
	if len(o.rows) == 0 {
		d, err := runner.NewDecoder(o.t.Context(), o.r)
		require.NoError(o.t, err)
		o.rows = append(o.rows, &row{Decoder: d})
	}
	at := o.random.IntN(len(o.rows))
	w := o.rows[at]
	switch p := o.random.IntN(100); {
	case p < 35:
		o.add(w, 1)
	case p < 55:
		o.add(w, 1+o.random.IntN(20))
	case p < 57:
		o.add(w, 100+o.random.IntN(300))
	case p < 75:
		n := o.random.IntN(len(w.tokens) + 1)
		require.NoError(o.t, w.Truncate(n))
		w.tokens = w.tokens[:n]
	case p < 82:
		o.cancel(w)
	case p < 90 && len(o.rows) < mostRows:
		f, err := runner.Fork(w.Decoder)
		require.NoError(o.t, err)
		o.rows = append(o.rows, &row{f, slices.Clone(w.tokens)})
	case p < 94:
		w.Close()
		o.rows = slices.Delete(o.rows, at, at+1)
	default:
		o.snapshot(w)
	}
	for _, w := range o.rows {
		require.Equal(o.t, len(w.tokens), w.Len())
	}
}

func (o *operations) tokens(n int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = o.random.Int32N(int32(o.r.Info().Vocabulary))
	}
	return ids
}

func (o *operations) add(w *row, n int) {
	ids := o.tokens(n)
	if len(w.tokens)+n > mostTokens {
		return
	}
	var logits []float32
	var err error
	if n == 1 {
		logits, err = w.Decode(context.Background(), ids[0])
	} else {
		logits, err = w.Prefill(context.Background(), ids)
	}
	require.NoError(o.t, err)
	o.added(w, ids, logits)
}

func (o *operations) added(w *row, ids []int32, logits []float32) {
	w.tokens = append(w.tokens, ids...)
	require.NoError(o.t, o.fresh.Truncate(0))
	want, err := o.fresh.Prefill(context.Background(), w.tokens)
	require.NoError(o.t, err)
	require.LessOrEqual(o.t, reftest.MaxError(o.t, logits, want, len(want)), 1e-4)
	o.compared++
}

// cancel stops a run before it, in it, or behind it.
func (o *operations) cancel(w *row) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if o.random.IntN(2) == 0 {
		cancel()
	} else {
		go cancel()
	}
	ids := o.tokens(1 + o.random.IntN(100))
	if len(w.tokens)+len(ids) > mostTokens {
		return
	}
	logits, err := w.Prefill(ctx, ids)
	if err == nil {
		o.added(w, ids, logits)
		return
	}
	require.True(o.t, errors.Is(err, context.Canceled), err)
	o.cancelled++
}

// snapshot writes a sequence, or goes on from what was written.
func (o *operations) snapshot(w *row) {
	s, ok := w.Decoder.(*runner.Sequence)
	switch {
	case !ok:
	case o.saved == nil || o.random.IntN(2) == 0:
		require.NoError(o.t, s.Snapshot(o.path))
		o.saved = append([]int32{}, w.tokens...)
	default:
		restored, err := o.r.Restore(o.path)
		require.NoError(o.t, err)
		require.Equal(o.t, o.saved, append([]int32{}, restored.Tokens()...))
		s.Close()
		w.Decoder, w.tokens = restored, slices.Clone(o.saved)
	}
}
