package grammar

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Schema compiles a JSON schema (draft 2020-12). Its texts are the valid values, each string, number and
// enumerated value in one spelling: strings without needless escapes wherever more than their length is
// asked for, numbers without an exponent where they have bounds. Properties come in the schema's order,
// unless Options say otherwise. Names that the schema does not list are not kept from coming twice; the
// value of each is valid.
//
// What is not supported is an error that says where: not, if, contains, uniqueItems, unevaluated...,
// minProperties above 1 and the required ones where names are free, schemas elsewhere, and oneOf unless its schemas
// are found to exclude each other. Errors wrap ErrSchema or ErrLimit.
func Schema(schema []byte, o Options) (*Grammar, error) {
	return compile(o, ErrSchema, func(a *arena) (id, error) {
		root, err := readSchema(schema)
		if err != nil {
			return nothing, err
		}
		return newJSONTerms(a, o.Space).schemas(o, root)
	})
}

// schemas is what satisfies some schemas, which are not part of each other.
func (j *jsonTerms) schemas(o Options, roots ...*node) (id, error) {
	c := &compiler{j: j, anyOrder: o.AnyOrder, values: map[string]*value{}, patterns: map[string]id{}}
	v, err := c.value(roots)
	if err != nil {
		return nothing, err
	}
	if err := c.finish(); err != nil {
		return nothing, err
	}
	return j.valueTerm(v), nil
}

// A compiler turns sets of schemas, all of which are to hold, into values. A set is known by its members, so
// that schemas that contain themselves become values that do.
type compiler struct {
	j        *jsonTerms
	anyOrder bool
	values   map[string]*value
	ordered  []*value // as they were made
	patterns map[string]id
	apart    []exclusion
	depth    int
}

const (
	// maxValues bounds the sets of schemas.
	maxValues = 50_000
	// maxAlternatives bounds what anyOf and oneOf make of one set.
	maxAlternatives = 256
	// maxPrefix bounds prefixItems.
	maxPrefix = 1000
	// maxPatternProperties bounds the patterns for names in one object: each set of them is a case.
	maxPatternProperties = 6
)

// An exclusion is what must turn out to be empty: two schemas of a oneOf together.
type exclusion struct {
	both         *value
	first, other *node
}

// A value is what satisfies a set of schemas: one of scalars, arrays and objects.
type value struct {
	rule    int
	any     bool // any JSON
	scalars []id
	arrays  []*arrayOf
	objects []*objectOf

	possible bool // there is some
}

// arrayOf is arrays: the first items, then any number of others.
type arrayOf struct {
	prefix   []*value
	items    *value
	min, max int32
}

// objectOf is objects.
type objectOf struct {
	rule       int
	properties []property
	free       []freeProperty
	min, max   int32
	anyOrder   bool
}

type property struct {
	name     string
	value    *value
	required bool
}

// freeProperty is properties whose names the schema does not list.
type freeProperty struct {
	name  id
	value *value
}

func sortNodes(nodes []*node) []*node {
	out := slices.Clone(nodes)
	slices.SortFunc(out, func(x, y *node) int { return cmp.Compare(x.number, y.number) })
	return slices.Compact(out)
}

// value returns the value of a set.
func (c *compiler) value(set []*node) (*value, error) {
	set = sortNodes(set)
	var members strings.Builder
	for _, n := range set {
		fmt.Fprintf(&members, "%d,", n.number)
	}
	if v, ok := c.values[members.String()]; ok {
		return v, nil
	}
	if len(c.ordered) == maxValues {
		return nil, fmt.Errorf("it comes to more than %d different schemas", maxValues)
	}
	if c.depth++; c.depth > 4*maxSchemaDepth {
		return nil, fmt.Errorf("schemas are nested deeper than %d", 4*maxSchemaDepth)
	}
	defer func() { c.depth-- }()
	v := &value{}
	v.rule = c.j.rules.add(&valueRule{c.j, v})
	c.values[members.String()] = v
	c.ordered = append(c.ordered, v)
	sets, err := c.alternatives(set)
	if err != nil {
		return nil, err
	}
	for _, s := range sets {
		if err := c.add(v, s); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// flatten adds nodes to what holds, with all that holds with them, and returns the groups that come along.
func flatten(holds map[*node]bool, nodes []*node) []group {
	var groups []group
	for _, n := range nodes {
		if holds[n] {
			continue
		}
		holds[n] = true
		groups = append(groups, n.groups...)
		groups = append(groups, flatten(holds, n.also)...)
	}
	return groups
}

// An alternative is schemas that hold together, without groups. choices are its values where they are listed.
type alternative struct {
	nodes   []*node
	choices []any
}

// alternatives gives what satisfies a set in the form of sets without groups, one of which is to hold.
func (c *compiler) alternatives(set []*node) ([]alternative, error) {
	holds := map[*node]bool{}
	groups := flatten(holds, set)
	if list := choices(holds); list != nil { // then every keyword can be tried on them
		valid, err := c.filter(list, set)
		return []alternative{{choices: valid}}, err
	}
	var out []alternative
	err := c.choose(holds, groups, func(holds map[*node]bool) error {
		if len(out) == maxAlternatives {
			return fmt.Errorf("%sanyOf and oneOf come to more than %d alternatives", at(set[0].path), maxAlternatives)
		}
		a := alternative{nodes: bare(holds)}
		var err error
		if list := choices(holds); list != nil {
			a.choices, err = c.filter(list, a.nodes)
		}
		out = append(out, a)
		return err
	})
	return out, err
}

// choose calls f with what holds after each way to choose from all groups.
func (c *compiler) choose(holds map[*node]bool, groups []group, f func(holds map[*node]bool) error) error {
	if len(groups) == 0 {
		return f(holds)
	}
	g := groups[0]
	if g.exactly {
		if err := c.exclude(bare(holds), g); err != nil {
			return err
		}
	}
	for _, n := range g.nodes {
		with := maps.Clone(holds)
		more := flatten(with, []*node{n})
		if err := c.choose(with, slices.Concat(groups[1:], more), f); err != nil {
			return err
		}
	}
	return nil
}

func bare(holds map[*node]bool) []*node {
	var out []*node
	for n := range holds {
		out = append(out, n.bare)
	}
	return sortNodes(out)
}

// choices is the values that the first schema to list some lists, or nil.
func choices(holds map[*node]bool) []any {
	var first *node
	for n := range holds {
		if n.choices != nil && (first == nil || n.number < first.number) {
			first = n
		}
	}
	if first == nil {
		return nil
	}
	return first.choices
}

// filter gives those of a list that all schemas accept.
func (c *compiler) filter(list []any, set []*node) ([]any, error) {
	out := []any{}
	for _, v := range list {
		ok, err := c.accepts(set, v)
		if err != nil {
			return nil, err
		}
		if ok && !containsValue(out, v) {
			out = append(out, v)
		}
	}
	return out, nil
}

// exclude notes that the schemas of a oneOf must exclude each other where the others hold.
func (c *compiler) exclude(holds []*node, g group) error {
	for i, other := range g.nodes {
		for _, first := range g.nodes[:i] {
			both, err := c.value(slices.Concat(holds, []*node{first, other}))
			if err != nil {
				return err
			}
			c.apart = append(c.apart, exclusion{both, first, other})
		}
	}
	return nil
}

// add adds to v what satisfies an alternative.
func (c *compiler) add(v *value, a alternative) error {
	j := c.j
	for _, choice := range a.choices {
		v.scalars = append(v.scalars, j.literal(choice))
	}
	if a.choices != nil {
		return nil
	}
	is, anything := allTypes, true
	for _, n := range a.nodes {
		if n.never {
			return nil
		}
		is &= n.types
		anything = anything && n.trivial()
	}
	if anything {
		v.any = true
		return nil
	}
	if is&typeNull != 0 {
		v.scalars = append(v.scalars, j.text("null"))
	}
	if is&typeBoolean != 0 {
		v.scalars = append(v.scalars, j.text("true"), j.text("false"))
	}
	if is&typeNumber != 0 {
		n, err := c.number(a.nodes, is&typeFraction == 0)
		if err != nil {
			return err
		}
		v.scalars = append(v.scalars, n)
	}
	if is&typeString != 0 {
		body, err := c.body(a.nodes)
		if err != nil {
			return err
		}
		v.scalars = append(v.scalars, j.quote(body))
	}
	if is&typeArray != 0 {
		if err := c.array(v, a.nodes); err != nil {
			return err
		}
	}
	if is&typeObject != 0 {
		return c.object(v, a.nodes)
	}
	return nil
}

// trivial reports whether anything satisfies a node.
func (n *node) trivial() bool {
	return n.types == allTypes && n.numbers.lo == nil && n.numbers.hi == nil && n.numbers.multiples == nil &&
		n.minLength == 0 && n.maxLength == unbounded && n.patterns == nil && n.formats == nil &&
		n.prefix == nil && n.items == nil && n.minItems == 0 && n.maxItems == unbounded &&
		n.properties == nil && n.patternProperties == nil && n.additional == nil && n.names == nil &&
		n.required == nil && n.minProperties == 0 && n.maxProperties == unbounded
}

func (c *compiler) number(nodes []*node, integer bool) (id, error) {
	all := numbers{integer: integer}
	for _, n := range nodes {
		if n.numbers.lo != nil {
			all.atLeast(n.numbers.lo, n.numbers.loOpen)
		}
		if n.numbers.hi != nil {
			all.atMost(n.numbers.hi, n.numbers.hiOpen)
		}
		all.multiples = append(all.multiples, n.numbers.multiples...)
	}
	return c.j.numberTerm(all)
}

// body is what may be between the quotes of a string.
func (c *compiler) body(nodes []*node) (id, error) {
	j := c.j
	least, most := int32(0), int32(unbounded)
	var parts []id
	for _, n := range nodes {
		least = max(least, n.minLength)
		most = smaller(most, n.maxLength)
		for _, p := range n.expressions() {
			t, err := c.pattern(p)
			if err != nil {
				return nothing, fmt.Errorf("%s%w", at(n.path), err)
			}
			parts = append(parts, t)
		}
	}
	if len(parts) == 0 {
		return j.repeat(j.character, least, most), nil
	}
	if least > 0 || most != unbounded {
		parts = append(parts, j.repeat(j.characters(jsonString, anyCharacter), least, most))
	}
	return j.nonEmpty(parts), nil
}

// expressions are a node's patterns, and those of its formats.
func (n *node) expressions() []string {
	out := slices.Clone(n.patterns)
	for _, f := range n.formats {
		out = append(out, "^(?:"+formats[f]+")$")
	}
	return out
}

// smaller is the smaller of two bounds, of which either may be unbounded.
func smaller(a, b int32) int32 {
	if a == unbounded || b != unbounded && b < a {
		return b
	}
	return a
}

func (c *compiler) pattern(expr string) (id, error) {
	if n, ok := c.patterns[expr]; ok {
		return n, nil
	}
	n, err := c.j.pattern(expr, ecma)
	if err == nil {
		c.patterns[expr] = n
	}
	return n, err
}

func (c *compiler) array(v *value, nodes []*node) error {
	out := &arrayOf{max: unbounded}
	length := 0
	for _, n := range nodes {
		out.min = max(out.min, n.minItems)
		out.max = smaller(out.max, n.maxItems)
		length = max(length, len(n.prefix))
		if length > maxPrefix {
			return fmt.Errorf(`%s"prefixItems" of more than %d`, at(n.path), maxPrefix)
		}
	}
	for i := range length + 1 {
		var set []*node
		for _, n := range nodes {
			if i < len(n.prefix) {
				set = append(set, n.prefix[i])
			} else if n.items != nil {
				set = append(set, n.items)
			}
		}
		item, err := c.value(set)
		if err != nil {
			return err
		}
		if i < length {
			out.prefix = append(out.prefix, item)
		} else {
			out.items = item
		}
	}
	v.arrays = append(v.arrays, out)
	return nil
}

func (c *compiler) object(v *value, nodes []*node) error {
	out := &objectOf{max: unbounded, anyOrder: c.anyOrder}
	out.rule = c.j.rules.add(&objectRule{c.j, out})
	var declared []string
	for _, n := range nodes {
		out.min = max(out.min, n.minProperties)
		out.max = smaller(out.max, n.maxProperties)
		for _, p := range n.properties {
			declared = append(declared, p.name)
		}
	}
	required := map[string]bool{}
	for _, n := range nodes {
		for _, name := range n.required {
			required[name] = true
			declared = append(declared, name)
		}
	}
	seen := map[string]bool{}
	for _, name := range declared {
		if seen[name] {
			continue
		}
		seen[name] = true
		set, possible, err := c.property(nodes, name)
		if err != nil {
			return err
		}
		p := property{name: name, required: required[name], value: &value{}}
		if possible {
			if p.value, err = c.value(set); err != nil {
				return err
			}
		}
		out.properties = append(out.properties, p)
	}
	if err := c.free(out, nodes); err != nil {
		return err
	}
	if int(out.min) <= len(required) {
		out.min = 0
	}
	if out.min > 1 && len(out.free) > 0 { // two free ones may have the same name, and then are one
		return fmt.Errorf(`%s"minProperties" above 1 and the number of required ones is supported only where all names are known`, at(nodes[0].path))
	}
	v.objects = append(v.objects, out)
	return nil
}

// property is the schemas for the property of a name, and whether there may be one.
func (c *compiler) property(nodes []*node, name string) (set []*node, possible bool, err error) {
	for _, n := range nodes {
		if n.names != nil {
			if ok, err := c.valid(n.names, name); !ok || err != nil {
				return nil, false, err
			}
		}
		found := false
		for _, p := range n.properties {
			if p.name == name {
				set = append(set, p.node)
				found = true
			}
		}
		for _, p := range n.patternProperties {
			ok, err := c.matches(p.name, name)
			if err != nil {
				return nil, false, fmt.Errorf("%s%w", at(n.path), err)
			}
			if ok {
				set = append(set, p.node)
				found = true
			}
		}
		if !found && n.additional != nil {
			set = append(set, n.additional)
		}
	}
	return set, true, nil
}

// free adds the properties that are not declared: a case for each set of patterns that a name matches.
func (c *compiler) free(out *objectOf, nodes []*node) error {
	j := c.j
	var known []id
	for _, p := range out.properties {
		known = append(known, j.text(stringText(p.name)))
	}
	limits := []id{j.repeat(j.characters(jsonString, anyCharacter), 0, unbounded), j.not(j.alt(known...))}
	var patterns []string
	for _, n := range nodes {
		for _, p := range n.patternProperties {
			if !slices.Contains(patterns, p.name) {
				patterns = append(patterns, p.name)
			}
		}
		if n.names != nil {
			body, err := c.nameBody(n.names)
			if err != nil {
				return err
			}
			limits = append(limits, body)
		}
	}
	if len(patterns) > maxPatternProperties {
		return fmt.Errorf(`%smore than %d patterns in "patternProperties"`, at(nodes[0].path), maxPatternProperties)
	}
	for mask := range 1 << len(patterns) {
		matched := func(p string) bool { return mask>>slices.Index(patterns, p)&1 != 0 }
		set := undeclared(nodes, matched)
		if slices.ContainsFunc(set, func(n *node) bool { return n.never }) {
			continue
		}
		names := slices.Clone(limits)
		for _, p := range patterns {
			t, err := c.pattern(p)
			if err != nil {
				return fmt.Errorf("%s%w", at(nodes[0].path), err)
			}
			if !matched(p) {
				t = j.not(t)
			}
			names = append(names, t)
		}
		name := j.nonEmpty(names)
		if name == nothing {
			continue
		}
		v, err := c.value(set)
		if err != nil {
			return err
		}
		out.free = append(out.free, freeProperty{j.quote(name), v})
	}
	return nil
}

// undeclared is the schemas for a property that is not declared, whose name matches some patterns.
func undeclared(nodes []*node, matched func(pattern string) bool) []*node {
	var set []*node
	for _, n := range nodes {
		found := false
		for _, p := range n.patternProperties {
			if matched(p.name) {
				set = append(set, p.node)
				found = true
			}
		}
		if !found && n.additional != nil {
			set = append(set, n.additional)
		}
	}
	return set
}

// nameBody is the names that a schema accepts.
func (c *compiler) nameBody(n *node) (id, error) {
	alternatives, err := c.alternatives([]*node{n})
	if err != nil {
		return nothing, err
	}
	var parts []id
	for _, a := range alternatives {
		for _, v := range a.choices {
			if s, ok := v.(string); ok {
				parts = append(parts, c.j.text(stringText(s)))
			}
		}
		never := func(n *node) bool { return n.never || n.types&typeString == 0 }
		if a.choices != nil || slices.ContainsFunc(a.nodes, never) {
			continue
		}
		body, err := c.body(a.nodes)
		if err != nil {
			return nothing, err
		}
		parts = append(parts, body)
	}
	return c.j.alt(parts...), nil
}

// finish finds out which values there are, and looks at the exclusions.
func (c *compiler) finish() error {
	for changed := true; changed; {
		changed = false
		for _, v := range c.ordered {
			if !v.possible && v.exists() {
				v.possible = true
				changed = true
			}
		}
	}
	for _, e := range c.apart {
		if e.both.possible {
			return fmt.Errorf("%sa value may satisfy both this schema of oneOf and the one at #%s: that is supported where they exclude each other (else write anyOf)",
				at(e.other.path), e.first.path)
		}
	}
	return nil
}

func (v *value) exists() bool {
	return v.any ||
		slices.ContainsFunc(v.scalars, func(s id) bool { return s != nothing }) ||
		slices.ContainsFunc(v.arrays, (*arrayOf).feasible) ||
		slices.ContainsFunc(v.objects, func(o *objectOf) bool { return o.feasible(o.start()) })
}

// longest is the number of items that there can be.
func (a *arrayOf) longest() int32 {
	for i, v := range a.prefix {
		if !v.possible {
			return smaller(a.max, int32(i))
		}
	}
	if !a.items.possible {
		return smaller(a.max, int32(len(a.prefix)))
	}
	return a.max
}

func (a *arrayOf) feasible() bool {
	n := a.longest()
	return n == unbounded || n >= a.min
}

// valueTerm is what stands for a value in others.
func (j *jsonTerms) valueTerm(v *value) id {
	switch {
	case !v.possible:
		return nothing
	case v.any:
		return j.value(0)
	}
	return j.call(v.rule, "")
}

// valueRule unfolds a value.
type valueRule struct {
	j *jsonTerms
	v *value
}

func (r *valueRule) unfold(a *arena, _ string) id {
	j := r.j.in(a)
	parts := slices.Clone(r.v.scalars)
	for _, x := range r.v.arrays {
		if x.feasible() {
			parts = append(parts, j.between("[", j.arrayTerm(x), "]"))
		}
	}
	for _, o := range r.v.objects {
		if s := o.start(); o.feasible(s) {
			parts = append(parts, j.sequence(j.text("{"), j.space, j.call(o.rule, s.text())))
		}
	}
	return j.alt(parts...)
}

func (j *jsonTerms) arrayTerm(x *arrayOf) id {
	longest, n := x.longest(), int32(len(x.prefix))
	if n == 0 {
		return j.items(j.valueTerm(x.items), x.min, longest)
	}
	comma := j.cat(j.text(","), j.space)
	rest := empty // what follows the items before, from the last to the first
	if longest == unbounded || longest > n {
		most := longest
		if most != unbounded {
			most -= n
		}
		rest = j.repeat(j.sequence(comma, j.valueTerm(x.items), j.space), max(x.min-n, 0), most)
	}
	for i := n - 1; i >= 0; i-- {
		if longest != unbounded && i >= longest {
			continue
		}
		rest = j.sequence(j.valueTerm(x.prefix[i]), j.space, rest)
		if i > 0 {
			rest = j.cat(comma, rest)
		}
		if i >= x.min {
			rest = j.optional(rest)
		}
	}
	return rest
}
