package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/stretchr/testify/require"
)

const harborSchema = `{
	"type": "object",
	"properties": {
		"name": {"type": "string", "minLength": 1, "maxLength": 12},
		"kind": {"enum": ["harbor", "port", "bay"]},
		"depth": {"type": "number", "minimum": 0, "maximum": 99.5},
		"ships": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 20}, "maxItems": 3}
	},
	"required": ["name", "kind", "depth"],
	"additionalProperties": false
}`

// TestRunGrammar holds that answers have the form that is asked for, whatever the model would like to say: at this
// temperature it would say anything.
func TestRunGrammar(t *testing.T) {
	need(t)
	model := built(t)
	ask := func(args ...string) completion {
		t.Helper()
		args = append([]string{"run", model, "-p", question, "--json", "--max-tokens", "400", "--temperature", "1.5", "--top-k", "0", "--top-p", "1"}, args...)
		r := qwenrt(t, args...)
		require.Equal(t, exitOK, r.code, r.stderr)
		var c completion
		require.NoError(t, json.Unmarshal([]byte(r.stdout), &c))
		return c
	}
	file := filepath.Join(t.TempDir(), "harbor.json")
	require.NoError(t, os.WriteFile(file, []byte(harborSchema), 0o666))
	var schema jsonschema.Schema
	require.NoError(t, json.Unmarshal([]byte(harborSchema), &schema))
	judge, err := schema.Resolve(nil)
	require.NoError(t, err)
	for seed, args := range [][]string{
		{"--json-schema", file}, {"--json-schema", harborSchema}, {"--json-schema", file, "--json-space", "flexible", "--json-any-order"},
	} {
		got := ask(append(args, "--seed", fmt.Sprint(seed))...)
		require.Equal(t, "stop", got.FinishReason, got.Text)
		var value any
		require.NoError(t, json.Unmarshal([]byte(got.Text), &value), got.Text)
		require.NoError(t, judge.Validate(value), got.Text)
	}
	require.Regexp(t, `^(yes|no): [a-z]{3,9}$`, ask("--regex", `(yes|no): [a-z]{3,9}`).Text)
	require.Equal(t, byte('{'), ask("--json-object", "--max-tokens", "5").Text[0])
}

func TestRunGrammarErrors(t *testing.T) {
	for _, c := range []struct {
		want string
		args []string
	}{
		{"exclude each other", []string{"--json-object", "--regex", "a"}},
		{"--json-space is \"wide\"", []string{"--json-object", "--json-space", "wide"}},
		{"are for --json-object", []string{"--regex", "a", "--json-any-order"}},
		{"there is no file no-such.json", []string{"--json-schema", "no-such.json"}},
		{`--json-schema: grammar: unusable schema: at #: "not" is not supported`, []string{"--json-schema", `{"not": {}}`}},
		{"--regex: grammar: unusable pattern", []string{"--regex", "("}},
	} {
		r := qwenrt(t, append([]string{"run", "no-such-model", "-p", "x"}, c.args...)...)
		require.NotEqual(t, exitOK, r.code)
		require.Contains(t, r.stderr, c.want)
	}
}
