package main

import (
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/models/tiny"
	"github.com/qwenrt/qwenrt/runner/bench/gate"
)

// TestBenchGate records the counts of the carried model, finds them again, and misses them in a build without a fusion
// and coarser blocks.
func TestBenchGate(t *testing.T) {
	need(t)
	ownHome(t)
	t.Setenv(asProgram, "1") // memory is measured in a process of its own
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	read := func(name string) string {
		text, err := os.ReadFile(at(name))
		require.NoError(t, err)
		return string(text)
	}
	const text = "../../models/testdata/reference/eval.txt"
	metrics := []string{"--baseline", at("baseline.json"), "--metric", "nodes,kernels,traffic,bytes,allocs,hash,ppl,memory", "--text", text, "--ctx", "64",
		"--chunks", "4", "-t", "1", "-p", "4", "-n", "2", "-pg", "2,2", "--history", at("history.jsonl")}
	gated := func(model string, more ...string) result {
		return qwenrt(t, append(append([]string{"bench", "gate", model}, metrics...), more...)...)
	}

	r := gated(tiny.Name)
	require.Equal(t, exitUnsure, r.code, r.stderr)
	require.Contains(t, r.stdout, "use --update-baseline")
	require.NoFileExists(t, at("baseline.json"))

	r = gated(tiny.Name, "--update-baseline", "--label", "first")
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Contains(t, read("baseline.json"), `"nodes"`)

	r = gated(tiny.Name, "--summary", at("summary.md"))
	require.Equal(t, exitOK, r.code, "%s%s", r.stderr, r.stdout)
	require.Contains(t, read("summary.md"), "**pass**: "+tiny.Name)

	built := qwenrt(t, "build", checkpoint, "-o", at("worse"), "--disable", "projections", "--block-size", "128")
	require.Equal(t, exitOK, built.code, built.stderr)
	r = gated(at("worse"), "--junit", at("junit.xml"), "--annotations")
	require.Equal(t, exitError, r.code, r.stderr)
	for _, name := range []string{"nodes", "kernels", "hash", "ppl"} {
		require.Contains(t, r.stderr, "::error title=qwenrt bench gate::"+name+": ", r.stdout)
	}
	require.Contains(t, r.stdout, "| bytes |")
	require.NotContains(t, r.stderr, "qwenrt: ", "the table says it")
	require.NoError(t, xml.Unmarshal([]byte(read("junit.xml")), new(struct{})))

	r = qwenrt(t, "bench", "history", at("history.jsonl"), "--chart", at("history.svg"))
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Contains(t, read("history.svg"), "4 runs")
	require.Contains(t, read("history.jsonl"), `"label":"first"`)
}

// TestBenchGateSpeed looks at everything but what the machine says of speed: in a millisecond it says nothing.
func TestBenchGateSpeed(t *testing.T) {
	need(t)
	ownHome(t)
	r := qwenrt(t, "bench", "gate", tiny.Name, "--against", tiny.Name, "-p", "2", "-n", "2", "-t", "1", "--budget", "1ms", "--metric", "tg2=3%,speed,kernels")
	require.Equal(t, exitUnsure, r.code, "%s%s", r.stderr, r.stdout)
	require.Contains(t, r.stdout, "| kernels | 148 | 148 |")
	require.Contains(t, r.stdout, "| 3 % | noisy: ")
	require.Contains(t, r.stdout, "| 5 % | noisy: ")

	file := filepath.Join(t.TempDir(), "baseline.json")
	args := []string{"bench", "gate", tiny.Name, "--baseline", file, "--metric", "speed", "-p", "0", "-n", "2", "-t", "1", "--budget", "1ms", "--machine", "a class"}
	r = qwenrt(t, append(args, "--update-baseline")...)
	require.Equal(t, exitOK, r.code, r.stderr)
	b, err := gate.ReadBaseline(file)
	require.NoError(t, err)
	require.NotEmpty(t, b.Machines["a class"]["tg2"].Times)
	r = qwenrt(t, args...)
	require.Equal(t, exitUnsure, r.code, "%s%s", r.stderr, r.stdout)
}

// TestBenchGateInstructions takes both answers of a machine: virtual ones often have no counter.
func TestBenchGateInstructions(t *testing.T) {
	need(t)
	ownHome(t)
	r := qwenrt(t, "bench", "gate", tiny.Name, "--against", tiny.Name, "--metric", "instructions")
	if r.code == exitUnsure {
		require.Contains(t, r.stdout, "| instructions |  |  | instructions |  | 1 % | noisy: bench: count: the machine does not count instructions: ", "and why")
		return
	}
	require.Equal(t, exitOK, r.code, "%s%s", r.stderr, r.stdout)
}

func TestBenchGateErrors(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "broken.json")
	require.NoError(t, os.WriteFile(broken, []byte("{"), 0o666))
	for _, c := range []struct {
		why, args string
		code      int
		want      string
	}{
		{"nothing to compare with", "m", exitUsage, "missing --against REFERENCE or --baseline FILE"},
		{"no file to update", "m --against n --update-baseline", exitUsage, "--update-baseline needs --baseline"},
		{"no such metric", "m --baseline b --metric speeed", exitUsage, `--metric "speeed": want one of speed, nodes`},
		{"a limit that is none", "m --baseline b --metric bytes=much", exitUsage, `bytes: limit "much"`},
		{"a threshold that is none", "m --baseline b --threshold -5%", exitUsage, `speed: limit "-5%"`},
		{"no text", "m --baseline b --metric ppl", exitUsage, "--metric ppl needs --text FILE"},
		{"no reference", "m --baseline b --text t --metric kld", exitUsage, "--metric kld needs --reference MODEL"},
		{"a broken file", "m --baseline " + broken, exitError, "--update-baseline"},
		{"no such model", "no/such/model --baseline b", exitError, "no such file or folder"},
		{"no model", "", exitUsage, "missing argument MODEL"},
	} {
		r := qwenrt(t, append([]string{"bench", "gate"}, strings.Fields(c.args)...)...)
		require.Equal(t, c.code, r.code, "%s: %s", c.why, r.stderr)
		require.Contains(t, r.stderr, c.want, c.why)
		require.Empty(t, r.stdout, c.why)
	}
	r := qwenrt(t, "bench", "history", broken)
	require.Equal(t, exitUsage, r.code)
	require.Contains(t, r.stderr, "bench history: missing --chart FILE")
	r = qwenrt(t, "bench", "history", broken, "--chart", broken+".svg")
	require.Equal(t, exitError, r.code)
	require.Contains(t, r.stderr, "line 1")
	require.NoFileExists(t, broken+".svg")
}
