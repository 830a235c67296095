package grammar

import (
	"fmt"
	"math"
	"math/big"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// types are a set of JSON's types; numbers that are no integers are one of their own.
type types uint8

const (
	typeNull types = 1 << iota
	typeBoolean
	typeInteger
	typeFraction
	typeString
	typeArray
	typeObject

	typeNumber = typeInteger | typeFraction
	allTypes   = typeNull | typeBoolean | typeNumber | typeString | typeArray | typeObject
)

var typeNames = map[string]types{
	"null": typeNull, "boolean": typeBoolean, "integer": typeInteger, "number": typeNumber,
	"string": typeString, "array": typeArray, "object": typeObject,
}

// A node is a schema: what its keywords say, as they stand (JSON Schema 2020-12, core and validation).
type node struct {
	number int    // in the order of reading
	path   string // JSON pointer

	never   bool // the schema false
	types   types
	choices []any // of enum or const; nil where there is none

	numbers numbers

	minLength, maxLength int32 // maxLength unbounded: none
	patterns             []string
	formats              []string

	prefix             []*node
	items              *node // nil: any
	minItems, maxItems int32

	properties                   []namedNode
	patternProperties            []namedNode
	additional                   *node // nil: any
	names                        *node // nil: any
	required                     []string
	minProperties, maxProperties int32

	also   []*node // $ref and allOf: they hold too
	groups []group

	bare *node // this without also and groups; itself where it has none
}

type namedNode struct {
	name string
	node *node
}

// A group is schemas of which one holds: any, or exactly one.
type group struct {
	nodes   []*node
	exactly bool
	path    string
}

// A reading makes nodes of a schema's text.
type reading struct {
	root    any
	nodes   map[string]*node // by path
	anchors map[string]string
	count   int
}

// maxNodes bounds the schemas within a schema.
const maxNodes = 10_000

func readSchema(text []byte) (*node, error) {
	if len(text) > maxSchema {
		return nil, fmt.Errorf("%d bytes, more than the %d that are supported", len(text), maxSchema)
	}
	root, err := parseValue(text)
	if err != nil {
		return nil, fmt.Errorf("it is not JSON: %w", err)
	}
	r := &reading{root: root, nodes: map[string]*node{}, anchors: map[string]string{}}
	r.findAnchors(root, "")
	n, err := r.node(root, "")
	if err != nil {
		return nil, err
	}
	return n, r.checkCycles()
}

func at(path string) string { return "at #" + path + ": " }

func escapePointer(name string) string {
	return strings.ReplaceAll(strings.ReplaceAll(name, "~", "~0"), "/", "~1")
}

// findAnchors collects $anchor of all schemas.
func (r *reading) findAnchors(v any, path string) {
	switch v := v.(type) {
	case *object:
		if name, ok := v.values["$anchor"].(string); ok {
			r.anchors[name] = path
		}
		for _, name := range v.names {
			r.findAnchors(v.values[name], path+"/"+escapePointer(name))
		}
	case []any:
		for i, item := range v {
			r.findAnchors(item, path+"/"+strconv.Itoa(i))
		}
	}
}

func newNode(number int, path string) *node {
	return &node{number: number, path: path, types: allTypes, maxLength: unbounded, maxItems: unbounded, maxProperties: unbounded}
}

// anyObject is the schema of objects, for use beside one that was read: those have numbers from 1 on.
func anyObject() *node {
	n := newNode(0, "")
	n.types, n.bare = typeObject, n
	return n
}

// node reads the schema v at a path.
func (r *reading) node(v any, path string) (*node, error) {
	if n, ok := r.nodes[path]; ok {
		return n, nil
	}
	if r.count++; r.count > maxNodes {
		return nil, fmt.Errorf("more than %d schemas within it", maxNodes)
	}
	n := newNode(r.count, path)
	r.nodes[path] = n
	switch v := v.(type) {
	case bool:
		n.never = !v
	case *object:
		for _, name := range v.names {
			if err := r.keyword(n, v, name); err != nil {
				return nil, err
			}
		}
	default:
		return nil, fmt.Errorf("%sa schema is an object or a boolean", at(path))
	}
	n.bare = n
	if len(n.also)+len(n.groups) > 0 {
		bare := *n
		bare.also, bare.groups = nil, nil
		r.count++
		bare.number = r.count
		bare.bare = &bare
		n.bare = &bare
	}
	return n, nil
}

// notes are the keywords that say nothing about what is valid.
var notes = []string{
	"$schema", "$comment", "$anchor", "$defs", "definitions", "title", "description", "default", "examples",
	"deprecated", "readOnly", "writeOnly", "contentMediaType", "contentEncoding", "contentSchema",
}

// keyword reads one keyword of the schema o into n.
func (r *reading) keyword(n *node, o *object, name string) (err error) {
	v := o.values[name]
	wrong := func(want string) error { return fmt.Errorf("%s%q is not %s", at(n.path), name, want) }
	path := n.path + "/" + escapePointer(name)
	switch name {
	case "type":
		n.types, err = readTypes(v)
	case "enum":
		list, ok := v.([]any)
		if !ok {
			return wrong("a list")
		}
		n.restrict(list)
	case "const":
		n.restrict([]any{v})
	case "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf":
		number, ok := v.(*big.Rat)
		if !ok || name == "multipleOf" && number.Sign() <= 0 {
			return wrong("a number, above 0 for multipleOf")
		}
		switch name {
		case "minimum", "exclusiveMinimum":
			n.numbers.atLeast(number, name != "minimum")
		case "maximum", "exclusiveMaximum":
			n.numbers.atMost(number, name != "maximum")
		case "multipleOf":
			n.numbers.multiples = []*big.Rat{number}
		}
	case "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties":
		number, ok := count(v)
		if !ok {
			return wrong(fmt.Sprintf("an integer from 0 to %d", math.MaxInt32))
		}
		*map[string]*int32{
			"minLength": &n.minLength, "maxLength": &n.maxLength, "minItems": &n.minItems,
			"maxItems": &n.maxItems, "minProperties": &n.minProperties, "maxProperties": &n.maxProperties,
		}[name] = number
	case "pattern", "format":
		text, ok := v.(string)
		if !ok {
			return wrong("a string")
		}
		if name == "pattern" {
			n.patterns = []string{text}
		} else if n.formats = []string{text}; formats[text] == "" {
			return fmt.Errorf("%sthe format %s is not supported", at(n.path), quoted(text))
		}
	case "required":
		var ok bool
		if n.required, ok = names(v); !ok {
			return wrong("a list of different strings")
		}
	case "prefixItems", "allOf", "anyOf", "oneOf":
		list, ok := v.([]any)
		if !ok || len(list) == 0 {
			return wrong("a list of schemas")
		}
		nodes, err := r.list(list, path)
		if err != nil {
			return err
		}
		switch name {
		case "prefixItems":
			n.prefix = nodes
		case "allOf":
			n.also = append(n.also, nodes...)
		default:
			n.groups = append(n.groups, group{nodes: nodes, exactly: name == "oneOf", path: path})
		}
	case "properties", "patternProperties":
		list, err := r.named(v, path)
		if err != nil {
			return err
		}
		if name == "properties" {
			n.properties = list
		} else {
			n.patternProperties = list
		}
	case "items":
		if _, list := v.([]any); list {
			return fmt.Errorf(`%s"items" with a list is of an older draft: write "prefixItems"`, at(n.path))
		}
		n.items, err = r.node(v, path)
	case "additionalProperties":
		n.additional, err = r.node(v, path)
	case "propertyNames":
		n.names, err = r.node(v, path)
	case "$ref":
		target, err := r.reference(v, n.path)
		if err != nil {
			return err
		}
		n.also = append(n.also, target)
	case "dependentRequired", "dependentSchemas":
		return r.dependencies(n, v, path, name == "dependentRequired")
	case "$id":
		if n.path != "" {
			return fmt.Errorf(`%s"$id" is supported at the root only`, at(n.path))
		}
	case "uniqueItems":
		if v != false {
			return fmt.Errorf(`%s"uniqueItems" is not supported`, at(n.path))
		}
	default:
		if !slices.Contains(notes, name) && !strings.HasPrefix(name, "x-") {
			return fmt.Errorf("%s%s is not supported", at(n.path), quoted(name))
		}
	}
	if err != nil && !strings.HasPrefix(err.Error(), "at #") {
		return fmt.Errorf("%s%w", at(n.path), err)
	}
	return err
}

// restrict leaves of a node's choices those that are in list.
func (n *node) restrict(list []any) {
	if n.choices == nil {
		n.choices = slices.Clone(list)
		if n.choices == nil {
			n.choices = []any{}
		}
		return
	}
	n.choices = slices.DeleteFunc(n.choices, func(v any) bool { return !containsValue(list, v) })
}

func containsValue(list []any, v any) bool {
	return slices.ContainsFunc(list, func(w any) bool { return equalValues(v, w) })
}

func readTypes(v any) (types, error) {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	var out types
	for _, item := range list {
		name, ok := item.(string)
		if !ok || typeNames[name] == 0 {
			return 0, fmt.Errorf(`"type" is not a name of a type, or a list of them`)
		}
		out |= typeNames[name]
	}
	return out, nil
}

func count(v any) (int32, bool) {
	r, ok := v.(*big.Rat)
	if !ok || !r.IsInt() || r.Sign() < 0 || !r.Num().IsInt64() || r.Num().Int64() > math.MaxInt32 {
		return 0, false
	}
	return int32(r.Num().Int64()), true
}

func names(v any) ([]string, bool) {
	list, ok := v.([]any)
	out := make([]string, len(list))
	for i, item := range list {
		name, isText := item.(string)
		ok = ok && isText && !slices.Contains(out[:i], name)
		out[i] = name
	}
	return out, ok
}

func (r *reading) list(list []any, path string) ([]*node, error) {
	out := make([]*node, len(list))
	for i, v := range list {
		var err error
		if out[i], err = r.node(v, path+"/"+strconv.Itoa(i)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (r *reading) named(v any, path string) ([]namedNode, error) {
	o, ok := v.(*object)
	if !ok {
		return nil, fmt.Errorf("%san object of schemas is wanted", at(path))
	}
	out := make([]namedNode, len(o.names))
	for i, name := range o.names {
		n, err := r.node(o.values[name], path+"/"+escapePointer(name))
		if err != nil {
			return nil, err
		}
		out[i] = namedNode{name, n}
	}
	return out, nil
}

// dependencies reads what holds of objects that have a property: they lack it, or have it and the rest.
func (r *reading) dependencies(n *node, v any, path string, required bool) error {
	o, ok := v.(*object)
	if !ok {
		return fmt.Errorf("%san object is wanted", at(path))
	}
	for _, name := range o.names {
		here := path + "/" + escapePointer(name)
		lacks, err := r.node(&object{}, here+"#lacks") // no pointer has a # within
		if err != nil {
			return err
		}
		never, err := r.node(false, here+"#never")
		if err != nil {
			return err
		}
		lacks.properties = []namedNode{{name, never}}
		has, err := r.node(&object{}, here+"#has")
		if err != nil {
			return err
		}
		has.required = []string{name}
		g := group{nodes: []*node{lacks, has}, path: here}
		if required {
			more, ok := names(o.values[name])
			if !ok {
				return fmt.Errorf("%sa list of different strings is wanted", at(here))
			}
			has.required = append(has.required, slices.DeleteFunc(more, func(m string) bool { return m == name })...)
		} else {
			then, err := r.node(o.values[name], here)
			if err != nil {
				return err
			}
			has.also = []*node{then}
			bare := *has
			bare.also = nil
			r.count++
			bare.number, bare.bare = r.count, &bare
			has.bare = &bare
		}
		n.groups = append(n.groups, g)
	}
	return nil
}

// reference reads the schema that $ref names.
func (r *reading) reference(v any, from string) (*node, error) {
	text, ok := v.(string)
	if !ok {
		return nil, fmt.Errorf(`%s"$ref" is not a string`, at(from))
	}
	fragment, local := strings.CutPrefix(text, "#")
	if o, ok := r.root.(*object); !local && ok { // the schema by its own name
		if self, ok := o.values["$id"].(string); ok && self != "" {
			fragment, local = strings.CutPrefix(text, self)
			fragment = strings.TrimPrefix(fragment, "#")
		}
	}
	if !local {
		return nil, fmt.Errorf(`%s"$ref" to %s: only schemas within this one are supported, as #/$defs/name`, at(from), quoted(text))
	}
	path, err := url.PathUnescape(fragment)
	if err != nil {
		return nil, fmt.Errorf(`%s"$ref": %w`, at(from), err)
	}
	if anchor, ok := r.anchors[path]; ok && path != "" {
		path = anchor
	}
	target, err := r.resolve(path)
	if err != nil {
		return nil, fmt.Errorf(`%s"$ref" to %s: %w`, at(from), quoted(text), err)
	}
	return r.node(target, path)
}

// resolve follows a JSON pointer.
func (r *reading) resolve(path string) (any, error) {
	v := r.root
	if path == "" {
		return v, nil
	}
	if path[0] != '/' {
		return nil, fmt.Errorf("there is no such anchor")
	}
	for _, part := range strings.Split(path[1:], "/") {
		part = strings.ReplaceAll(strings.ReplaceAll(part, "~1", "/"), "~0", "~")
		missing := fmt.Errorf("there is no %s", quoted(part))
		switch w := v.(type) {
		case *object:
			var ok bool
			if v, ok = w.values[part]; !ok {
				return nil, missing
			}
		case []any:
			i, err := strconv.Atoi(part)
			if err != nil || i < 0 || i >= len(w) {
				return nil, missing
			}
			v = w[i]
		default:
			return nil, missing
		}
	}
	return v, nil
}

// checkCycles refuses schemas that are, in the same place, part of themselves.
func (r *reading) checkCycles() error {
	const under, done = 1, 2
	state := map[*node]int{}
	var visit func(n *node) error
	visit = func(n *node) error {
		switch state[n] {
		case under:
			return fmt.Errorf("%sit refers to itself without anything in between", at(n.path))
		case done:
			return nil
		}
		state[n] = under
		next := slices.Clone(n.also)
		for _, g := range n.groups {
			next = append(next, g.nodes...)
		}
		for _, m := range next {
			if err := visit(m); err != nil {
				return err
			}
		}
		state[n] = done
		return nil
	}
	paths := make([]string, 0, len(r.nodes))
	for path := range r.nodes {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	for _, path := range paths {
		if err := visit(r.nodes[path]); err != nil {
			return err
		}
	}
	return nil
}
