package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCheck(t *testing.T) {
	require.NoError(t, check(2, 256, 128, false, false))
	require.NoError(t, check(1, 128, 128, false, false), "the whole prompt is copied")
	require.NoError(t, check(1, 16, 128, true, true), "guesses copy nothing")
	for _, c := range []struct {
		why                    string
		rounds, prompt, answer int
		text                   bool
		want                   string
	}{
		{"nothing would be measured", 0, 256, 128, false, "-rounds is 0"},
		{"no prompt", 1, 0, 2, false, "-p is 0"},
		{"no step, so no speed", 1, 256, 1, false, "-n is 1"},
		{"more to copy than there is", 1, 256, 300, false, "-n is 300, want -p, 256, at most"},
		{"a text that nobody would read", 1, 256, 128, true, "-text is for -draft"},
	} {
		require.ErrorContains(t, check(c.rounds, c.prompt, c.answer, false, c.text), c.want, c.why)
	}
}
