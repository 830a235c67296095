package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// What a search finds is what max_autotune takes.
func TestTune(t *testing.T) {
	need(t)
	ownHome(t)
	args := []string{"tune", checkpoint, "--dimension", "spin", "--dimension", "affinity", "--budget", "20ms", "--context", "16"}
	r := qwenrt(t, args...)
	require.Equal(t, exitOK, r.code, r.stderr)
	for _, want := range []string{"start      int8", "spin       off", "frontier", "profile: "} {
		require.Contains(t, r.stdout, want)
	}
	again := qwenrt(t, args...)
	require.Equal(t, exitOK, again.code, again.stderr)
	require.Equal(t, r.stdout, again.stdout, "all of it was known")
	info := qwenrt(t, "info", checkpoint, "--compile", "max_autotune")
	require.Equal(t, exitOK, info.code, info.stderr)
	require.Contains(t, info.stdout, "int8")
}

func TestTuneFaults(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		text string
	}{
		{[]string{}, exitUsage, "missing argument HF_DIR"},
		{[]string{checkpoint, "--max-kld", "0"}, exitUsage, "--max-kld is 0"},
		{[]string{checkpoint, "--dimension", "colour"}, exitError, `dimension "colour" is unknown`},
		{[]string{checkpoint, "--goal", "quality"}, exitError, `goal "quality"`},
		{[]string{checkpoint, "--text", "nowhere"}, exitError, "nowhere"},
	} {
		r := qwenrt(t, append([]string{"tune"}, c.args...)...)
		require.Equal(t, c.code, r.code, "%v: %s", c.args, r.stderr)
		require.Contains(t, r.stderr, c.text)
	}
}
