package chat

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	modelDir  = "../../models/tiny/qwen3-tiny"
	casesFile = "../../models/testdata/reference/chat_template_cases.json"
)

// readJSON reads a file of testdata.
func readJSON(t testing.TB, path string, to any) {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, to))
}

// What transformers renders for Qwen3's template, byte for byte.
func TestQwen3(t *testing.T) {
	var cases []struct {
		Name                string
		Messages            []Message
		Tools               []json.RawMessage
		AddGenerationPrompt bool  `json:"add_generation_prompt"`
		EnableThinking      *bool `json:"enable_thinking"`
		Rendered            string
	}
	readJSON(t, casesFile, &cases)
	require.Len(t, cases, 20)
	tmpl, err := Load(modelDir)
	require.NoError(t, err)
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			text, err := tmpl.Render(t.Context(), c.Messages, Options{
				AddGenerationPrompt: c.AddGenerationPrompt, EnableThinking: c.EnableThinking, Tools: c.Tools,
			})
			require.NoError(t, err)
			require.Equal(t, c.Rendered, text)
		})
	}
}

// What Jinja prints, for the parts of the language that templates use.
func TestJinja(t *testing.T) {
	var file struct {
		Data json.RawMessage
		Rows []struct{ Why, Template, Rendered string }
	}
	readJSON(t, "testdata/jinja.json", &file)
	for _, row := range file.Rows {
		t.Run(row.Why, func(t *testing.T) {
			tmpl, err := New(row.Template)
			require.NoError(t, err)
			text, err := tmpl.Render(t.Context(), nil, Options{Extra: map[string]any{"a": "A", "data": file.Data}})
			require.NoError(t, err)
			require.Equal(t, row.Rendered, text)
		})
	}
}

func TestHostileTemplates(t *testing.T) {
	deepDict := strings.Repeat("{'a':", 150) + "1" + strings.Repeat("}", 150)
	loops := strings.Repeat("{% for x in range(100000) %}", 4) + strings.Repeat("{% endfor %}", 4)
	rows := []struct{ why, template, want string }{
		{"nested loops take for ever", loops, "steps"},
		{"a loop prints without end", "{% for x in range(1000000) %}{{ 'x' ~ messages[0].content }}{% endfor %}", "prints more"},
		{"a range is larger than memory", "{{ range(2000000000) | length }}", "steps"},
		{"a range has numbers that overflow", "{{ range(9223372036854775807) | length }}", "32 bits"},
		{"a macro calls itself", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "macros"},
		{"macros call each other", "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}", "macros"},
		{"a caller calls its macro", "{% macro f() %}{{ caller() }}{% endmacro %}{% macro g() %}{% call f() %}{{ g() }}{% endcall %}{% endmacro %}{{ g() }}", "macros"},
		{"a text doubles", "{% set n = namespace(x='abc') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}", "bytes"},
		{"a list doubles", "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}", "bytes"},
		{"a list shares itself", "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}", "bytes"},
		{"a set block doubles", "{% set n = namespace(x='abc') %}{% for i in range(60) %}{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}{% endfor %}", "bytes"},
		{"a namespace holds itself", "{% set n = namespace() %}{% set n.x = n %}{{ n ~ '' }}", "nested"},
		{"a namespace holds itself through a list", "{% set n = namespace() %}{% set n.x = [n] %}{{ n == n }}", "nested"},
		{"a list is changed", "{% set l = [] %}{{ l.append(l) }}{{ l }}", "append"},
		{"a dict is changed", "{% set d = {} %}{% set f = d.update %}{{ f(d) }}", "update"},
		{"a text is repeated", "{{ 'a' * 9999999999 }}", "numbers"},
		{"a product is repeated", "{{ 2 * 3 * 'a' * 9999999999 }}", "numbers"},
		{"replace multiplies", "{% set n = namespace(x='aaaa') %}{% for i in range(20) %}{% set n.x = n.x.replace('a', n.x) %}{% endfor %}", "bytes"},
		{"the engine panics", "{{ nothing.callme() }}{{ (1).x.y.z() }}", "not callable"},
		{"division by zero", "{{ 1 % 0 }}{{ raise_exception('x') }}", "refuses"},
		{"JSON of something undefined", "{{ nothing | tojson }}", "JSON"},
		{"JSON with a huge indentation", "{{ [1] | tojson(indent=1000000000) }}", "option"},
		{"a function of the meter is named", "{% set qwenrt_turn = 1 %}", "reserved"},
		{"a parameter is named like a filter", "{% macro f(qwenrt_print) %}{% endmacro %}", "reserved"},
		{"brackets nest deep", "{{ " + strings.Repeat("(", 5000) + strings.Repeat(")", 5000) + " }}", "nested brackets"},
		{"a dict nests deep", "{{ " + deepDict + " }}", "nested brackets"},
		{"blocks nest deep", strings.Repeat("{% if true %}", 5000) + strings.Repeat("{% endif %}", 5000), "nested blocks"},
		{"a tag is long", "{{ 1" + strings.Repeat("+1", 20000) + " }}", "tag is longer"},
		{"a template is long", strings.Repeat("x", maxSource+1), "limit"},
		{"a tag is open", "a {{ b", "not closed"},
		{"a string is open", "a {{ 'b }}", "not closed"},
		{"a comment is open", "a {# b", "not closed"},
		{"a block is open", "a {% if b %}", "not closed"},
		{"a raw block is open", "{% raw %} {% endrow %}", "not closed"},
		{"blocks cross", "{% if a %}{% for x in y %}{% endif %}{% endfor %}", "unexpected"},
		{"an end without a start", "{% endfor %}", "unexpected"},
		{"files are included", "{% include '/etc/passwd' %}", "unsupported statement"},
		{"two names are assigned", "{% set a, b = 1, 2 %}", "unsupported assignment"},
		{"a set block has a filter", "{% set a | upper %}x{% endset %}", "unsupported assignment"},
		{"a character is no Jinja", "{{ a ! b }}", "unexpected character"},
		{"an escape is no character", `{{ '\ud800' }}`, "bad escape"},
	}
	for _, row := range rows {
		t.Run(row.why, func(t *testing.T) {
			tmpl, err := New(row.template)
			if err == nil {
				_, err = tmpl.Render(t.Context(), []Message{{Role: "user", Content: strings.Repeat("y", 1000)}}, Options{})
			}
			require.ErrorContains(t, err, row.want)
			require.True(t, strings.HasPrefix(err.Error(), "chat: "), err)
			require.NotContains(t, err.Error(), "\n")
		})
	}
}

func TestRenderStopsWithContext(t *testing.T) {
	tmpl, err := New("{% for x in range(1000) %}{{ messages[0].content }}{% endfor %}")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = tmpl.Render(ctx, []Message{{Content: "x"}}, Options{})
	require.ErrorIs(t, err, context.Canceled)
}

// A context that ends while the template loops.
func TestRenderStopsInsideLoop(t *testing.T) {
	tmpl, err := New("{% for x in range(1000000) %}{% endfor %}")
	require.NoError(t, err)
	_, err = tmpl.Render(&endingContext{Context: t.Context(), polls: 1000}, nil, Options{})
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// endingContext is done after a number of polls, so that no clock is needed.
type endingContext struct {
	context.Context
	polls int
}

func (c *endingContext) Err() error {
	if c.polls--; c.polls < 0 {
		return context.DeadlineExceeded
	}
	return nil
}

func TestRefused(t *testing.T) {
	tmpl, err := New("{% if messages[0].role != 'user' %}{{ raise_exception('roles must alternate') }}{% endif %}")
	require.NoError(t, err)
	_, err = tmpl.Render(t.Context(), []Message{{Role: "tool"}}, Options{})
	require.ErrorIs(t, err, ErrRefused)
	require.ErrorContains(t, err, "roles must alternate")
}

func TestRenderInput(t *testing.T) {
	tmpl, err := New("{{ messages | tojson }}{{ tools | tojson }}{{ messages[0].tool_calls[0].function.arguments.n }}")
	require.NoError(t, err)
	call := func(arguments string) []Message {
		return []Message{{Role: "assistant", ToolCalls: []ToolCall{{Function: FunctionCall{Name: "f", Arguments: json.RawMessage(arguments)}}}}}
	}
	text, err := tmpl.Render(t.Context(), call(`{"n": 18446744073709551615}`), Options{})
	require.NoError(t, err)
	require.Equal(t, `[{"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": `+
		`{"name": "f", "arguments": {"n": 18446744073709551615}}}]}]null18446744073709551615`, text)

	for _, row := range []struct{ why, arguments string }{
		{"truncated", `{"a":`},
		{"two values", `{} {}`},
		{"not JSON", `x`},
		{"nested too deep", strings.Repeat("[", 300) + strings.Repeat("]", 300)},
	} {
		_, err := tmpl.Render(t.Context(), call(row.arguments), Options{})
		require.ErrorContains(t, err, `chat: message 0: tool call 0: arguments of "f"`, row.why)
		_, err = tmpl.Render(t.Context(), nil, Options{Tools: []json.RawMessage{[]byte(row.arguments)}})
		require.ErrorContains(t, err, "chat: tool 0", row.why)
	}
	_, err = tmpl.Render(t.Context(), nil, Options{Extra: map[string]any{"f": func() {}}})
	require.ErrorContains(t, err, `chat: variable "f"`)
}

func TestLoad(t *testing.T) {
	rows := []struct {
		why           string
		config, jinja string // files, absent where empty
		tools         bool
		want, err     string
	}{
		{why: "no files at all", err: "no chat template"},
		{why: "a config without a template", config: `{"eos_token": "x"}`, err: "no chat template"},
		{why: "a null template", config: `{"chat_template": null}`, err: "no chat template"},
		{why: "a text", config: `{"chat_template": "a{{ eos_token }}", "eos_token": "<e>"}`, want: "a<e>"},
		{why: "a token as an object", config: `{"chat_template": "{{ bos_token }}", "bos_token": {"content": "<b>"}}`, want: "<b>"},
		{why: "a null token is not defined", config: `{"chat_template": "{{ bos_token is defined }}", "bos_token": null}`, want: "False"},
		{why: "the file comes first", config: `{"chat_template": "config {{ x x }}", "eos_token": "<e>"}`, jinja: "file{{ eos_token }}\n", want: "file<e>"},
		{why: "the file alone", jinja: "file", want: "file"},
		{why: "named templates", config: `{"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]}`, want: "d"},
		{why: "named templates with tools", config: `{"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]}`, tools: true, want: "t"},
		{why: "one template takes tools too", config: `{"chat_template": "d"}`, tools: true, want: "d"},
		{why: "no name that is known", config: `{"chat_template": [{"name": "rag", "template": "r"}]}`, err: `named "default"`},
		{why: "a number", config: `{"chat_template": 1}`, err: "neither"},
		{why: "not JSON", config: `{`, err: "tokenizer_config.json"},
		{why: "a template with a fault", config: `{"chat_template": "a\n{{ x x }}"}`, err: `template "default"`},
	}
	for _, row := range rows {
		t.Run(row.why, func(t *testing.T) {
			dir := t.TempDir()
			if row.config != "" {
				require.NoError(t, os.WriteFile(filepath.Join(dir, configFile), []byte(row.config), 0o600))
			}
			if row.jinja != "" {
				require.NoError(t, os.WriteFile(filepath.Join(dir, templateFile), []byte(row.jinja), 0o600))
			}
			tmpl, err := Load(dir)
			if row.err != "" {
				require.ErrorContains(t, err, row.err)
				require.Equal(t, strings.Contains(row.err, "no chat template"), strings.Contains(err.Error(), ErrNoTemplate.Error()))
				return
			}
			require.NoError(t, err)
			var opts Options
			if row.tools {
				opts.Tools = []json.RawMessage{[]byte("{}")}
			}
			text, err := tmpl.Render(t.Context(), nil, opts)
			require.NoError(t, err)
			require.Equal(t, row.want, text)
		})
	}
}

func FuzzRender(f *testing.F) {
	tmpl, err := Load(modelDir)
	require.NoError(f, err)
	f.Add("user", "Hello", "", `{"a": 1}`)
	f.Add("assistant", "<think>\nx\n</think>\n\ny", "why", `"{}"`)
	f.Add("tool", "\xff{% {{", "\n\n", `[1e400, -0, 18446744073709551616]`)
	f.Fuzz(func(t *testing.T, role, content, reasoning, arguments string) {
		messages := []Message{
			{Role: "system", Content: content},
			{Role: "user", Content: content},
			{Role: role, Content: content, ReasoningContent: reasoning, ToolCalls: []ToolCall{
				{Function: FunctionCall{Name: role, Arguments: json.RawMessage(arguments)}},
			}},
		}
		text, err := tmpl.Render(t.Context(), messages, Options{AddGenerationPrompt: true})
		if err != nil {
			require.ErrorContains(t, err, "arguments of")
			return
		}
		require.True(t, strings.HasPrefix(text, "<|im_start|>system\n"+content))
		require.Contains(t, text, "<|im_start|>user\n"+content+"<|im_end|>\n")
		require.True(t, strings.HasSuffix(text, "<|im_start|>assistant\n"))
	})
}

// A template that compiles, renders or fails, but does nothing else.
func FuzzTemplate(f *testing.F) {
	var file struct {
		Rows []struct{ Template string }
	}
	readJSON(f, "testdata/jinja.json", &file)
	for _, row := range file.Rows {
		f.Add(row.Template)
	}
	f.Fuzz(func(t *testing.T, source string) {
		tmpl, err := New(source)
		if err != nil {
			return
		}
		_, _ = tmpl.Render(&endingContext{Context: t.Context(), polls: 10000}, []Message{{Role: "user", Content: "x"}}, Options{})
	})
}

func BenchmarkRender(b *testing.B) {
	tmpl, err := Load(modelDir)
	require.NoError(b, err)
	messages := []Message{{Role: "system", Content: "Be terse."}}
	for range 100 {
		messages = append(messages, Message{Role: "user", Content: "What is it?"}, Message{Role: "assistant", Content: "It is what it is."})
	}
	for b.Loop() {
		if _, err := tmpl.Render(b.Context(), messages, Options{AddGenerationPrompt: true}); err != nil {
			b.Fatal(err)
		}
	}
}
