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
			require.True(t, s.add(strconv.Itoa(int(i)), n-i))
			require.False(t, s.add(strconv.Itoa(int(i/2)), -1), "it is there")
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
