package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const evalText = "../../models/testdata/reference/eval.txt"

// models gives the folders of a plain export of the carried model, and of one in 8 bits made from it.
func models(t *testing.T) (plain, int8 string) {
	t.Helper()
	need(t)
	dir := t.TempDir()
	plain, int8 = filepath.Join(dir, "plain"), filepath.Join(dir, "int8")
	require.Equal(t, exitOK, qwenrt(t, "export", checkpoint, "-o", plain).code)
	require.Equal(t, exitOK, qwenrt(t, "quantize", plain, "-o", int8, "--precision", "int8").code)
	return plain, int8
}

func TestEval(t *testing.T) {
	plain, int8 := models(t)
	dir := t.TempDir()
	logits := filepath.Join(dir, "logits")
	r := qwenrt(t, "eval", plain, "--text", evalText, "--ctx", "64", "--chunks", "3", "--save-logits", logits)
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Contains(t, r.stdout, "of which 93 are scored in 3 chunks of 64")
	require.Contains(t, r.stdout, "±")

	type result struct {
		Perplexity float64
		Divergence struct {
			KLD  struct{ Mean float64 }
			Top1 float64
		}
	}
	measure := func(args ...string) (v result) {
		r := qwenrt(t, append([]string{"eval", int8, "-o", "json"}, args...)...)
		require.Equal(t, exitOK, r.code, r.stderr)
		require.NoError(t, json.Unmarshal([]byte(r.stdout), &v))
		return v
	}
	direct := measure("--text", evalText, "--ctx", "64", "--chunks", "3", "--reference", plain)
	require.Greater(t, direct.Divergence.KLD.Mean, 1e-5)
	require.Less(t, direct.Divergence.KLD.Mean, 1e-3)
	require.Greater(t, direct.Divergence.Top1, 0.95)
	saved := measure("--reference-logits", logits)
	require.InDelta(t, direct.Divergence.KLD.Mean, saved.Divergence.KLD.Mean, 1e-5)
	require.Equal(t, direct.Perplexity, saved.Perplexity, "the file has the text and the length of chunks")

	r = qwenrt(t, "eval", int8, "--text", evalText, "--ctx", "64", "--chunks", "3", "--reference", plain)
	require.Equal(t, exitOK, r.code, r.stderr)
	for _, want := range []string{"KL divergence, mean", "99.9 %", "same likeliest token", "Δp, RMS"} {
		require.Contains(t, r.stdout, want)
	}

	empty := filepath.Join(dir, "empty")
	require.NoError(t, os.WriteFile(empty, nil, 0o666))
	for _, c := range []struct {
		why  string
		args []string
		want string
	}{
		{"no text file", []string{"--text", filepath.Join(dir, "none")}, "no such file"},
		{"an empty text", []string{"--text", empty}, "0 bytes"},
		{"a file of another kind", []string{"--reference-logits", evalText}, "malformed file of logits"},
		{"chunks of another length", []string{"--reference-logits", logits, "--ctx", "32"}, "chunks of 64 tokens, not 32"},
		{"another text", []string{"--reference-logits", logits, "--text", "eval_test.go"}, "another text"},
		{"a chunk beyond the model", []string{"--text", evalText, "--ctx", "100000"}, "context length exceeded"},
	} {
		r := qwenrt(t, append([]string{"eval", plain, "--save-logits", filepath.Join(dir, "new")}, c.args...)...)
		require.Equal(t, exitError, r.code, c.why)
		require.Contains(t, r.stderr, c.want, c.why)
		require.Empty(t, r.stdout)
		require.Equal(t, []string{"empty", "logits"}, names(t, dir), "nothing half-written: %s", c.why)
	}
}

func TestEvalCompare(t *testing.T) {
	plain, int8 := models(t)
	chart := filepath.Join(t.TempDir(), "chart.svg")
	args := []string{"eval", "--compare", plain, int8, "--text", evalText, "--ctx", "64", "--chunks", "2", "--no-bench"}
	r := qwenrt(t, append(args, "--chart", chart)...)
	require.Equal(t, exitOK, r.code, r.stderr)
	lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
	require.Len(t, lines, 4)
	require.NotContains(t, lines[0], "tg64")
	require.Contains(t, lines[2], "| 32.00 |")
	require.Contains(t, lines[2], "| reference | |")
	require.Contains(t, lines[3], "| 9.0")
	svg, err := os.ReadFile(chart)
	require.NoError(t, err)
	require.Contains(t, string(svg), "KL divergence from "+plain)
	require.Equal(t, 1, strings.Count(string(svg), "<circle"))

	var rows []compared
	r = qwenrt(t, append(args, "-o", "json")...)
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &rows))
	require.Len(t, rows, 2)
	require.Nil(t, rows[0].Divergence)
	require.NotNil(t, rows[1].Divergence)
	require.Less(t, rows[1].Bytes, rows[0].Bytes)
}

func TestChart(t *testing.T) {
	for _, c := range []struct {
		largest, step float64
	}{{100, 20}, {12, 2}, {60, 10}, {450, 50}, {1, 0.2}, {2100, 500}} {
		require.InDelta(t, c.step, niceStep(c.largest), 1e-9, "%v", c.largest)
	}
	p := panel{Left: 10, Top: 20, Width: 100, Height: 60, Points: []point{{x: 50, y: 0.01}, {x: 100, y: 1e-4}}}
	p.scale()
	require.InDelta(t, 60, p.Points[0].X, 1e-9)
	require.InDelta(t, 20, p.Points[0].Y, 1e-9, "the worst on top")
	require.InDelta(t, 110, p.Points[1].X, 1e-9)
	require.InDelta(t, 80, p.Points[1].Y, 1e-9)
	require.True(t, p.Points[1].Left)
	require.Len(t, p.YTicks, 3)
}

// TestEvalUsage holds what is found before a model is opened.
func TestEvalUsage(t *testing.T) {
	for _, c := range []struct{ why, args, want string }{
		{"no text", "eval x", "missing --text FILE"},
		{"no model", "eval --text y", "missing argument MODEL"},
		{"a form that is none", "eval x --text y -o xml", "want table or json"},
		{"no context", "eval x --text y --ctx 0", "--ctx is 0"},
		{"no chunks", "eval x --text y --chunks -1", "--chunks is -1"},
		{"two references", "eval x --text y --reference a --reference-logits b", "not both"},
		{"an empty reference", "eval x --text y --reference=", "--reference is empty"},
		{"a chart of one", "eval x --text y --chart c", "--chart is for --compare"},
		{"one of one", "eval --compare x --text y", "wants two models or more, got 1"},
		{"a reference of a table", "eval --compare x z --text y --reference a", "the first model is the reference"},
		{"a verification without", "optimize x -o y --verify-text z", "--verify-text is for --verify"},
		{"a bound that nothing passes", "optimize x -o y --verify --verify-bound 0", "--verify-bound is 0"},
		{"an unknown pass", "optimize x -o y --passes rmsnorm,magic", `unknown pass "magic": there are`},
		{"a pass of another target", "optimize x -o y --target coreml --passes attention", `pass "attention" does not serve target coreml`},
		{"a list of what", "optimize x --list-passes", `unexpected argument "x"`},
		{"inspect what", "inspect", "missing argument FILE_OR_DIR"},
		{"two pictures", "inspect x --dot 1 --html y", "not both"},
		{"a layer of what", "inspect x --layer 1", "--layer is for --html"},
		{"one model", "diff x", "want two models, got 1"},
	} {
		r := qwenrt(t, strings.Fields(c.args)...)
		require.Equal(t, exitUsage, r.code, "%s: %s", c.why, r.stderr)
		requireLine(t, r.stderr, c.want)
	}
}
