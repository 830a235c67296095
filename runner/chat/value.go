package chat

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode"

	"github.com/ardanlabs/jinja"
)

// bigInteger marks the engine's value for an integer that no int64 holds. The
// engine has no such kind; a callable passes through it untouched, and its name
// carries the digits to where the value is printed.
const bigInteger = "integer "

// parseJSON reads one JSON value. Objects keep the order of their keys, as a
// Python dict does: it is part of the text that a model sees.
func parseJSON(data []byte) (jinja.Value, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	v, err := parseValue(dec, 0)
	if err != nil {
		return jinja.None(), err
	}
	if _, err := dec.Token(); err != io.EOF {
		return jinja.None(), errors.New("more than one JSON value")
	}
	return v, nil
}

func parseValue(dec *json.Decoder, depth int) (jinja.Value, error) {
	if depth > maxNested {
		return jinja.None(), errNested
	}
	tok, err := dec.Token()
	if err == io.EOF {
		return jinja.None(), io.ErrUnexpectedEOF
	}
	if err != nil {
		return jinja.None(), err
	}
	switch t := tok.(type) {
	case json.Number:
		return parseNumber(t.String()), nil
	case json.Delim:
		if t == '[' {
			return parseList(dec, depth+1)
		}
		return parseDict(dec, depth+1)
	}
	return jinja.FromGoValue(tok), nil
}

func parseNumber(s string) jinja.Value {
	if strings.ContainsAny(s, ".eE") {
		f, _ := strconv.ParseFloat(s, 64) // out of range is infinity, as in Python
		return jinja.NewFloat(f)
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return jinja.NewCallable(bigInteger+s, nil)
	}
	return jinja.NewInt(n)
}

func parseList(dec *json.Decoder, depth int) (jinja.Value, error) {
	items := []jinja.Value{}
	for dec.More() {
		v, err := parseValue(dec, depth)
		if err != nil {
			return jinja.None(), err
		}
		items = append(items, v)
	}
	_, err := dec.Token()
	return jinja.NewList(items), err
}

func parseDict(dec *json.Decoder, depth int) (jinja.Value, error) {
	dict := jinja.NewDict()
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return jinja.None(), err
		}
		v, err := parseValue(dec, depth)
		if err != nil {
			return jinja.None(), err
		}
		dict.AsDict().Set(key.(string), v)
	}
	_, err := dec.Token()
	return dict, err
}

// A printer writes a value as Python's str, repr or json.dumps does.
type printer struct {
	out     []byte
	json    bool
	comma   string
	colon   string
	newline string // with its indentation for depth 0; empty for one line
	indent  string
}

// str spells a value as Python's str and Jinja's output do.
func str(v jinja.Value) (string, error) {
	if v.IsString() {
		return v.AsString(), nil
	}
	p := printer{comma: ", ", colon: ": "}
	if err := p.value(v, 0); err != nil {
		return "", err
	}
	return string(p.out), nil
}

// tojson is the filter of transformers: json.dumps with ensure_ascii off, where
// Jinja's own filter escapes for HTML and sorts keys.
func tojson(args []jinja.Value, kwargs map[string]jinja.Value) (jinja.Value, error) {
	p := printer{json: true, comma: ", ", colon: ": "}
	if len(args) != 1 {
		return jinja.None(), errors.New("tojson takes its options by name")
	}
	for name, v := range kwargs {
		switch {
		case name == "indent" && v.IsInt() && v.AsInt() >= 0 && v.AsInt() <= 16:
			p.newline, p.indent = "\n", strings.Repeat(" ", int(v.AsInt()))
		case name == "separators" && v.IsList() && v.AsList().Len() == 2:
		case name == "ensure_ascii" && v.IsBool() && !v.AsBool():
		case name == "indent" && v.IsNone(), name == "separators" && v.IsNone():
		default:
			return jinja.None(), fmt.Errorf("tojson: unsupported option %s=%s", name, v)
		}
	}
	if p.newline != "" {
		p.comma = ","
	}
	if v, ok := kwargs["separators"]; ok && v.IsList() {
		comma, colon := v.AsList().Items[0], v.AsList().Items[1]
		if !comma.IsString() || !colon.IsString() {
			return jinja.None(), errors.New("tojson: separators must be strings")
		}
		p.comma, p.colon = comma.AsString(), colon.AsString()
	}
	if err := p.value(args[0], 0); err != nil {
		return jinja.None(), err
	}
	return jinja.NewString(string(p.out)), nil
}

func (p *printer) value(v jinja.Value, depth int) error {
	if depth > maxNested {
		return errNested
	}
	if len(p.out) > maxOutput {
		return fmt.Errorf("value prints more than %d bytes", maxOutput)
	}
	switch {
	case v.IsString():
		p.string(v.AsString())
	case v.IsInt():
		p.out = strconv.AppendInt(p.out, v.AsInt(), 10)
	case v.IsFloat():
		p.float(v.AsFloat())
	case v.IsBool():
		p.word(strconv.FormatBool(v.AsBool()), map[bool]string{true: "True", false: "False"}[v.AsBool()])
	case v.IsNone():
		p.word("null", "None")
	case v.IsList():
		return p.list(v.AsList().Items, depth+1)
	case v.IsDict():
		return p.dict(v.AsDict(), depth+1)
	case v.IsCallable() && strings.HasPrefix(v.AsCallable().Name, bigInteger):
		p.out = append(p.out, v.AsCallable().Name[len(bigInteger):]...)
	case p.json:
		return errors.New("tojson: an undefined value or a function has no JSON form")
	}
	return nil
}

func (p *printer) word(json, python string) {
	if p.json {
		python = json
	}
	p.out = append(p.out, python...)
}

func (p *printer) list(items []jinja.Value, depth int) error {
	p.out = append(p.out, '[')
	for i, item := range items {
		p.separate(i, depth)
		if err := p.value(item, depth); err != nil {
			return err
		}
	}
	p.close(len(items), depth, ']')
	return nil
}

func (p *printer) dict(d *jinja.Dict, depth int) error {
	p.out = append(p.out, '{')
	for i, key := range d.Keys {
		p.separate(i, depth)
		p.string(key)
		p.out = append(p.out, p.colon...)
		if err := p.value(d.Data[key], depth); err != nil {
			return err
		}
	}
	p.close(len(d.Keys), depth, '}')
	return nil
}

func (p *printer) separate(i, depth int) {
	if i > 0 {
		p.out = append(p.out, p.comma...)
	}
	p.breakLine(depth)
}

func (p *printer) close(n, depth int, bracket byte) {
	if n > 0 {
		p.breakLine(depth - 1)
	}
	p.out = append(p.out, bracket)
}

func (p *printer) breakLine(depth int) {
	p.out = append(p.out, p.newline...)
	if p.newline != "" {
		p.out = append(p.out, strings.Repeat(p.indent, depth)...)
	}
}

// float spells a float as Python's repr: the shortest digits that read back, with
// an exponent below 1e-4 and from 1e16 on.
func (p *printer) float(f float64) {
	switch {
	case math.IsNaN(f):
		p.word("NaN", "nan")
	case math.IsInf(f, 1):
		p.word("Infinity", "inf")
	case math.IsInf(f, -1):
		p.word("-Infinity", "-inf")
	case f != 0 && (math.Abs(f) < 1e-4 || math.Abs(f) >= 1e16):
		p.out = strconv.AppendFloat(p.out, f, 'e', -1, 64)
	default:
		n := len(p.out)
		p.out = strconv.AppendFloat(p.out, f, 'f', -1, 64)
		if !bytes.ContainsRune(p.out[n:], '.') {
			p.out = append(p.out, ".0"...)
		}
	}
}

func (p *printer) string(s string) {
	quote := byte('"')
	if !p.json && (!strings.Contains(s, "'") || strings.Contains(s, `"`)) {
		quote = '\''
	}
	p.out = append(p.out, quote)
	for _, r := range s {
		switch {
		case r == rune(quote) || r == '\\':
			p.out = append(p.out, '\\', byte(r))
		case r == '\n' || r == '\r' || r == '\t':
			p.out = append(p.out, '\\', "tn  r"[r-'\t'])
		case p.json && (r == '\b' || r == '\f'):
			p.out = append(p.out, '\\', map[rune]byte{'\b': 'b', '\f': 'f'}[r])
		case p.json && r < ' ':
			p.out = fmt.Appendf(p.out, `\u%04x`, r)
		case p.json || unicode.IsPrint(r):
			p.out = append(p.out, string(r)...)
		default:
			p.out = appendUnprintable(p.out, r)
		}
	}
	p.out = append(p.out, quote)
}

// appendUnprintable writes a character that Python's repr does not show.
func appendUnprintable(out []byte, r rune) []byte {
	switch {
	case r <= 0xff:
		return fmt.Appendf(out, `\x%02x`, r)
	case r <= 0xffff:
		return fmt.Appendf(out, `\u%04x`, r)
	}
	return fmt.Appendf(out, `\U%08x`, r)
}
