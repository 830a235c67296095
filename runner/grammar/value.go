package grammar

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strconv"
	"strings"
)

// A JSON value is nil, bool, *big.Rat, string, []any or *object. Numbers are exact, and properties keep
// their order.
type object struct {
	names  []string
	values map[string]any
}

// The bounds of a schema's text.
const (
	maxSchema      = 1 << 20
	maxSchemaDepth = 128
	maxExponent    = 308 // of ten, in a number
)

// parseValue reads one JSON value.
func parseValue(text []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	v, err := nextValue(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("more than one value")
	}
	return v, nil
}

func nextValue(d *json.Decoder, depth int) (any, error) {
	t, err := d.Token()
	if err == io.EOF {
		return nil, io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	if depth > maxSchemaDepth {
		return nil, fmt.Errorf("nested deeper than %d", maxSchemaDepth)
	}
	switch t := t.(type) {
	case json.Number:
		return parseNumber(string(t))
	case json.Delim:
		if t == '[' {
			list := []any{}
			for d.More() {
				v, err := nextValue(d, depth+1)
				if err != nil {
					return nil, err
				}
				list = append(list, v)
			}
			_, err = d.Token()
			return list, err
		}
		return nextObject(d, depth)
	}
	return t, nil
}

func nextObject(d *json.Decoder, depth int) (any, error) {
	o := &object{values: map[string]any{}}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		name := t.(string) // the decoder takes nothing else there
		if _, twice := o.values[name]; twice {
			return nil, fmt.Errorf("%q is there twice", name)
		}
		v, err := nextValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		o.names = append(o.names, name)
		o.values[name] = v
	}
	_, err := d.Token()
	return o, err
}

func parseNumber(text string) (*big.Rat, error) {
	// The exponent is looked at first: a few digits can ask for a number of any size.
	if i := strings.IndexAny(text, "eE"); i >= 0 {
		if e, err := strconv.Atoi(text[i+1:]); err != nil || e < -maxExponent || e > maxExponent {
			return nil, fmt.Errorf("the number %.40s: exponents from -%d to %d are supported", text, maxExponent, maxExponent)
		}
	}
	if len(text) > maxDigits {
		return nil, fmt.Errorf("the number %.40s...: %d characters are supported", text, maxDigits)
	}
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		return nil, fmt.Errorf("the number %.40s", text)
	}
	return r, nil
}

// numberText spells a number without an exponent.
func numberText(r *big.Rat) string {
	n, _ := r.FloatPrec() // exact: it was decimal
	return r.FloatString(n)
}

func stringText(s string) string {
	var out strings.Builder
	for _, r := range s {
		out.WriteString(jsonSpelling(r))
	}
	return out.String()
}

func equalValues(x, y any) bool {
	switch x := x.(type) {
	case *big.Rat:
		y, ok := y.(*big.Rat)
		return ok && x.Cmp(y) == 0
	case []any:
		y, ok := y.([]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for i := range x {
			if !equalValues(x[i], y[i]) {
				return false
			}
		}
		return true
	case *object:
		y, ok := y.(*object)
		if !ok || len(x.names) != len(y.names) {
			return false
		}
		for name, v := range x.values {
			if w, ok := y.values[name]; !ok || !equalValues(v, w) {
				return false
			}
		}
		return true
	}
	return x == y
}

// literal is a value as JSON.
func (j *jsonTerms) literal(v any) id {
	switch v := v.(type) {
	case nil:
		return j.text("null")
	case bool:
		return j.text(strconv.FormatBool(v))
	case *big.Rat:
		return j.text(numberText(v))
	case string:
		return j.text(`"` + stringText(v) + `"`)
	case []any:
		parts := make([]id, len(v))
		for i, item := range v {
			parts[i] = j.literal(item)
		}
		return j.between("[", j.joined(parts), "]")
	}
	o := v.(*object)
	parts := make([]id, len(o.names))
	for i, name := range o.names {
		parts[i] = j.member(j.literal(name), j.literal(o.values[name]))
	}
	return j.between("{", j.joined(parts), "}")
}

// joined is parts with commas between them and space behind.
func (j *jsonTerms) joined(parts []id) id {
	var out []id
	for i, p := range parts {
		if i > 0 {
			out = append(out, j.text(","), j.space)
		}
		out = append(out, p, j.space)
	}
	return j.sequence(out...)
}
