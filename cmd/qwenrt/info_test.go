package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/models/tiny"
	"github.com/qwenrt/qwenrt/runner/accelerate"
)

func TestInfo(t *testing.T) {
	need(t)
	ownHome(t)
	file := filepath.Join(t.TempDir(), "qwenrt.yaml")
	require.NoError(t, os.WriteFile(file, []byte("block_size: 64\nthreads: 1\nkv: fp16\n"), 0o666))
	r := qwenrt(t, "info", tiny.Name, "--config", file, "--threads", "2", "--benchmark", "1", "-o", "json")
	require.Equal(t, exitOK, r.code, r.stderr)
	var got report
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &got))
	applied := map[string]accelerate.Outcome{}
	for _, o := range got.Options {
		applied[o.Option] = o
	}
	require.Equal(t, "64", applied["block_size"].Applied)
	require.Equal(t, "2", applied["threads"].Applied, "flags win over the file")
	require.Contains(t, applied["kv"].Reason, "set dtype fp16")
	require.Positive(t, got.Benchmark.TokensPerSecond)
	require.Positive(t, got.Memory.Estimate.Packed)

	r = qwenrt(t, "info", tiny.Name, "--config", file)
	require.Equal(t, exitOK, r.code, r.stderr)
	for _, part := range []string{"MatMulNBits", "fused attention nodes for", "not applied: kv: ", "less than fp32"} {
		require.Contains(t, r.stdout, part)
	}
	r = qwenrt(t, "info", tiny.Name, "--estimate")
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Contains(t, r.stdout, "KV cache for")
	r = qwenrt(t, "info", tiny.Name, "--config", file, "--max-context", "64", "--set", "max_context=33", "--set", "rules=['*head*=int8', '*o_proj*=int8']", "-o", "json")
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Contains(t, r.stdout, `"requested": "33"`, "--set wins over flags")
	r = qwenrt(t, "info", tiny.Name, "--config", file, "--strict")
	require.Equal(t, exitError, r.code)
	require.Contains(t, r.stderr, "not applied: kv fp16")
}

func TestConfigFlags(t *testing.T) {
	ownHome(t)
	file := filepath.Join(t.TempDir(), "bad.yaml")
	require.NoError(t, os.WriteFile(file, []byte("thread: 1\n"), 0o666))
	for _, c := range []struct {
		args []string
		want string
		code int
	}{
		{[]string{"--config", file}, `there is no option "thread"`, exitUsage},
		{[]string{"--config", file + "x"}, "no such file", exitUsage},
		{[]string{"--preset", "fast"}, `preset "fast": want development`, exitUsage},
		{[]string{"--device", "cpu", "--provider", "x"}, "--device or --provider", exitUsage},
		{[]string{"--provider-option", "x"}, "want KEY=VALUE", exitUsage},
		{[]string{"--set", "spin"}, `--set "spin": want KEY=VALUE`, exitUsage},
		{[]string{"--set", "thread=1"}, `--set thread=1: there is no option "thread"`, exitUsage},
		{[]string{"--set", "slots=two"}, `--set slots=two: slots "two": want a whole number`, exitUsage},
		{[]string{"--set", "spin=of", "--set", "compile=fast"}, `compile "fast": want off, default, reduce_overhead or max_autotune; spin "of": want on`, exitUsage},
		{[]string{"--config", file, "--preset", "fast", "--threads", "0", "--precision", "int3", "--attention", "fast", "--provider", "Mine=", "--provider-option", "x", "--set", "slots=1.5"},
			`info: --preset or --config, not both; a file may name its preset; configuration ` + file + `: [1:1] there is no option "thread"; ` +
				`preset "fast": want development, cpu-production, gpu-production, apple or low-memory; --threads is 0: want 1 or more; ` +
				`--provider "Mine=": want NAME, or NAME=PATH for a plug-in's library; --provider-option "x": want KEY=VALUE; --set slots=1.5: slots "1.5": want a whole number; ` +
				`precision "int3": want none, fp16, bf16, int4, int8, dynamic-int8 or static-int8; attention "fast": want flash, memory_efficient or plain; see`, exitUsage},
		{[]string{"--provider", "=x.so"}, `--provider "=x.so": want NAME`, exitUsage},
		{[]string{"--max-context", "0"}, "--max-context is 0", exitUsage},
		{[]string{"--attention", "fast", "--compile", "fast", "--kv", "fast"}, `attention "fast": want flash, memory_efficient or plain; compile "fast"`, exitUsage},
	} {
		r := qwenrt(t, append([]string{"info", tiny.Name}, c.args...)...)
		require.Equal(t, c.code, r.code, "%v: %s", c.args, r.stderr)
		require.Contains(t, r.stderr, c.want)
	}
}

func TestCacheCommand(t *testing.T) {
	need(t)
	ownHome(t)
	r := qwenrt(t, "cache", "list")
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Contains(t, r.stdout, "there are 0 folders")
	require.Equal(t, exitOK, qwenrt(t, "info", tiny.Name, "--estimate").code)
	r = qwenrt(t, "cache", "list", "-o", "json")
	var entries []accelerate.CacheEntry
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &entries))
	require.Len(t, entries, 2)
	r = qwenrt(t, "cache", "prune")
	require.Contains(t, r.stdout, "removed 0 folders")
	r = qwenrt(t, "cache", "prune", "--days", "0")
	require.Contains(t, r.stdout, "removed 2 folders")
	require.Equal(t, exitUsage, qwenrt(t, "cache", "empty").code)
	require.Equal(t, exitUsage, qwenrt(t, "cache", "list", "--days", "1").code)
}
