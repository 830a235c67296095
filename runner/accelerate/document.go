package accelerate

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// decode reads YAML or JSON into a struct, by the tags of its fields. The error lists all that is wrong, each with its place:
// "[3:10] threads "many": want a whole number". What is right is read all the same. (The decoder of the YAML library ends at
// the first fault, speaks of Go's types, and cuts fractions off.)
func decode(text []byte, into any) error {
	n, err := parse(text)
	if err != nil || n == nil { // an empty file asks for nothing
		return err
	}
	r := reader{places: true}
	r.read(n, reflect.ValueOf(into).Elem(), "")
	return r.err()
}

// parse gives the tree of a document, nil where there is nothing in it.
func parse(text []byte) (ast.Node, error) {
	file, err := parser.ParseBytes(text, 0, parser.AllowDuplicateMapKey()) // those are found by the reader, with all else
	if err != nil {
		return nil, errors.New(strings.Join(strings.Fields(yaml.FormatError(err, false, false)), " "))
	}
	var all []ast.Node
	for _, d := range file.Docs {
		if d.Body != nil && d.Body.Type() != ast.NullType {
			all = append(all, d.Body)
		}
	}
	switch len(all) {
	case 0:
		return nil, nil
	case 1:
		return all[0], nil
	}
	return nil, fmt.Errorf("%d documents: want one", len(all))
}

// reader puts a tree into values, and collects what is wrong.
type reader struct {
	places bool // faults tell line and column
	faults []string
}

func (r *reader) err() error {
	if len(r.faults) == 0 {
		return nil
	}
	return errors.New(strings.Join(r.faults, "; "))
}

func (r *reader) fault(n ast.Node, format string, args ...any) bool {
	text := fmt.Sprintf(format, args...)
	if at := n.GetToken(); r.places && at != nil {
		text = fmt.Sprintf("[%d:%d] %s", at.Position.Line, at.Position.Column, text)
	}
	r.faults = append(r.faults, text)
	return false
}

// wrong is the fault of a node that is not what the option takes.
func (r *reader) wrong(n ast.Node, name, want string) bool {
	if name == "" {
		return r.fault(n, "want %s", want)
	}
	if text, ok := scalar(n); ok {
		return r.fault(n, "%s %q: want %s", name, text, want)
	}
	return r.fault(n, "%s: want %s", name, want)
}

// read sets v, the option of this name, and reports whether the node is right for it. Nothing there, or null, is the default.
func (r *reader) read(n ast.Node, v reflect.Value, name string) bool {
	if n == nil || n.Type() == ast.NullType {
		v.SetZero()
		return true
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		text, ok := scalar(n)
		if !ok {
			return r.wrong(n, name, "text")
		}
		if err := u.UnmarshalText([]byte(text)); err != nil {
			_, reason, _ := strings.Cut(err.Error(), ": ") // less the package
			return r.fault(n, "%s: %s", name, reason)
		}
		return true
	}
	switch v.Kind() {
	case reflect.Pointer:
		into := reflect.New(v.Type().Elem())
		if !r.read(n, into.Elem(), name) {
			return false
		}
		v.Set(into)
		return true
	case reflect.Struct:
		return r.readStruct(n, v, name)
	case reflect.Map:
		return r.readMap(n, v, name)
	case reflect.Slice:
		return r.readSlice(n, v, name)
	}
	return r.readScalar(n, v, name)
}

func (r *reader) readStruct(n ast.Node, v reflect.Value, name string) bool {
	all, ok := entries(n)
	if !ok {
		return r.wrong(n, name, "options, each as NAME: VALUE")
	}
	before := len(r.faults)
	var seen []string
	for _, e := range all {
		key := e.Key.GetToken().Value
		path := key
		if name != "" {
			path = name + "." + key
		}
		switch field := option(v, key); {
		case !field.IsValid():
			r.fault(e.Key, "there is no option %q", path)
		case slices.Contains(seen, key):
			r.fault(e.Key, "%s is there twice", path)
		default:
			r.read(e.Value, field, path)
		}
		seen = append(seen, key)
	}
	return len(r.faults) == before
}

// readMap reads texts by their names.
func (r *reader) readMap(n ast.Node, v reflect.Value, name string) bool {
	all, ok := entries(n)
	if !ok {
		return r.wrong(n, name, "entries, each as NAME: VALUE")
	}
	before := len(r.faults)
	into := reflect.MakeMap(v.Type())
	for _, e := range all {
		key := e.Key.GetToken().Value
		path, at := name+"."+key, reflect.ValueOf(key)
		value := reflect.New(v.Type().Elem()).Elem()
		if into.MapIndex(at).IsValid() {
			r.fault(e.Key, "%s is there twice", path)
		} else if r.read(e.Value, value, path) {
			into.SetMapIndex(at, value)
		}
	}
	if len(r.faults) > before {
		return false
	}
	v.Set(into)
	return true
}

func (r *reader) readSlice(n ast.Node, v reflect.Value, name string) bool {
	list, ok := n.(*ast.SequenceNode)
	if !ok {
		return r.wrong(n, name, "a list")
	}
	before := len(r.faults)
	into := reflect.MakeSlice(v.Type(), len(list.Values), len(list.Values))
	for i, e := range list.Values {
		r.read(e, into.Index(i), name)
	}
	if len(r.faults) > before {
		return false
	}
	v.Set(into)
	return true
}

func (r *reader) readScalar(n ast.Node, v reflect.Value, name string) bool {
	switch v.Kind() {
	case reflect.String:
		text, ok := scalar(n)
		if !ok {
			return r.wrong(n, name, "text")
		}
		v.SetString(text)
	case reflect.Bool:
		b, ok := n.(*ast.BoolNode)
		if !ok {
			return r.wrong(n, name, "true or false")
		}
		v.SetBool(b.Value)
	case reflect.Int, reflect.Int64:
		i, ok := whole(n)
		if !ok {
			return r.wrong(n, name, "a whole number")
		}
		v.SetInt(i)
	case reflect.Uint64:
		u, ok := natural(n)
		if !ok {
			return r.wrong(n, name, "a whole number, 0 or more")
		}
		v.SetUint(u)
	case reflect.Float64:
		f, ok := decimal(n)
		if !ok {
			return r.wrong(n, name, "a number")
		}
		v.SetFloat(f)
	default:
		panic("accelerate: no way to read " + v.Type().String()) // an option of a new kind, which TestSetEveryOption finds
	}
	return true
}

// entries are those of a mapping, of which the library has two forms.
func entries(n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch m := n.(type) {
	case *ast.MappingNode:
		return m.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{m}, true
	}
	return nil, false
}

// scalar is the text of a value, as it is written.
func scalar(n ast.Node) (string, bool) {
	switch s := n.(type) {
	case *ast.StringNode:
		return s.Value, true
	case *ast.LiteralNode:
		return s.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// whole is an integer. The library has those that are not negative as uint64.
func whole(n ast.Node) (int64, bool) {
	i, ok := n.(*ast.IntegerNode)
	if !ok {
		return 0, false
	}
	if v, ok := i.Value.(int64); ok {
		return v, true
	}
	u, ok := i.Value.(uint64)
	return int64(u), ok && u <= math.MaxInt64
}

func natural(n ast.Node) (uint64, bool) {
	i, ok := n.(*ast.IntegerNode)
	if !ok {
		return 0, false
	}
	u, ok := i.Value.(uint64)
	return u, ok
}

func decimal(n ast.Node) (float64, bool) {
	switch f := n.(type) {
	case *ast.FloatNode:
		return f.Value, true
	case *ast.InfinityNode:
		return f.Value, true
	case *ast.IntegerNode:
		i, ok := whole(n)
		return float64(i), ok
	case *ast.StringNode: // which 1e-3 is to the library
		v, err := strconv.ParseFloat(f.Value, 64)
		return v, err == nil && f.Token.Type == token.StringType
	}
	return 0, false
}
