package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// pipeline makes a plain export of a small checkpoint, and its optimised and quantised forms.
func pipeline(t *testing.T) (plain, fused, int4 string) {
	t.Helper()
	dir := t.TempDir()
	plain, fused, int4 = filepath.Join(dir, "plain"), filepath.Join(dir, "fused"), filepath.Join(dir, "int4")
	require.Equal(t, exitOK, qwenrt(t, "export", small, "-o", plain).code)
	require.Equal(t, exitOK, qwenrt(t, "optimize", plain, "-o", fused).code)
	require.Equal(t, exitOK, qwenrt(t, "quantize", fused, "-o", int4).code)
	return plain, fused, int4
}

func TestInspect(t *testing.T) {
	_, fused, int4 := pipeline(t)
	r := qwenrt(t, "inspect", int4)
	require.Equal(t, exitOK, r.code, r.stderr)
	for _, want := range []string{
		"optimize target=cpu: rmsnorm", "one buffer of fixed capacity", "in 4 bits, blocks of 32, symmetric, accuracy level 4",
		"past_key_values.0.key", "and 2 more", "com.microsoft.GroupQueryAttention", "opset ai.onnx 21",
	} {
		require.Contains(t, r.stdout, want)
	}
	require.NotContains(t, r.stdout, "past_key_values.1.key", "as that of layer 0")

	var found struct {
		File         string
		Nodes        int
		Quantization []struct{ Bits int }
		Manifest     struct{ Steps []any }
	}
	r = qwenrt(t, "inspect", filepath.Join(int4, "model.onnx"), "-o", "json")
	require.Equal(t, exitOK, r.code, r.stderr)
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &found))
	require.Equal(t, filepath.Join(int4, "model.onnx"), found.File)
	require.Equal(t, 4, found.Quantization[0].Bits)
	require.Len(t, found.Manifest.Steps, 3)

	r = qwenrt(t, "inspect", fused, "--dot", "1")
	require.Equal(t, exitOK, r.code, r.stderr)
	require.True(t, strings.HasPrefix(r.stdout, `digraph "layer 1"`))

	require.NoError(t, os.Remove(filepath.Join(fused, "qwenrt.json")))
	r = qwenrt(t, "inspect", fused)
	require.Equal(t, exitOK, r.code, "a folder that another program made")
	require.NotContains(t, r.stdout, "made by")

	dir := t.TempDir()
	page := filepath.Join(dir, "page.html")
	r = qwenrt(t, "inspect", fused, "--html", page, "--layer", "1")
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Empty(t, r.stdout)
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	require.Contains(t, string(text), ", layer 1</h1>")
	r = qwenrt(t, "inspect", fused, "--html", filepath.Join(dir, "other.html"), "--layer", "2")
	require.Equal(t, exitError, r.code)
	requireLine(t, r.stderr, "there is no layer 2: the model has 0 to 1")
	require.Equal(t, []string{"page.html"}, names(t, dir))
}

func TestDiff(t *testing.T) {
	plain, fused, _ := pipeline(t)
	r := qwenrt(t, "diff", plain, filepath.Join(plain, "model.onnx"))
	require.Equal(t, result{code: exitOK}, r)

	r = qwenrt(t, "diff", plain, fused)
	require.Equal(t, 1, r.code)
	require.Empty(t, r.stderr)
	for _, want := range []string{"+ opset com.microsoft: 1", "- position_ids", "+ num_logits_to_keep", "~ Softmax: 2 → 0"} {
		require.Contains(t, r.stdout, want)
	}
	r = qwenrt(t, "diff", plain, fused, "-o", "json")
	require.Equal(t, 1, r.code)
	var changes struct {
		Nodes struct{ Added, Removed []struct{ Name string } }
	}
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &changes))
	require.Greater(t, len(changes.Nodes.Removed), len(changes.Nodes.Added))

	r = qwenrt(t, "diff", plain, filepath.Join(fused, "nothing"))
	require.Equal(t, exitUsage, r.code, "trouble, as diff(1) has it")
	requireLine(t, r.stderr, "nothing")
}
