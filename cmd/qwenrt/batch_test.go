package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// requests writes a batch of requests and gives the files of it and of its results.
func requests(t *testing.T, lines ...string) (in, out string) {
	t.Helper()
	dir := t.TempDir()
	in, out = filepath.Join(dir, "in.jsonl"), filepath.Join(dir, "out.jsonl")
	require.NoError(t, os.WriteFile(in, []byte(strings.Join(lines, "\n")), 0o666))
	return in, out
}

func readResults(t *testing.T, path string) map[string]completion {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	all := map[string]completion{}
	for _, c := range objects(t, result{stdout: string(data)}) {
		require.NotContains(t, all, string(c.ID), "once only")
		all[string(c.ID)] = c
	}
	return all
}

func TestBatchToolChoice(t *testing.T) {
	need(t)
	const tool = `"tools": [{"name": "find", "parameters": {"maxProperties": 0}}], "max_tokens": 40`
	in, out := requests(t,
		`{"id": 1, "prompt": "x", `+tool+`, "tool_choice": {"type": "function", "function": {"name": "find"}}}`,
		`{"id": 2, "prompt": "x", `+tool+`, "tool_choice": "none"}`,
		`{"id": 3, "prompt": "x", "tool_choice": "required"}`,
	)
	r := qwenrt(t, "run", built(t), "--batch", in, "--results", out, "--temperature", "0")
	require.Equal(t, exitOK, r.code, r.stderr)
	got := readResults(t, out)
	require.Len(t, got["1"].ToolCalls, 1)
	require.Empty(t, got["2"].ToolCalls)
	require.Contains(t, got["3"].Error, "there are no Tools")

	for _, choice := range []string{`"find"`, `7`, `{"function": {}}`} {
		_, err := parseJob([]byte(`{"prompt": "x", "tool_choice": `+choice+`}`), 1)
		require.ErrorContains(t, err, "tool_choice "+choice+": want")
	}
}

func TestBatch(t *testing.T) {
	need(t)
	model := built(t)
	in, out := requests(t,
		`{"id": "a", "prompt": "What does \"harbor\" mean?"}`,
		``,
		`{"prompt": "What does \"harbor\" mean?", "max_tokens": 3}`,
		`{"id": 7, "messages": [{"role": "user", "content": "x"}], "seed": 3}`,
		`{"id": "none"}`,
		`{"id": "long", "prompt": "`+strings.Repeat("harbor ", 3000)+`"}`,
	)
	run := func(args ...string) result {
		return qwenrt(t, append([]string{"run", model, "--batch", in, "--results", out, "--no-think", "--temperature", "0", "--max-tokens", "8"}, args...)...)
	}
	r := run()
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Empty(t, r.stdout)
	require.Contains(t, r.stderr, "3 answered, 2 failed")
	got := readResults(t, out)
	require.Len(t, got, 5)
	require.True(t, strings.HasPrefix(got[`"a"`].Text, answer), got[`"a"`].Text)
	require.Equal(t, 8, got[`"a"`].CompletionTokens)
	require.Equal(t, 3, got["3"].CompletionTokens, "without an id it is the number of the line")
	require.Contains(t, got["\"none\""].Error, "exactly one of")
	require.Contains(t, got["\"long\""].Error, "context length")
	require.NotEmpty(t, got["7"].Text)

	first, err := os.ReadFile(out)
	require.NoError(t, err)
	r = run()
	require.Contains(t, r.stderr, "5 had been answered before\n0 answered, 0 failed")
	again, err := os.ReadFile(out)
	require.NoError(t, err)
	require.Equal(t, string(first), string(again), "nothing is left to do")

	whole := bytes.SplitAfter(first, []byte("\n"))
	require.NoError(t, os.WriteFile(out, bytes.Join(whole[:2], nil), 0o666))
	torn, err := os.OpenFile(out, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = torn.Write(whole[2][:20]) // as a killed process leaves it
	require.NoError(t, err)
	require.NoError(t, torn.Close())
	r = run("--slots", "3")
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Contains(t, r.stderr, "2 had been answered before\n")
	resumed := readResults(t, out)
	require.Len(t, resumed, 5)
	for id, c := range got {
		require.Equal(t, c.Text, resumed[id].Text)
		require.Equal(t, c.Error, resumed[id].Error)
	}
}

func TestBatchInterrupted(t *testing.T) {
	need(t)
	model := built(t)
	var lines []string
	for i := range 20 {
		lines = append(lines, fmt.Sprintf(`{"prompt": "%d"}`, i))
	}
	in, out := requests(t, lines...)
	args := []string{"run", model, "--batch", in, "--results", out, "--no-think", "--max-tokens", "5", "--stats"}
	ctx, cancel := context.WithCancel(t.Context())
	stderr := &cancelling{cancel: cancel} // at the first answer
	require.Equal(t, exitInterrupted, run(ctx, args, strings.NewReader(""), &bytes.Buffer{}, stderr))
	done := len(readResults(t, out))
	require.Positive(t, done)
	require.Less(t, done, 20)
	r := qwenrt(t, args...)
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Contains(t, r.stderr, fmt.Sprintf("%d had been answered before\n%d answered", done, 20-done))
	require.Len(t, readResults(t, out), 20)
}

func TestBatchFiles(t *testing.T) {
	need(t)
	model := built(t)
	const good = `{"prompt": "x"}`
	for _, c := range []struct{ why, line, results, want string }{
		{"no JSON", "x", "", "line 2: "},
		{"an unknown field", `{"promt": "x"}`, "", `line 2: json: unknown field "promt"`},
		{"two objects", `{"prompt": "x"} {}`, "", "line 2: more than one JSON object"},
		{"an id twice", `{"id": 1, "prompt": "x"}`, "", "line 2: the id 1 is there twice"},
		{"an id that is a list", `{"id": [1], "prompt": "x"}`, "", "line 2: the id [1] is neither a string nor a number"},
		{"a file that is no results", good, "hello\n", "line 1 is no result of a batch"},
	} {
		t.Run(c.why, func(t *testing.T) {
			in, out := requests(t, good, c.line)
			if c.results != "" {
				require.NoError(t, os.WriteFile(out, []byte(c.results), 0o666))
			}
			r := qwenrt(t, "run", model, "--batch", in, "--results", out)
			require.Equal(t, exitError, r.code, r.stderr)
			requireLine(t, r.stderr, c.want)
			if c.results == "" {
				require.NoFileExists(t, out, "nothing has been answered")
			}
		})
	}
}

// FuzzJobs holds that what is read of a file of requests has an id that can be found again in results.
func FuzzJobs(f *testing.F) {
	f.Add([]byte(`{"id": "a", "prompt": "x"}` + "\n\n" + `{"messages": [{"role": "user", "content": "x"}], "seed": 3}`))
	f.Add([]byte(`{"id": {}}`))
	f.Add([]byte(`{"id": 1e3, "max_tokens": -1}{`))
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = eachJob(bytes.NewReader(data), func(j job) error {
			require.NotEmpty(t, j.ID)
			path := filepath.Join(t.TempDir(), "out")
			out, err := openResults(path)
			require.NoError(t, err)
			require.NoError(t, out.append(completion{ID: j.ID}))
			require.NoError(t, out.file.Close())
			out, err = openResults(path)
			require.NoError(t, err)
			require.True(t, out.has(j.ID), "%s", j.ID)
			return out.file.Close()
		})
	})
}
