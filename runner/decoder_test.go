package runner

import (
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// allowing is a constraint that allows some tokens.
type allowing struct {
	Constraint
	tokens []int32
	end    bool
	err    error
}

func (a allowing) Mask(mask []uint32) (bool, error) {
	clear(mask)
	for _, t := range a.tokens {
		mask[t/32] |= 1 << (t % 32)
	}
	return a.end, a.err
}

func TestConstrain(t *testing.T) {
	const vocab = 70 // no whole number of words
	left := func(a allowing, end ...int32) (ids []int, err error) {
		logits := make([]float32, vocab)
		err = newRestriction(a, (vocab+31)/32).apply(logits, end, true)
		for i, l := range logits {
			if !math.IsInf(float64(l), -1) {
				ids = append(ids, i)
			}
		}
		return ids, err
	}
	all := make([]int32, vocab)
	for i := range all {
		all[i] = int32(i)
	}
	for _, c := range []struct {
		why  string
		a    allowing
		end  []int32
		want []int
	}{
		{"of each word", allowing{tokens: []int32{0, 31, 32, 69}}, nil, []int{0, 31, 32, 69}},
		{"where the end is allowed, each end token is", allowing{tokens: []int32{5}, end: true}, []int32{40, 69}, []int{5, 40, 69}},
		{"where it is not, none is, though the text of one would fit", allowing{tokens: []int32{5, 40}}, []int32{40}, []int{5}},
		{"the end alone", allowing{end: true}, []int32{3}, []int{3}},
		{"an end token that the model does not have", allowing{tokens: []int32{1}, end: true}, []int32{-1, 70, math.MaxInt32}, []int{1}},
	} {
		ids, err := left(c.a, c.end...)
		require.NoError(t, err, c.why)
		require.Equal(t, c.want, ids, c.why)
	}
	ids, err := left(allowing{tokens: all})
	require.NoError(t, err)
	require.Len(t, ids, vocab)
	_, err = left(allowing{}, 7)
	require.ErrorIs(t, err, ErrRequest)
	broken := errors.New("broken")
	_, err = left(allowing{err: broken})
	require.ErrorIs(t, err, broken)
	require.True(t, slices.IsSorted(ids))
}
