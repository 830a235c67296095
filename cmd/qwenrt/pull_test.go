package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPullOffline uses a Hugging Face cache that another program has filled. Downloads are tested in
// package hub.
func TestPullOffline(t *testing.T) {
	need(t)
	home := ownHome(t)
	commit := strings.Repeat("0123", 10)
	repo := filepath.Join(home, "hf", "hub", "models--tiny--qwen3")
	snapshot := filepath.Join(repo, "snapshots", commit)
	require.NoError(t, os.MkdirAll(filepath.Join(repo, "refs"), 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(repo, "refs", "main"), []byte(commit), 0o666))
	require.NoError(t, os.CopyFS(snapshot, os.DirFS(checkpoint)))

	r := qwenrt(t, "pull", "tiny/qwen3", "--offline")
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Equal(t, snapshot+"\n", r.stdout)

	r = qwenrt(t, "run", "tiny/qwen3", "--offline", "-p", question, "--no-think", "--temperature", "0", "--max-tokens", "8")
	require.Equal(t, exitOK, r.code, r.stderr)
	require.True(t, strings.HasPrefix(r.stdout, answer), r.stdout)

	r = qwenrt(t, "pull", "tiny/qwen3", "--offline", "--revision", "v2")
	require.Equal(t, exitError, r.code)
	requireLine(t, r.stderr, "v2")
}
