package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/passes"
)

func TestOptimizeVerify(t *testing.T) {
	need(t)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	require.Equal(t, exitOK, qwenrt(t, "export", checkpoint, "-o", at("plain")).code)
	r := qwenrt(t, "optimize", at("plain"), "-o", at("fused"), "--verify")
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Contains(t, r.stdout, "verified on 256 tokens")
	require.Contains(t, r.stdout, "top-1 agreement 100.0 %")

	require.NoError(t, os.WriteFile(at("text"), []byte("In the beginning was the Word, and the Word was with God."), 0o666))
	before := names(t, dir)
	r = qwenrt(t, "optimize", at("plain"), "-o", at("strict"), "--verify", "--verify-text", at("text"), "--verify-bound", "1e-12")
	require.Equal(t, exitError, r.code)
	require.Empty(t, r.stdout)
	require.Contains(t, r.stderr, "the bound is 1e-12")
	require.Equal(t, before, names(t, dir), "nothing is left")

	require.NoError(t, os.WriteFile(at("text"), nil, 0o666))
	r = qwenrt(t, "optimize", at("plain"), "-o", at("strict"), "--verify", "--verify-text", at("text"))
	require.Equal(t, exitError, r.code)
	requireLine(t, r.stderr, "is empty")
}

func TestOptimizePasses(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	require.Equal(t, exitOK, qwenrt(t, "export", small, "-o", at("plain")).code)

	r := qwenrt(t, "optimize", "--list-passes")
	require.Equal(t, exitOK, r.code, r.stderr)
	for _, p := range passes.All() {
		require.Contains(t, r.stdout, p.Name)
		require.Contains(t, r.stdout, p.Doc)
		require.Contains(t, r.stdout, p.Needs)
	}

	r = qwenrt(t, "optimize", at("plain"), "-o", at("two"), "--passes", "rmsnorm,silu", "--trace")
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Equal(t, 2, strings.Count(r.stdout, "silu: applied at "), "one a layer")
	manifest := func(name string) string {
		text, err := os.ReadFile(filepath.Join(at(name), "qwenrt.json"))
		require.NoError(t, err)
		return string(text)
	}
	require.Contains(t, manifest("two"), `"passes": "rmsnorm,silu"`)
	require.NotContains(t, manifest("two"), `"attention"`)

	r = qwenrt(t, "optimize", at("plain"), "-o", at("most"), "--disable", "silu")
	require.Equal(t, exitOK, r.code, r.stderr)
	require.NotContains(t, manifest("most"), `"name": "silu"`)
	require.Contains(t, manifest("most"), `"name": "attention"`)
}

// A reader that goes away, as head does, ends the command, and nothing of the folder in the making is left.
func TestOptimizeBrokenPipe(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	require.Equal(t, exitOK, qwenrt(t, "export", small, "-o", at("plain")).code)
	before := names(t, dir)
	read, write, err := os.Pipe()
	require.NoError(t, err)
	require.NoError(t, read.Close())
	defer write.Close()
	c := command(t, "optimize", at("plain"), "-o", at("fused"), "--trace")
	var stderr strings.Builder
	c.Stdout, c.Stderr = write, &stderr
	var failed *exec.ExitError
	require.ErrorAs(t, c.Run(), &failed)
	require.Equal(t, exitBrokenPipe, failed.ExitCode(), stderr.String())
	require.NotContains(t, stderr.String(), "qwenrt:", "no fault to report")
	require.Equal(t, before, names(t, dir), "nothing is left")
}

func TestOptimizePrecision(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	require.Equal(t, exitOK, qwenrt(t, "export", small, "-o", at("plain")).code)
	before := names(t, dir)

	r := qwenrt(t, "optimize", at("plain"), "-o", at("fp16"), "--dtype", "fp16")
	require.Equal(t, exitError, r.code, "the CPU has no float16 product")
	requireLine(t, r.stderr, "float16")
	r = qwenrt(t, "build", small, "-o", at("fp16"), "--dtype", "bf16", "--precision", "none")
	require.Equal(t, exitError, r.code, "nor one in bfloat16")
	requireLine(t, r.stderr, "bfloat16")
	require.Equal(t, before, names(t, dir), "refused before anything is written")

	r = qwenrt(t, "optimize", at("plain"), "-o", at("lenient"), "--dtype", "fp16", "--lenient")
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Contains(t, r.stdout, "no kernel: ")
	r = qwenrt(t, "optimize", at("plain"), "-o", at("cuda"), "--dtype", "fp16", "--target", "cuda")
	require.Equal(t, exitOK, r.code, r.stderr)
	r = qwenrt(t, "inspect", at("cuda"))
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Contains(t, r.stdout, "float16")

	r = qwenrt(t, "optimize", at("plain"), "-o", at("coreml"), "--target", "coreml", "--sequence", "4", "--total", "32")
	require.Equal(t, exitOK, r.code, r.stderr)
	require.NotContains(t, qwenrt(t, "inspect", at("coreml")).stdout, "GroupQueryAttention")
	r = qwenrt(t, "optimize", at("plain"), "-o", at("x"), "--target", "coreml", "--sequence", "4")
	require.Equal(t, exitUsage, r.code)
	requireLine(t, r.stderr, "sequence 4 of total 0")
}
