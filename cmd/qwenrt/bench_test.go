package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/models/tiny"
	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/runner/accelerate"
	"github.com/qwenrt/qwenrt/runner/bench"
)

// TestBench goes from the carried model to figures; how large they are is not asked.
func TestBench(t *testing.T) {
	need(t)
	ownHome(t)
	r := qwenrt(t, "bench", tiny.Name, "-p", "16,8", "-n", "4", "-pg", "8,2", "-d", "0,5", "-t", "1,2", "-r", "2", "-o", "json")
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Contains(t, r.stderr, "bits a weight", "the model is built first")
	var records []bench.Record
	d := json.NewDecoder(strings.NewReader(r.stdout))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&records))
	var names []string
	threads := map[int]int{}
	for _, r := range records {
		names = append(names, r.Test().String())
		threads[r.Threads]++
		require.Len(t, r.SamplesTS, 2)
		require.Positive(t, r.AvgTS)
		require.True(t, strings.HasPrefix(r.ModelType, "qwen3 9.97M int4 b"), r.ModelType)
		require.Equal(t, 512, r.Batch)
		require.Equal(t, records[0].ModelHash, r.ModelHash)
	}
	require.Equal(t, map[int]int{1: 8, 2: 8}, threads)
	require.Equal(t, []string{"pp16", "pp8", "tg4", "pp8+tg2", "pp16 @ d5", "pp8 @ d5", "tg4 @ d5", "pp8+tg2 @ d5"}, names[:8])

	for format, want := range map[string]string{
		"md":      "| qwen3 9.97M int4 b",
		"jsonl":   `{"build_commit":`,
		"csv":     "build_commit,",
		"gobench": "tokens/s",
	} {
		r := qwenrt(t, "bench", tiny.Name, "-p", "4", "-n", "0", "-r", "1", "-o", format, "-b", "2")
		require.Equal(t, exitOK, r.code, r.stderr)
		require.Contains(t, r.stdout, want)
		require.Empty(t, r.stderr, "progress is for terminals")
	}
}

func TestBenchProfile(t *testing.T) {
	need(t)
	ownHome(t)
	trace := filepath.Join(t.TempDir(), "trace.json")
	args := []string{"bench", tiny.Name, "-p", "4", "-n", "2", "-t", "1", "--profile", trace}
	r := qwenrt(t, args...)
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Contains(t, r.stdout, "tg2: 2 runs of ")
	require.Contains(t, r.stdout, "| GroupQueryAttention | 16 |", "8 layers, 2 tokens")
	require.Contains(t, r.stdout, "| outside of layers |")
	text, err := os.ReadFile(trace)
	require.NoError(t, err)
	require.True(t, json.Valid(text))
	require.Contains(t, string(text), `"layer 7"`)
	r = qwenrt(t, append(args, "-o", "json")...)
	var profiles []bench.Profile
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &profiles))
	require.Len(t, profiles, 2)

	r = qwenrt(t, "bench", tiny.Name, "-p", "4", "-n", "0", "-r", "1", "-o", "csv", "-oe", "jsonl")
	require.Equal(t, exitOK, r.code, r.stderr)
	require.True(t, json.Valid([]byte(r.stderr)), r.stderr)
	require.Contains(t, r.stdout, "build_commit,")
}

func TestBenchOverhead(t *testing.T) {
	need(t)
	ownHome(t)
	r := qwenrt(t, "bench", tiny.Name, "--overhead", "-n", "4", "-d", "3", "-t", "1", "-o", "json")
	require.Equal(t, exitOK, r.code, r.stderr)
	var got []bench.Overhead
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &got))
	require.Len(t, got, 1)
	require.Equal(t, []int{1, 3, 4}, []int{got[0].Threads, got[0].Depth, got[0].Steps})

	r = qwenrt(t, "bench", tiny.Name, "--overhead", "-n", "4", "-t", "1,2")
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Equal(t, 4, strings.Count(r.stdout, "\n"), "a row for each number of threads: %s", r.stdout)
}

// TestBenchConfiguration holds that threads and chunk are those of the configuration, wherever it comes from, unless flags say
// otherwise.
func TestBenchConfiguration(t *testing.T) {
	need(t)
	ownHome(t)
	dir := t.TempDir()
	file, trace := filepath.Join(dir, "qwenrt.yaml"), filepath.Join(dir, "trace.json")
	require.NoError(t, os.WriteFile(file, []byte("threads: 1\nprefill_chunk: 4\n"), 0o666))
	hash, err := accelerate.Source{FS: tiny.Checkpoint(), Name: tiny.Name}.Hash()
	require.NoError(t, err)
	_, err = accelerate.Profile{Model: hash, Config: accelerate.Config{Threads: 1, PrefillChunk: 4}}.Write()
	require.NoError(t, err)
	measure := func(into any, gen string, args ...string) {
		t.Helper()
		r := qwenrt(t, append([]string{"bench", tiny.Name, "-p", "8", "-n", gen, "-r", "1", "--no-warmup", "-o", "json"}, args...)...)
		require.Equal(t, exitOK, r.code, r.stderr)
		require.NoError(t, json.Unmarshal([]byte(r.stdout), into))
	}
	type settings struct {
		Threads int `json:"n_threads"`
		Batch   int `json:"n_batch"`
	}
	for _, c := range []struct {
		why, gen string
		args     []string
		want     settings
	}{
		{"a file", "0", []string{"--config", file}, settings{1, 4}},
		{"one option", "0", []string{"--set", "threads=1", "--set", "prefill_chunk=4"}, settings{1, 4}},
		{"what tuning has found", "0", []string{"--compile", "max_autotune"}, settings{1, 4}},
		{"a preset", "0", []string{"--preset", "low-memory", "-t", "1"}, settings{1, 64}},
		{"flags win", "0", []string{"--config", file, "-t", "2", "-b", "8"}, settings{2, 8}},
		{"nobody says", "0", nil, settings{ort.DefaultThreads(), 512}},
		{"whole generations", "1", []string{"--config", file, "--concurrency", "1"}, settings{1, 4}},
	} {
		var got []settings
		measure(&got, c.gen, c.args...)
		require.Equal(t, []settings{c.want}, got, c.why)
	}
	var overhead []bench.Overhead
	measure(&overhead, "2", "--config", file, "--overhead")
	require.Len(t, overhead, 1)
	require.Equal(t, 1, overhead[0].Threads)
	var profiles []bench.Profile
	measure(&profiles, "0", "--config", file, "--profile", trace)
	require.Len(t, profiles, 1)
	require.Equal(t, 2, profiles[0].Runs, "8 tokens in chunks of 4")
}

func TestBenchErrors(t *testing.T) {
	for _, c := range []struct {
		why  string
		args []string
		code int
		want string
	}{
		{"no model", nil, exitUsage, "missing argument MODEL"},
		{"not a number", []string{"m", "-p", "many"}, exitUsage, `"many"`},
		{"negative", []string{"m", "-n", "-1"}, exitUsage, "a generation of -1 tokens: want 0 or more"},
		{"nothing left", []string{"m", "-p", "0", "-n", "0"}, exitUsage, "nothing to measure"},
		{"not a pair", []string{"m", "-pg", "512"}, exitUsage, "want two numbers, as in 512,128"},
		{"half a pair", []string{"m", "-pg", "512,0"}, exitUsage, "want 1 or more of each"},
		{"0 is not the default", []string{"m", "-r", "0"}, exitUsage, "--repetitions is 0"},
		{"no threads", []string{"m", "-t", "2,0"}, exitUsage, "--threads is 0"},
		{"no chunk", []string{"m", "-b", "8,0"}, exitUsage, "--batch-size is 0"},
		{"another format", []string{"m", "-o", "xml"}, exitUsage, "want md, json, jsonl, csv or gobench"},
		{"overhead is no record", []string{"m", "-o", "csv", "--overhead"}, exitUsage, "--overhead is written as md or json"},
		{"no trace", []string{"m", "--profile", ""}, exitUsage, "--profile wants a file"},
		{"another second format", []string{"m", "-oe", "xml"}, exitUsage, `output-err "xml"`},
		{"nothing to decode", []string{"m", "-n", "0", "--overhead"}, exitUsage, "--overhead needs tokens to decode"},
		{"no such model", []string{"no/such/model"}, exitError, "no such file or folder"},
	} {
		r := qwenrt(t, append([]string{"bench"}, c.args...)...)
		require.Equal(t, c.code, r.code, c.why)
		require.Contains(t, r.stderr, c.want, c.why)
		require.Equal(t, 1, strings.Count(r.stderr, "\n"), "one line: %s", r.stderr)
		require.Empty(t, r.stdout, c.why)
	}
}

func TestBenchTooLong(t *testing.T) {
	need(t)
	ownHome(t)
	r := qwenrt(t, "bench", tiny.Name, "-p", "4000", "-n", "0", "-o", "json")
	require.Equal(t, exitError, r.code)
	require.Contains(t, r.stderr, "pp4000: context length exceeded: 4000 tokens, the model takes 2048")
	require.Equal(t, "[]\n", r.stdout, "still JSON")
}
