package runner

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// stream passes text through in pieces of some bytes, and gives what is shown.
func stream(list []string, text string, size int) (shown string, stopped bool) {
	s := stops{list: list}
	for text != "" {
		n := min(size, len(text))
		piece, end := s.next(text[:n])
		shown += piece
		if end {
			return shown, true
		}
		text = text[n:]
	}
	return shown + s.rest(), false
}

func TestStops(t *testing.T) {
	for _, c := range []struct {
		why, text, want string
		list            []string
		stopped         bool
	}{
		{"none", "abc", "abc", nil, false},
		{"in the middle", "abcd", "ab", []string{"cd"}, true},
		{"at the beginning", "abcd", "", []string{"ab"}, true},
		{"almost, and then after all", "aab", "", []string{"aab", "xyz"}, true},
		{"almost, twice", "ababac", "ab", []string{"abac"}, true},
		{"a beginning at the end", "xyab", "xyab", []string{"abc"}, false},
		{"the one that ends first", "abcd", "a", []string{"abcd", "bc"}, true},
		{"of two that end together the longer", "abcd", "a", []string{"cd", "bcd"}, true},
		{"one within another", "abcx", "ab", []string{"abcd", "c"}, true},
		{"characters of several bytes", "Grüße", "Gr", []string{"üß"}, true},
	} {
		for size := 1; size <= len(c.text); size++ {
			shown, stopped := stream(c.list, c.text, size)
			require.Equal(t, c.want, shown, "%s, in pieces of %d", c.why, size)
			require.Equal(t, c.stopped, stopped, c.why)
		}
	}
	s := stops{list: []string{"\n\nUser:"}}
	shown, _ := s.next("Hello\n")
	require.Equal(t, "Hello", shown, "no more is held back than what may begin it")
	shown, _ = s.next("you")
	require.Equal(t, "\nyou", shown)
}

// FuzzStops compares with the plain definition: no stop string in what is shown, and the pieces do not matter.
func FuzzStops(f *testing.F) {
	f.Add("one two\n\nthree", "\n\n|wo\n|x", 3)
	f.Add("aaaaab", "aab|ab|aaaaaaab", 1)
	f.Fuzz(func(t *testing.T, text, list string, size int) {
		var of []string
		for s := range strings.SplitSeq(list, "|") {
			if s != "" {
				of = append(of, s)
			}
		}
		shown, stopped := stream(of, text, max(1, size))
		require.True(t, strings.HasPrefix(text, shown))
		contains := false
		for _, s := range of {
			require.NotContains(t, shown, s)
			contains = contains || strings.Contains(text, s)
		}
		require.Equal(t, contains, stopped)
		if !stopped {
			require.Equal(t, text, shown)
		}
		whole, _ := stream(of, text, len(text)+1)
		require.Equal(t, whole, shown)
	})
}
