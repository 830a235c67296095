package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/models/tiny"
)

// built makes a model folder of the carried model.
func built(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "model")
	r := qwenrt(t, "build", tiny.Name, "-o", dir)
	require.Equal(t, exitOK, r.code, r.stderr)
	return dir
}

// TestRunCheckpoint holds that run builds once, and that the carried model needs nothing else.
func TestRunCheckpoint(t *testing.T) {
	need(t)
	ownHome(t)
	for _, model := range []string{tiny.Name, checkpoint} {
		r := qwenrt(t, "run", model, "-p", question, "--no-think", "--temperature", "0", "--max-tokens", "8")
		require.Equal(t, exitOK, r.code, r.stderr)
		require.True(t, strings.HasPrefix(r.stdout, answer), r.stdout)
		require.Equal(t, model == tiny.Name, strings.Contains(r.stderr, "bits a weight"), "the second has the same content, and so the same folder")
	}
}

func TestRunJSON(t *testing.T) {
	need(t)
	model := built(t)
	r := qwenrt(t, "run", model, "-p", question, "--no-think", "--temperature", "0", "--max-tokens", "8", "--json", "--threads", "1")
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Empty(t, r.stderr)
	var got completion
	d := json.NewDecoder(strings.NewReader(r.stdout))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&got))
	require.True(t, strings.HasPrefix(got.Text, answer), got.Text)
	require.Positive(t, got.TTFT)
	require.Positive(t, got.PromptPerSecond)
	require.Positive(t, got.TokensPerSecond)
	require.Positive(t, got.TPOT)
	got.Text, got.TTFT, got.TPOT, got.PromptPerSecond, got.TokensPerSecond = "", 0, 0, 0, 0
	require.Equal(t, completion{Model: model, FinishReason: "length", PromptTokens: 20, CompletionTokens: 8}, got)
}

// Guesses change no answer; a model that guesses for itself is always right.
func TestRunSpeculates(t *testing.T) {
	need(t)
	model := built(t)
	ask := func(args ...string) completion {
		r := qwenrt(t, append([]string{"run", model, "--json", "-p", question, "--temperature", "0", "--max-tokens", "40"}, args...)...)
		require.Equal(t, exitOK, r.code, r.stderr)
		var c completion
		require.NoError(t, json.Unmarshal([]byte(r.stdout), &c))
		return c
	}
	plain := ask()
	require.Zero(t, plain.DraftedTokens)
	require.Equal(t, plain.Text, ask("--speculate").Text)
	drafted := ask("--draft", model)
	require.Equal(t, plain.Text, drafted.Text)
	require.Greater(t, drafted.AcceptedTokens, drafted.DraftedTokens/2)
}

func TestRunPrompts(t *testing.T) {
	need(t)
	model := built(t)
	ask := func(stdin string, args ...string) completion {
		args = append([]string{"run", model, "--json", "--max-tokens", "8"}, args...)
		r := qwenrtWith(t, strings.NewReader(stdin), args...)
		require.Equal(t, exitOK, r.code, r.stderr)
		var c completion
		require.NoError(t, json.Unmarshal([]byte(r.stdout), &c))
		return c
	}
	plain := ask("", "-p", question, "--temperature", "0")
	piped := ask(question+"\n", "-p", "-", "--temperature", "0")
	require.Equal(t, plain.Text, piped.Text, "the end of the last line is no part of the prompt")
	require.Equal(t, plain.PromptTokens, piped.PromptTokens)

	require.Greater(t, ask("", "-p", question, "--system", "Be brief.").PromptTokens, plain.PromptTokens)
	require.Less(t, ask("", "-p", question, "--no-chat").PromptTokens, plain.PromptTokens)

	sampled := func(seed string) string {
		return ask("", "-p", question, "--no-think", "--temperature", "2", "--top-k", "0", "--top-p", "1", "--seed", seed).Text
	}
	require.Equal(t, sampled("1"), sampled("1"))
	require.NotEqual(t, sampled("1"), sampled("2"))
}

func TestRunBadInput(t *testing.T) {
	need(t)
	model := built(t)
	empty := t.TempDir()
	noTokenizer := filepath.Join(t.TempDir(), "model")
	require.NoError(t, os.CopyFS(noTokenizer, os.DirFS(model)))
	require.NoError(t, os.Remove(filepath.Join(noTokenizer, "tokenizer.json")))
	noData := filepath.Join(t.TempDir(), "model")
	require.NoError(t, os.CopyFS(noData, os.DirFS(model)))
	require.NoError(t, os.Truncate(filepath.Join(noData, "model.onnx.data"), 4096))
	for _, c := range []struct {
		why, model, prompt, want string
	}{
		{"no such folder", "no/such/folder", "x", "no such file or folder"},
		{"a name that has not been downloaded", "Qwen/Qwen3-0.6B", "x", "hub: "},
		{"neither model nor checkpoint", empty, "x", "no ONNX model, and no checkpoint"},
		{"a file that is no model", "run_test.go", "x", "ends in .onnx"},
		{"no tokenizer", noTokenizer, "x", "tokenizer.json"},
		{"truncated weights", noData, "x", "model.onnx.data"},
		{"a prompt longer than the context", model, strings.Repeat("harbor ", 3000), "context"},
	} {
		t.Run(c.why, func(t *testing.T) {
			r := qwenrt(t, "run", c.model, "-p", c.prompt, "--offline")
			require.Equal(t, exitError, r.code, r.stderr)
			require.Empty(t, r.stdout)
			requireLine(t, r.stderr, c.want)
		})
	}
}

// objects reads what --json prints.
func objects(t *testing.T, r result) (all []completion) {
	t.Helper()
	require.Equal(t, exitOK, r.code, r.stderr)
	d := json.NewDecoder(strings.NewReader(r.stdout))
	for d.More() {
		var c completion
		require.NoError(t, d.Decode(&c))
		all = append(all, c)
	}
	return all
}

func TestRunOptions(t *testing.T) {
	need(t)
	model := built(t)
	run := func(args ...string) result {
		return qwenrt(t, append([]string{"run", model, "-p", question, "--no-think", "--max-tokens", "12"}, args...)...)
	}
	ask := func(args ...string) []completion { return objects(t, run(append(args, "--json")...)) }
	plain := ask("--temperature", "0")[0]

	stopped := ask("--temperature", "0", "--stop", "arbor\" m", "--stop", "a, b")[0]
	require.Equal(t, `The noun "h`, stopped.Text)
	require.Equal(t, "stop", stopped.FinishReason)

	several := ask("--temperature", "2", "--seed", "5", "--n", "3")
	require.Len(t, several, 3)
	require.Equal(t, []int{0, 1, 2}, []int{several[0].Index, several[1].Index, several[2].Index})
	require.NotEqual(t, several[0].Text, several[1].Text)
	for i, c := range ask("--temperature", "2", "--seed", "5", "--n", "3", "--slots", "2") {
		require.Equal(t, several[i].Text, c.Text, "at the same time or one after the other")
	}
	shown := run("--temperature", "2", "--seed", "5", "--n", "2", "--slots", "2", "--strict", "--stats")
	require.Equal(t, several[0].Text+"\n\n"+several[1].Text+"\n", shown.stdout)
	require.Equal(t, 2, strings.Count(shown.stderr, "TPOT"))

	likely := ask("--temperature", "0", "--logprobs", "2")[0]
	require.Len(t, likely.Logprobs, likely.CompletionTokens)
	for _, l := range likely.Logprobs {
		require.Len(t, l.Top, 2)
		require.Equal(t, *l.Logprob, *l.Top[0].Logprob, "greedy")
		require.Equal(t, l.Text, l.Top[0].Text)
	}
	id := strconv.Itoa(int(likely.Logprobs[0].Token))
	require.NotEqual(t, plain.Text, ask("--temperature", "0", "--logit-bias", id+"=-100")[0].Text)
	require.Zero(t, ask("--temperature", "0", "--stop-token", id)[0].CompletionTokens)
	echoed := ask("--temperature", "0", "--echo")[0]
	require.True(t, strings.HasPrefix(echoed.Text, "user\n"+question), echoed.Text)

	beams := ask("--beams", "3", "--n", "2")
	require.Less(t, beams[1].Score, beams[0].Score)
	require.NotEqual(t, beams[0].Text, beams[1].Text)

	bad := run("--stop-token", "100000", "--logit-bias", "100000=1", "--min-tokens", "20")
	require.Equal(t, exitError, bad.code)
	requireLine(t, bad.stderr, "MinTokens is 20, above MaxTokens, which is 12; ")
	require.Contains(t, bad.stderr, "the token 100000")
	require.Contains(t, bad.stderr, "StopTokens[0] is 100000")
}

func TestRunTools(t *testing.T) {
	need(t)
	model := built(t)
	tools := filepath.Join(t.TempDir(), "tools.json")
	require.NoError(t, os.WriteFile(tools, []byte(`[{"type": "function", "function": {"name": "find"}}]`), 0o666))
	count := func(args ...string) int {
		return objects(t, qwenrt(t, append([]string{"run", model, "-p", question, "--max-tokens", "2", "--json"}, args...)...))[0].PromptTokens
	}
	require.Greater(t, count("--tools", tools), count())
	require.NoError(t, os.WriteFile(tools, []byte(`{}`), 0o666))
	r := qwenrt(t, "run", model, "-p", question, "--tools", tools)
	require.Equal(t, exitError, r.code)
	requireLine(t, r.stderr, "want a JSON list of objects")

	require.NoError(t, os.WriteFile(tools, []byte(`[{"name": "find", "parameters": {"properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": false}}]`), 0o666))
	choose := func(word string) result {
		return qwenrt(t, "run", model, "-p", question, "--tools", tools, "--tool-choice", word, "--max-tokens", "60", "--json", "--temperature", "0")
	}
	called := objects(t, choose("find"))[0]
	require.Empty(t, called.Text)
	require.Equal(t, "tool_calls", called.FinishReason)
	require.Len(t, called.ToolCalls, 1)
	require.Regexp(t, `^\{\s*"n":\s*[12]\s*\}$`, string(called.ToolCalls[0].Function.Arguments))
	require.NotEmpty(t, objects(t, choose("required"))[0].ToolCalls)
	require.Empty(t, objects(t, choose("none"))[0].ToolCalls)
	r = choose("lose")
	require.Equal(t, exitError, r.code)
	requireLine(t, r.stderr, `Tool is "lose", and there is none of that name`)
	r = qwenrt(t, "run", model, "-p", question, "--tool-choice", "required")
	require.Equal(t, exitUsage, r.code)
	requireLine(t, r.stderr, "--tool-choice is for --tools")
}

// cancelling cancels a context at the first text, as a user who has read enough.
type cancelling struct {
	text   strings.Builder
	cancel func()
}

func (w *cancelling) Write(p []byte) (int, error) {
	w.cancel()
	return w.text.Write(p)
}

func (w *cancelling) String() string { return w.text.String() }

func TestRunInterrupted(t *testing.T) {
	need(t)
	model := built(t)
	config := filepath.Join(t.TempDir(), "config.yaml")
	require.NoError(t, os.WriteFile(config, []byte("slots: 2\n"), 0o666))
	for _, c := range []struct {
		why  string
		args []string
	}{
		{"an answer alone", nil},
		{"one answer streams where there is room for several", []string{"--config", config}},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		stdout, stderr := &cancelling{cancel: cancel}, &bytes.Buffer{}
		args := append([]string{"run", model, "-p", question, "--no-think", "--temperature", "0"}, c.args...)
		code := run(ctx, args, strings.NewReader(""), stdout, stderr)
		require.Equal(t, exitInterrupted, code, "%s: %s", c.why, stderr)
		require.Equal(t, "The\n", stdout.String(), "%s: what there is, and not a token more", c.why)
		require.Contains(t, stderr.String(), "1 generated", c.why)
		require.True(t, strings.HasSuffix(stderr.String(), "qwenrt: interrupted\n"), "%s: %s", c.why, stderr)
	}
}

// TestInterruptSignal sends a real Ctrl-C to a real process.
func TestInterruptSignal(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows sends an interrupt to a whole console, so the test would end itself: run it on another system; TestRunInterrupted has the same without a process")
	}
	need(t)
	ownHome(t)
	// Noise goes on for hundreds of tokens, which is seconds.
	cmd := command(t, "run", built(t), "-p", "x", "--no-chat", "--temperature", "3", "--top-k", "0", "--top-p", "1", "--seed", "3")
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	stderr := &bytes.Buffer{}
	cmd.Stderr = stderr
	require.NoError(t, cmd.Start())
	_, err = stdout.Read(make([]byte, 1))
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	_, err = io.Copy(io.Discard, stdout)
	require.NoError(t, err)
	require.Error(t, cmd.Wait())
	require.Equal(t, exitInterrupted, cmd.ProcessState.ExitCode(), stderr)
	require.Contains(t, stderr.String(), "generated")
}

func stderrOf(t *testing.T, err error) string {
	t.Helper()
	exit, ok := errors.AsType[*exec.ExitError](err)
	require.True(t, ok, err)
	return string(exit.Stderr)
}
