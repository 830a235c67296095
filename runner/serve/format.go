package serve

import (
	"encoding/json"
	"regexp"
	"strings"
	"sync"

	"github.com/qwenrt/qwenrt/runner/grammar"
)

// format is what an answer is to be a text of. The zero value is anything.
type format struct {
	param  string // that asked for it
	schema string // JSON schema
	object bool   // any JSON object
	regex  string
}

// space is what models write of themselves; nothing is gained by keeping them from it.
var space = grammar.Options{Space: grammar.Flexible}

func (o format) compile() (*grammar.Grammar, error) {
	switch {
	case o.object:
		return grammar.JSONObject(space)
	case o.schema != "":
		return grammar.Schema([]byte(o.schema), space)
	}
	return grammar.Regexp(o.regex, space)
}

// format reads response_format, which is OpenAI's, and structured_outputs, which is vLLM's.
func (f *fields) format() (o format) {
	var response struct {
		Type       string
		JSONSchema *struct {
			Schema json.RawMessage
		} `json:"json_schema"`
	}
	if f.read("response_format", "an object with a type", &response) {
		switch response.Type {
		case "text":
		case "json_object":
			o = format{param: "response_format", object: true}
		case "json_schema":
			o.param = "response_format.json_schema.schema"
			if response.JSONSchema == nil || len(response.JSONSchema.Schema) == 0 {
				f.fail(o.param, "a schema is required")
				return o
			}
			o.schema = string(response.JSONSchema.Schema)
		default:
			f.fail("response_format.type", "%q is not one of text, json_object and json_schema", response.Type)
		}
	}
	var outputs map[string]json.RawMessage
	if f.read("structured_outputs", "an object", &outputs) {
		if o != (format{}) || len(outputs) != 1 {
			f.fail("structured_outputs", "want one of json, json_object, regex and choice, and no response_format")
			return o
		}
		return f.structured(outputs)
	}
	return o
}

// structured reads vLLM's object, which has one member.
func (f *fields) structured(outputs map[string]json.RawMessage) (o format) {
	o.param = "structured_outputs"
	in := &fields{all: outputs}
	var choice []string
	switch {
	case in.flag("json_object", &o.object) && o.object:
	case in.text("regex", &o.regex):
	case in.read("choice", "a list of strings", &choice) && len(choice) > 0:
		for i, c := range choice {
			choice[i] = regexp.QuoteMeta(c)
		}
		o.regex = strings.Join(choice, "|")
	case len(outputs["json"]) > 0:
		o.schema = string(outputs["json"])
	default:
		f.fail(o.param, "want one of json, json_object, regex and choice, and no response_format")
	}
	return o
}

// grammars keeps those that were asked for last, as the requests of a program mostly want the same.
type grammars struct {
	mu   sync.Mutex
	made map[format]*grammar.Grammar
}

// maxGrammars are kept.
const maxGrammars = 32

func (g *grammars) get(o format) (*grammar.Grammar, error) {
	g.mu.Lock()
	made, ok := g.made[o]
	g.mu.Unlock()
	if ok {
		return made, nil
	}
	made, err := o.compile() // others need not wait for it
	if err != nil {
		return nil, wrong(o.param, "%v", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.made) == maxGrammars || g.made == nil {
		g.made = map[format]*grammar.Grammar{}
	}
	g.made[o] = made
	return made, nil
}
