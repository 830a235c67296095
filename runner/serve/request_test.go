package serve

import (
	"errors"
	"net/http"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/runner/sample"
)

// FuzzRequest holds that whatever comes is a request that the runner may be asked, or an error of status 400.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		`{"messages": [{"role": "user", "content": "x"}], "temperature": 0.5, "stop": ["a"], "n": 2, "seed": -1, "stream": true}`,
		`{"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}, {"role": "tool"}], "stop": "a", "max_tokens": -1}`,
		`{"messages": [{"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": null}}]}]}`,
		`{"messages": [{"role": "user"}], "tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required", "parallel_tool_calls": false}`,
		`{"messages": [{"role": "user"}], "response_format": {"type": "json_schema", "json_schema": {"schema": true}}, "logit_bias": {"1": 2}}`,
		`{"prompt": [[1, 2], [3]], "echo": true, "logprobs": 2, "structured_outputs": {"choice": ["a", "b"]}}`,
		`{"prompt": "x", "chat_template_kwargs": {"enable_thinking": false}, "top_k": -1, "best_of": 1, "functions": null}`,
		`{"prompt": 1e400}`, `[]`, `null`, ``,
	} {
		f.Add([]byte(seed))
	}
	d := defaults{sampling: sample.Params{Temperature: 0.6}, vocab: 100}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, read := range []func([]byte, defaults) (*generation, error){readChat, readCompletion} {
			g, err := read(body, d)
			var e *apiError
			if errors.As(err, &e) {
				require.Equal(t, http.StatusBadRequest, e.status)
				require.True(t, utf8.ValidString(e.Message) && e.Message != "", "%q", e.Message)
				continue
			}
			require.NoError(t, err)
			require.NotEmpty(t, g.prompts)
			require.LessOrEqual(t, len(g.prompts)*g.answers, maxChoices)
			for _, q := range g.prompts {
				require.NoError(t, q.Sampling.ValidateFor(d.vocab))
				require.Equal(t, g.answers, q.N)
				require.GreaterOrEqual(t, q.MaxTokens, 0)
				given := 0
				for _, is := range []bool{len(q.Messages) > 0, q.Prompt != "", len(q.Tokens) > 0} {
					if is {
						given++
					}
				}
				require.Equal(t, 1, given)
			}
		}
	})
}
