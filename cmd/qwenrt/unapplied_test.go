package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/runner/accelerate"
)

// TestUnapplied holds that what was asked for and is not applied is told once, by whatever opens the model, and is an error where
// the configuration is strict.
func TestUnapplied(t *testing.T) {
	need(t)
	ownHome(t)
	dir := t.TempDir()
	int8, int4 := filepath.Join(dir, "int8"), filepath.Join(dir, "int4")
	require.Equal(t, exitOK, qwenrt(t, "build", checkpoint, "-o", int8, "--precision", "int8").code)
	require.Equal(t, exitOK, qwenrt(t, "build", checkpoint, "-o", int4, "--kv", "int4").code)
	requests, file := filepath.Join(dir, "requests.jsonl"), filepath.Join(dir, "int4.yaml")
	require.NoError(t, os.WriteFile(requests, []byte(`{"id": "a", "prompt": "A"}`+"\n"+`{"id": "b", "prompt": "B"}`+"\n"), 0o666))
	require.NoError(t, os.WriteFile(file, []byte("precision: int4\n"), 0o666))
	bench := []string{"-p", "4", "-n", "1", "-r", "1", "--no-warmup"}
	const line = "not applied: precision int4: the model folder is made already"
	for _, c := range []struct {
		why    string
		args   []string
		strict bool // there is a flag for that
	}{
		{"an answer", []string{"run", int8, "--precision", "int4", "-p", "A", "--max-tokens", "1"}, true},
		{"a batch", []string{"run", int8, "--precision", "int4", "--batch", requests, "--results", filepath.Join(dir, "results"), "--max-tokens", "1"}, true},
		{"a conversation", []string{"run", int8, "--precision", "int4", "--interactive", "--max-tokens", "1"}, true},
		{"speeds, in two sessions", append([]string{"bench", int8, "--precision", "int4", "-t", "1", "-b", "2,4"}, bench...), true},
		{"whole generations", append([]string{"bench", int8, "--precision", "int4", "-t", "1", "--concurrency", "1"}, bench...), true},
		{"what the runner adds", []string{"bench", int8, "--precision", "int4", "-t", "1", "--overhead", "-n", "1"}, true},
		{"where time goes", append([]string{"bench", int8, "--precision", "int4", "-t", "1", "--profile", filepath.Join(dir, "trace.json")}, bench...), true},
		{"two sides", []string{"bench", "ab", int8, file, "--model", int8, "-p", "4", "-n", "1", "-t", "1", "--budget", "10ms", "--round", "5ms", "--slice", "1ms"}, false},
	} {
		run := func(args ...string) result {
			return qwenrtWith(t, strings.NewReader("A\nB\n"), append(c.args, args...)...)
		}
		r := run()
		require.Equal(t, exitOK, r.code, "%s: %s", c.why, r.stderr)
		require.Equal(t, 1, strings.Count(r.stderr, "not applied: "), "%s: %s", c.why, r.stderr)
		require.Contains(t, r.stderr, line, c.why)
		if c.strict {
			r = run("--strict")
			require.Equal(t, exitError, r.code, c.why)
			require.Contains(t, r.stderr, "accelerate: "+line, c.why)
		}
	}
	require.NoError(t, os.WriteFile(file, []byte("precision: int4\nstrict: true\n"), 0o666))
	r := qwenrt(t, "bench", "ab", int8, file, "--model", int8, "-p", "4", "-n", "1", "-t", "1")
	require.Equal(t, exitError, r.code)
	require.Contains(t, r.stderr, line)

	r = qwenrt(t, "info", int8, "--precision", "int4", "--attention", "plain", "--set", "scale=max", "--estimate", "--strict")
	require.Equal(t, exitError, r.code)
	for _, part := range []string{line, "attention plain: ", "scale max: "} {
		require.Contains(t, r.stderr, part, "all at once")
	}
	for _, args := range [][]string{{"info", int8, "--precision", "int8", "--kv", "fp32"}, {"info", int4, "--precision", "int4", "--kv", "int4", "--attention", "flash"}} {
		r = qwenrt(t, append(args, "--estimate", "--strict")...)
		require.Equal(t, exitOK, r.code, r.stderr)
		require.Contains(t, r.stdout, "KV cache for")
	}
	r = qwenrt(t, "run", int8, "-p", "A", "--max-tokens", "1", "--precision", "int8")
	require.NotContains(t, r.stderr, "not applied")
}

func TestTellUnapplied(t *testing.T) {
	var stderr bytes.Buffer
	p := &program{stderr: &stderr}
	p.tellUnapplied(accelerate.Info{Options: []accelerate.Outcome{
		{Option: "device", Applied: "cpu", Reason: "cuda: no driver"},
		{Option: "kv", Requested: "fp16", Applied: "fp32", Reason: "set dtype fp16"},
		{Option: "threads", Requested: "1", Applied: "1"},
		{Option: "huge_pages", Applied: "false", Reason: "the system has none"},
	}})
	require.Equal(t, "not applied: device: cuda: no driver\nnot applied: kv fp16: set dtype fp16\n", stderr.String())
}
