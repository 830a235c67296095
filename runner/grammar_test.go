package runner_test

import (
	"encoding/json"
	"io/fs"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/grammar"
	"github.com/qwenrt/qwenrt/runner/sample"
)

// TestConstrain holds that a model with random weights, which writes anything, writes what a grammar allows.
func TestConstrain(t *testing.T) {
	r := toy{vocab: 8192, files: tokenised(t, map[string]string{"tokenizer_config.json": `{}`})}.open(t, runner.Options{})
	answer := func(g *grammar.Grammar, seed uint64) (string, runner.Result) {
		c, err := r.Constrain(g)
		require.NoError(t, err)
		text, res, err := r.Text(t.Context(), runner.Request{
			Prompt: "The", MaxTokens: 60, Constraint: c, Sampling: &sample.Params{Temperature: 1, Seed: seed},
		})
		require.NoError(t, err)
		return text, res
	}
	const date = `(yes|no), on \d{4}-(0[1-9]|1[0-2])-[0-3]\d[.!]`
	pattern, err := grammar.Regexp(date, grammar.Options{})
	require.NoError(t, err)
	for seed := range uint64(5) {
		text, res := answer(pattern, seed)
		require.Equal(t, runner.Stop, res.Reason)
		require.Regexp(t, regexp.MustCompile("^"+date+"$"), text)
	}

	object, err := grammar.JSONObject(grammar.Options{})
	require.NoError(t, err)
	ended := 0
	for seed := range uint64(5) {
		if text, res := answer(object, seed); res.Reason == runner.Stop {
			ended++
			require.True(t, json.Valid([]byte(text)), text)
		} else {
			require.True(t, len(text) > 0 && text[0] == '{', text)
		}
	}
	require.Positive(t, ended)
}

func TestConstrainWithoutTokenizer(t *testing.T) {
	g, err := grammar.Regexp("a", grammar.Options{})
	require.NoError(t, err)
	_, err = toy{vocab: 300}.open(t, runner.Options{}).Constrain(g)
	requireError(t, err, fs.ErrNotExist, "tokenizer.json")
}
