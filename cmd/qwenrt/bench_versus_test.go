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
	"github.com/qwenrt/qwenrt/runner/bench"
)

// TestBenchVersus compares the carried model with itself, in this process and in others; which is faster is
// not asked.
func TestBenchVersus(t *testing.T) {
	need(t)
	ownHome(t)
	t.Setenv(asProgram, "1") // for the sides that are programs
	program := os.Args[0]
	dir := t.TempDir()
	plain, int8 := filepath.Join(dir, "plain.yaml"), filepath.Join(dir, "int8.json")
	require.NoError(t, os.WriteFile(plain, []byte("threads: 1\nprefill_chunk: 3\n"), 0o666))
	require.NoError(t, os.WriteFile(int8, []byte(`{"precision": "int8"}`), 0o666))
	require.NoError(t, os.Chmod(int8, 0o777)) // as every file is on some file systems
	const model = "qwen3 9.97M "
	for _, c := range []struct {
		why          string
		a, b         string
		args         []string
		sideA, sideB side // hash left out
	}{
		{"models", tiny.Name, tiny.Name, []string{"-t", "2,1"},
			side{Model: model + "int4 b32", Threads: 2, Batch: 512}, side{Model: model + "int4 b32", Threads: 1, Batch: 512}},
		{"configurations: what they say, and the flags' where they do not", plain, int8, []string{"--model", tiny.Name},
			side{Model: model + "int4 b32", Threads: 1, Batch: 3}, side{Model: model + "int8 b32", Threads: ort.DefaultThreads(), Batch: 512}},
		{"flags win", tiny.Name, plain, []string{"--model", tiny.Name, "-t", "2", "-b", "8"},
			side{Model: model + "int4 b32", Threads: 2, Batch: 8}, side{Model: model + "int4 b32", Threads: 2, Batch: 8}},
		{"a model and a program", tiny.Name, program, []string{"--model", tiny.Name, "-t", "1", "-b", "8"},
			side{Model: model + "int4 b32", Threads: 1, Batch: 8}, side{Threads: 1, Batch: 8}},
		{"a command", tiny.Name, "exec:" + program + " bench worker " + tiny.Name + " -t 1", []string{"-t", "1"},
			side{Model: model + "int4 b32", Threads: 1, Batch: 512}, side{}},
	} {
		args := append([]string{"bench", "ab", c.a, c.b, "-p", "4", "-n", "2", "--budget", "1ms"}, c.args...)
		r := qwenrt(t, append(args, "-o", "json")...)
		require.Equal(t, exitOK, r.code, "%s: %s", c.why, r.stderr)
		var got []struct {
			Test  bench.Test `json:"test"`
			A     []float64  `json:"a_ns"`
			B     []float64  `json:"b_ns"`
			SideA side       `json:"side_a"`
			SideB side       `json:"side_b"`
		}
		require.NoError(t, json.Unmarshal([]byte(r.stdout), &got))
		require.Len(t, got, 2, c.why)
		require.Equal(t, bench.Test{Gen: 2}, got[1].Test, c.why)
		require.NotEmpty(t, got[1].A, c.why)
		require.Len(t, got[1].B, len(got[1].A), c.why)
		c.sideA.Name, c.sideB.Name = c.a, c.b
		for _, s := range []struct{ want, got side }{{c.sideA, got[0].SideA}, {c.sideB, got[0].SideB}} {
			require.Equal(t, s.want.Model != "", s.got.Hash != "", c.why)
			s.got.Hash = ""
			require.Equal(t, s.want, s.got, c.why)
		}
	}
	r := qwenrt(t, "bench", "ab", tiny.Name, tiny.Name, "-p", "4", "-n", "2", "-t", "1", "--budget", "1ms")
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Equal(t, 8, strings.Count(r.stdout, "\n"), "the sides, a row for each test, and the mean: %s", r.stdout)
	require.Contains(t, r.stdout, "unsure", "a millisecond says nothing")
}

func TestBenchCompare(t *testing.T) {
	need(t)
	ownHome(t)
	dir := t.TempDir()
	old, fresh := filepath.Join(dir, "old.json"), filepath.Join(dir, "new.jsonl")
	for path, format := range map[string]string{old: "json", fresh: "jsonl"} {
		r := qwenrt(t, "bench", tiny.Name, "-p", "4", "-n", "2", "-t", "1", "-r", "2", "-o", format)
		require.Equal(t, exitOK, r.code, r.stderr)
		require.NoError(t, os.WriteFile(path, []byte(r.stdout), 0o666))
	}
	r := qwenrt(t, "bench", "compare", old, fresh)
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Equal(t, 5, strings.Count(r.stdout, "\n"), r.stdout)
	require.Contains(t, r.stdout, "| pp4 |")
	require.Contains(t, r.stdout, "| 2+2 | unsure |", "two repetitions have no interval")
	r = qwenrt(t, "bench", "compare", old, fresh, "-o", "json")
	var changes []map[string]any
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &changes))
	require.Len(t, changes, 2)
}

func TestBenchSubcommandErrors(t *testing.T) {
	dir := t.TempDir()
	empty, config, broken := filepath.Join(dir, "empty.json"), filepath.Join(dir, "a.yaml"), filepath.Join(dir, "b.yaml")
	for path, text := range map[string]string{empty: "", config: "precision: int5", broken: "n_threads: 1"} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o666))
	}
	program := os.Args[0]
	for _, c := range []struct {
		why  string
		args string
		code int
		want string
	}{
		{"one side", "ab m", exitUsage, "bench ab: want two sides A and B, got 1; see qwenrt bench ab --help"},
		{"an unknown flag behind the arguments", "ab a b --what", exitUsage, `bench ab: unknown flag "what"; see qwenrt bench ab --help`},
		{"three counts of threads", "ab a b -t 1,2,3", exitUsage, "--threads has 3 numbers"},
		{"no time", "ab a b --budget 0s", exitUsage, "--budget is 0s"},
		{"sure of everything", "ab a b --confidence 1", exitUsage, "--confidence is 1"},
		{"no precision", "ab a b --precision 0", exitUsage, "--precision is 0"},
		{"nothing to run", "ab a b -p 0 -n 0", exitUsage, "nothing to measure"},
		{"another form", "ab a b -o csv", exitUsage, "want md or json"},
		{"a configuration without a model", "ab " + config + " b", exitUsage, "name the model that is run with it with --model"},
		{"a configuration that is none", "ab " + broken + " b --model m", exitError, `there is no option "n_threads"`},
		{"a configuration that asks for nonsense", "ab " + config + " b --model " + checkpoint, exitError, `"int5"`},
		{"a program without a model", "ab " + program + " b", exitUsage, "name the model that it is to run with --model"},
		{"no such side", "ab no/such/model b", exitError, "no such file or folder"},
		{"a worker that is none", "ab exec:true exec:true", exitError, "pp128"},
		{"no model", "worker", exitUsage, "bench worker: missing argument MODEL"},
		{"one file", "compare a", exitUsage, "want two files OLD and NEW, got 1"},
		{"no file", "compare a b", exitError, "no such file"},
		{"no results", "compare " + empty + " " + empty, exitError, "no results"},
		{"a margin below zero", "compare a b --margin -1", exitUsage, "--margin -1"},
	} {
		r := qwenrt(t, append([]string{"bench"}, strings.Fields(c.args)...)...)
		require.Equal(t, c.code, r.code, "%s: %s", c.why, r.stderr)
		require.Contains(t, r.stderr, c.want, c.why)
		require.Equal(t, 1, strings.Count(r.stderr, "\n"), "one line: %s", r.stderr)
		require.Empty(t, r.stdout, c.why)
	}
}
