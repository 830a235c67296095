package tokenizer

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSpellings(t *testing.T) {
	for _, expected := range []int{0, 1, 100, 5000} { // the rest is more than was expected
		s := newSpellings(expected)
		const n = 3000
		for i := range int32(n) {
			number, ok := s.add(strconv.Itoa(int(i)), n-i)
			require.True(t, ok)
			require.EqualValues(t, i+1, number)
			number, ok = s.add(strconv.Itoa(int(i/2)), -1)
			require.False(t, ok, "it is there")
			require.EqualValues(t, i/2+1, number)
			require.Equal(t, strconv.Itoa(int(i/2)), string(s.spelling(number)))
		}
		require.Equal(t, n, s.len())
		for i := range int32(n) {
			id, ok := s.id(strconv.Itoa(int(i)))
			require.True(t, ok)
			require.Equal(t, n-i, id)
			id, ok = s.idOf([]byte(strconv.Itoa(int(i))))
			require.True(t, ok)
			require.Equal(t, n-i, id)
		}
		for _, missing := range []string{"", "3000", "00"} {
			_, ok := s.id(missing)
			require.False(t, ok, missing)
		}
	}
}
