package grammar

import (
	"encoding/json"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

var functions = []Function{
	{Name: "find", Parameters: []byte(`{"type":"object","properties":{"what":{"$ref":"#/$defs/short"},"n":{"type":"integer","minimum":1,"maximum":9}},
		"required":["what"],"additionalProperties":false,"$defs":{"short":{"type":"string","maxLength":3}}}`)},
	{Name: `say "hi"`},
	{Name: "nest", Parameters: []byte(`{"properties":{"a":{"anyOf":[{"type":"null"},{"$ref":"#"}]}},"additionalProperties":false}`)},
}

func TestCall(t *testing.T) {
	v := newTestVocabulary(t)
	for _, c := range []struct {
		why, text string
		want      bool
	}{
		{"a call", "\n{\"name\": \"find\", \"arguments\": {\"what\":\"tea\"}}\n", true},
		{"what may be left out, and blanks", "\n{\"name\": \"find\", \"arguments\": {\"what\": \"tea\", \"n\": 3}}\n", true},
		{"arguments that another function has", "\n{\"name\": \"find\", \"arguments\": {\"a\":null}}\n", false},
		{"arguments beyond their bounds", "\n{\"name\": \"find\", \"arguments\": {\"what\":\"coffee\"}}\n", false},
		{"no such function", "\n{\"name\": \"lose\", \"arguments\": {}}\n", false},
		{"without parameters any object is allowed", "\n{\"name\": \"say \\\"hi\\\"\", \"arguments\": {\"x\":[1]}}\n", true},
		{"but no list", "\n{\"name\": \"say \\\"hi\\\"\", \"arguments\": [1]}\n", false},
		{"a schema that does not say so is for an object too", "\n{\"name\": \"nest\", \"arguments\": 1}\n", false},
		{"each reference is into the function's own schema", "\n{\"name\": \"nest\", \"arguments\": {\"a\":{\"a\":null}}}\n", true},
		{"not all of it", "\n{\"name\": \"nest\", \"arguments\": {}}", false},
	} {
		g, err := Call(functions, Options{Space: Flexible})
		require.NoError(t, err)
		require.Equal(t, c.want, accepts(g, v, c.text), c.why)
	}
}

func TestCallWalks(t *testing.T) {
	v := newTestVocabulary(t, append(testWords, "\n{\"", `name": "`, `": `, `{"what`)...)
	random := rand.New(rand.NewPCG(7, 8))
	ended := 0
	for range 10 {
		g, err := Call(functions, Options{})
		require.NoError(t, err)
		if out, ok := walkAtRandom(t, g, v, random, 120); ok {
			ended++
			require.True(t, json.Valid([]byte(out)), "%q", out)
		}
	}
	require.Positive(t, ended)
}

func TestCallErrors(t *testing.T) {
	for _, c := range []struct {
		why, says string
		functions []Function
	}{
		{"none", "no function to call", nil},
		{"not JSON", `function "f": it is not JSON`, []Function{{"f", []byte("{")}}},
		{"a keyword that is not supported", `function "g": at #`, []Function{{Name: "f"}, {"g", []byte(`{"not":{}}`)}}},
		{"no object", `function "f": no arguments satisfy it`, []Function{{"f", []byte(`{"type":"string"}`)}, {Name: "g"}}},
	} {
		_, err := Call(c.functions, Options{})
		require.ErrorIs(t, err, ErrSchema, c.why)
		require.ErrorContains(t, err, c.says, c.why)
	}
}
