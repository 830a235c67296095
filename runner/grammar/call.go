package grammar

import (
	"errors"
	"fmt"
	"strings"
)

// A Function is what a model may call.
type Function struct {
	Name       string
	Parameters []byte // JSON schema of the arguments, which are an object in any case; empty: any object
}

// Call compiles the grammar of a call of one of some functions, as Qwen3 and others write it between <tool_call> and
// </tool_call>:
//
//	\n{"name": "find", "arguments": {"what": "harbor"}}\n
//
// The arguments satisfy the function's schema, under the rules of Schema. Errors wrap ErrSchema or ErrLimit, and say which
// function they are about.
func Call(functions []Function, o Options) (*Grammar, error) {
	return compile(o, ErrSchema, func(a *arena) (id, error) {
		if len(functions) == 0 {
			return nothing, errors.New("no function to call")
		}
		j := newJSONTerms(a, o.Space)
		var calls []id
		for _, f := range functions {
			arguments, err := j.arguments(f, o)
			if err == nil && !a.lives(arguments) && !a.full {
				err = errors.New("no arguments satisfy it")
			}
			if err != nil {
				return nothing, fmt.Errorf("function %q: %w", f.Name, err)
			}
			calls = append(calls, j.sequence(j.text("\n{\"name\": \""+stringText(f.Name)+"\", \"arguments\": "), arguments, j.text("}\n")))
		}
		return j.alt(calls...), nil
	})
}

// arguments is an object that a function takes.
func (j *jsonTerms) arguments(f Function, o Options) (id, error) {
	if len(strings.TrimSpace(string(f.Parameters))) == 0 {
		return j.object(0), nil
	}
	root, err := readSchema(f.Parameters)
	if err != nil {
		return nothing, err
	}
	return j.schemas(o, root, anyObject())
}
