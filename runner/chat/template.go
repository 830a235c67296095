package chat

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ardanlabs/jinja"
)

var (
	// ErrNoTemplate is what Load returns for a folder without a chat template: a
	// base model, which takes raw text.
	ErrNoTemplate = errors.New("chat: the model folder has no chat template")

	// ErrRefused is what Render returns when the template itself refuses the
	// conversation by raise_exception, for example for roles in a wrong order.
	ErrRefused = errors.New("the template refuses the conversation")
)

const (
	configFile   = "tokenizer_config.json"
	templateFile = "chat_template.jinja"

	// maxConfig bounds tokenizer_config.json, of which the largest published ones
	// have 2 MB, most of it reserved tokens.
	maxConfig = 64 << 20

	defaultName = "default"
	toolName    = "tool_use"
)

// A Template is a model's chat template, ready to render. It is safe for use by
// several goroutines.
type Template struct {
	// byName holds one template named "default", and perhaps "tool_use", which
	// then renders conversations that have tools.
	byName map[string]*jinja.Template
	// tokens are the special tokens by their variable, such as eos_token.
	tokens map[string]string
}

// Options says how to render a conversation. The zero value renders it as it is.
type Options struct {
	// AddGenerationPrompt ends the text with the start of an assistant's turn.
	AddGenerationPrompt bool
	// EnableThinking is the variable enable_thinking of Qwen3's template; nil
	// leaves it undefined, which Qwen3 takes as true.
	EnableThinking *bool
	// Tools are the functions that the model may call, each a JSON object (for
	// Qwen3 {"type": "function", "function": {...}}) whose key order is kept.
	Tools []json.RawMessage
	// Extra are further variables of the template, converted as encoding/json does.
	Extra map[string]any
}

// New compiles a template from its Jinja source.
func New(source string) (*Template, error) {
	t := &Template{byName: map[string]*jinja.Template{}}
	if err := t.add(defaultName, source); err != nil {
		return nil, fmt.Errorf("chat: %w", err)
	}
	return t, nil
}

// Load compiles the chat template of a model folder: chat_template.jinja, or else
// chat_template of tokenizer_config.json (a text, or a list of named ones). It
// returns ErrNoTemplate when the folder has neither.
func Load(dir string) (*Template, error) {
	t := &Template{byName: map[string]*jinja.Template{}}
	sources, err := t.readConfig(filepath.Join(dir, configFile))
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, templateFile)
	source, err := readFile(file, maxSource)
	if err == nil {
		sources = map[string]string{defaultName: string(source)}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("chat: %w", err)
	}
	if len(sources) == 0 {
		return nil, fmt.Errorf("%w: %s", ErrNoTemplate, dir)
	}
	for _, name := range []string{defaultName, toolName} {
		if source, ok := sources[name]; ok {
			if err := t.add(name, source); err != nil {
				return nil, fmt.Errorf("chat: template %q of %s: %w", name, dir, err)
			}
		}
	}
	if len(t.byName) == 0 {
		return nil, fmt.Errorf("chat: %s: no chat template is named %q", dir, defaultName)
	}
	return t, nil
}

func (t *Template) add(name, source string) (err error) {
	defer recovered(&err)
	rewritten, err := rewrite(source)
	if err != nil {
		return err
	}
	compiled, err := jinja.Compile(rewritten)
	if err != nil {
		return err
	}
	t.byName[name] = compiled
	return nil
}

// readConfig reads the special tokens and the templates of tokenizer_config.json.
// A missing file has neither.
func (t *Template) readConfig(path string) (map[string]string, error) {
	data, err := readFile(path, maxConfig)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("chat: %w", err)
	}
	var config map[string]json.RawMessage
	if err := json.Unmarshal(data, &config); err != nil {
		return nil, fmt.Errorf("chat: %s: %w", path, err)
	}
	t.tokens = specialTokens(config)
	sources, err := templateSources(config["chat_template"])
	if err != nil {
		return nil, fmt.Errorf("chat: %s: chat_template is neither a text nor a list of {name, template}: %w", path, err)
	}
	return sources, nil
}

// specialTokens returns the entries such as "eos_token", which are a text or an
// object with the text in "content".
func specialTokens(config map[string]json.RawMessage) map[string]string {
	tokens := map[string]string{}
	for name, raw := range config {
		if !strings.HasSuffix(name, "_token") {
			continue
		}
		var text *string
		var added struct{ Content *string }
		if json.Unmarshal(raw, &text) != nil && json.Unmarshal(raw, &added) == nil {
			text = added.Content
		}
		if text != nil {
			tokens[name] = *text
		}
	}
	return tokens
}

func templateSources(raw json.RawMessage) (map[string]string, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	var source string
	if json.Unmarshal(raw, &source) == nil {
		return map[string]string{defaultName: source}, nil
	}
	var named []struct{ Name, Template string }
	if err := json.Unmarshal(raw, &named); err != nil {
		return nil, err
	}
	sources := make(map[string]string, len(named))
	for _, n := range named {
		sources[n.Name] = n.Template
	}
	return sources, nil
}

// readFile reads a file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return data, nil
}

// Render returns the text of a conversation. The rendering ends with ctx's error
// when ctx is done, and with an error when it exceeds the limits that the package
// comment names.
func (t *Template) Render(ctx context.Context, messages []Message, opts Options) (text string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("chat: %w", err)
		}
	}()
	defer recovered(&err)
	variables, err := t.variables(messages, opts)
	if err != nil {
		return "", err
	}
	m := &meter{ctx: ctx}
	if err := m.charge(0); err != nil {
		return "", err
	}
	for name, fn := range m.functions() {
		variables[name] = jinja.NewCallable(name, fn)
	}
	return t.choose(opts).RenderValues(variables)
}

// choose returns the template for a conversation, as transformers does.
func (t *Template) choose(opts Options) *jinja.Template {
	if tmpl := t.byName[toolName]; tmpl != nil && (len(opts.Tools) > 0 || t.byName[defaultName] == nil) {
		return tmpl
	}
	return t.byName[defaultName]
}

func (t *Template) variables(messages []Message, opts Options) (map[string]jinja.Value, error) {
	vars := map[string]jinja.Value{}
	for name, token := range t.tokens {
		vars[name] = jinja.NewString(token)
	}
	for name, extra := range opts.Extra {
		data, err := json.Marshal(extra)
		if err != nil {
			return nil, fmt.Errorf("variable %q: %w", name, err)
		}
		if vars[name], err = parseJSON(data); err != nil {
			return nil, fmt.Errorf("variable %q: %w", name, err)
		}
	}
	list := make([]jinja.Value, len(messages))
	for i, m := range messages {
		v, err := m.value()
		if err != nil {
			return nil, fmt.Errorf("message %d: %w", i, err)
		}
		list[i] = v
	}
	tools, err := toolValues(opts.Tools)
	if err != nil {
		return nil, err
	}
	vars["messages"] = jinja.NewList(list)
	vars["tools"] = tools
	vars["documents"] = jinja.None()
	vars["add_generation_prompt"] = jinja.NewBool(opts.AddGenerationPrompt)
	if opts.EnableThinking != nil {
		vars["enable_thinking"] = jinja.NewBool(*opts.EnableThinking)
	}
	return vars, nil
}

// toolValues returns the list of tools, or None where there are none.
func toolValues(tools []json.RawMessage) (jinja.Value, error) {
	if len(tools) == 0 {
		return jinja.None(), nil
	}
	list := make([]jinja.Value, len(tools))
	for i, raw := range tools {
		v, err := parseJSON(raw)
		if err != nil {
			return jinja.None(), fmt.Errorf("tool %d: %w", i, err)
		}
		list[i] = v
	}
	return jinja.NewList(list), nil
}

// recovered turns a panic of the engine into an error.
func recovered(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("the template engine failed: %v", r)
	}
}
