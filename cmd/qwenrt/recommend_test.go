package main

import (
	"encoding/json"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/runner/bench"
)

func TestRecommend(t *testing.T) {
	need(t)
	r := qwenrt(t, "recommend", checkpoint, "--goal", "memory", "--context", "128", "--compare")
	require.Equal(t, exitOK, r.code, r.stderr)
	for _, want := range []string{"machine", "use      int4-", "qwenrt build " + checkpoint + " -o OUT --precision int4", "| int8 |", "tokens/s = 1 / ("} {
		require.Contains(t, r.stdout, want)
	}
	r = qwenrt(t, "recommend", "--device", "cuda", "--memory", "8GB", "-o", "json")
	require.Equal(t, exitOK, r.code, r.stderr)
	var got recommended
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &got))
	require.Equal(t, "int4-fp16", got.Best.Name)
	require.EqualValues(t, 8e9, got.Limit)
	r = qwenrt(t, "recommend", "--list-all")
	require.Equal(t, exitOK, r.code)
	require.Contains(t, r.stdout, "block_size")
}

// The estimate is within a quarter of what a process takes that has as much context. It has a process of its own, in
// which nothing else was in memory.
func TestMemoryEstimate(t *testing.T) {
	need(t)
	dir := filepath.Join(t.TempDir(), "model")
	require.Equal(t, exitOK, qwenrt(t, "build", checkpoint, "-o", dir, "--precision", "none").code)
	for _, context := range []int{256, 2048} {
		out, err := command(t, "bench", dir, "-p", "0", "-n", "4", "-d", strconv.Itoa(context-8), "-r", "1", "-o", "json").Output()
		require.NoError(t, err)
		var measured []bench.Record
		require.NoError(t, json.Unmarshal(out, &measured))
		r := qwenrt(t, "recommend", checkpoint, "--goal", "quality", "--context", strconv.Itoa(context), "-o", "json")
		require.Equal(t, exitOK, r.code, r.stderr)
		var got recommended
		require.NoError(t, json.Unmarshal([]byte(r.stdout), &got))
		require.Equal(t, "none", got.Best.Name)
		t.Logf("context %d: estimated %d MB, measured %d MB", context, got.Best.Memory.Total>>20, measured[0].RSSAnon>>20)
		require.InEpsilon(t, measured[0].RSSAnon, got.Best.Memory.Total, 0.25)
	}
}

func TestRecommendFaults(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		text string
	}{
		{[]string{"--goal", "cheap"}, exitError, `goal "cheap"`},
		{[]string{"--context", "0"}, exitUsage, "--context is 0"},
		{[]string{"--memory", "lots"}, exitUsage, "want a size such as 4GB"},
		{[]string{"--measure"}, exitUsage, "--measure goes with --compare and a model"},
		{[]string{"--device", "cuda", "--memory", "100MB"}, exitError, "nothing fits the memory"},
		{[]string{"nowhere"}, exitError, "no such file or folder"},
	} {
		r := qwenrt(t, append([]string{"recommend"}, c.args...)...)
		require.Equal(t, c.code, r.code, "%v: %s", c.args, r.stderr)
		require.Contains(t, r.stderr, c.text)
	}
}
