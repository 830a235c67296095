package grammar

import "strings"

// rules are what calls mean. They are complete when the grammar is, and do not change after.
type rules struct {
	list []rule
}

// A rule stands for a term in each of its states.
type rule interface {
	unfold(a *arena, state string) id
}

func (r *rules) unfold(a *arena, rule int, state string) id { return r.list[rule].unfold(a, state) }

// add returns the number of a new rule.
func (r *rules) add(x rule) int {
	r.list = append(r.list, x)
	return len(r.list) - 1
}

// JSON compiles the grammar of any JSON value (RFC 8259). Arrays and objects are at most 64 deep in each
// other: parsers have limits, and a model that only opens brackets is lost.
func JSON(o Options) (*Grammar, error) { return freeJSON(o, (*jsonTerms).value) }

// JSONObject compiles the grammar of any JSON object, as JSON does.
func JSONObject(o Options) (*Grammar, error) { return freeJSON(o, (*jsonTerms).object) }

const (
	maxDepth = 64
	// maxDigits bounds both parts of a number. Together with an exponent of two digits, any number fits a
	// float64, and a model that only writes digits comes to an end.
	maxDigits = 200
)

func freeJSON(o Options, of func(j *jsonTerms, depth int) id) (*Grammar, error) {
	return compile(o, ErrSchema, func(a *arena) (id, error) { return of(newJSONTerms(a, o.Space), 0), nil })
}

// jsonTerms are the parts of JSON texts.
type jsonTerms struct {
	*arena
	space     id
	character id // of a string
	str       id // a string with its quotes
	number    id
	any       int // the rule of a value, its state the depth
}

func newJSONTerms(a *arena, s Space) *jsonTerms {
	j := &jsonTerms{arena: a, space: empty}
	if s == Flexible {
		var blank byteSet
		blank.add(' ', ' ')
		blank.add('\t', '\t')
		line := a.optional(a.cat(a.optional(a.text("\r")), a.text("\n")))
		j.space = a.cat(line, a.repeat(a.set(blank), 0, 40))
	}
	j.character = a.jsonCharacter()
	j.str = j.quote(a.repeat(j.character, 0, unbounded))
	digits := a.repeat(a.bytes('0', '9'), 1, maxDigits)
	var exponent, sign byteSet
	exponent.add('e', 'e')
	exponent.add('E', 'E')
	sign.add('+', '+')
	sign.add('-', '-')
	j.number = a.lexeme(a.sequence(
		j.integer(),
		a.optional(a.cat(a.text("."), digits)),
		a.optional(a.sequence(a.set(exponent), a.optional(a.set(sign)), a.repeat(a.bytes('0', '9'), 1, 2))),
	))
	j.any = a.rules.add(&anyValue{j})
	return j
}

// integer is one without leading zeros.
func (j *jsonTerms) integer() id {
	return j.cat(j.optional(j.text("-")), j.natural())
}

func (j *jsonTerms) natural() id {
	more := j.cat(j.bytes('1', '9'), j.repeat(j.bytes('0', '9'), 0, maxDigits-1))
	return j.alt(j.text("0"), more)
}

// quote makes a string of its contents.
func (j *jsonTerms) quote(body id) id {
	q := j.text(`"`)
	return j.lexeme(j.sequence(q, body, q))
}

// anyValue is any JSON value. Its states are depths, in unary.
type anyValue struct{ j *jsonTerms }

func (v *anyValue) unfold(a *arena, state string) id { return v.j.in(a).valueAt(len(state)) }

// in gives the parts in an arena that was made from the one they were built in.
func (j *jsonTerms) in(a *arena) *jsonTerms {
	c := *j
	c.arena = a
	return &c
}

func (j *jsonTerms) value(depth int) id { return j.call(j.any, strings.Repeat(".", depth)) }

func (j *jsonTerms) valueAt(depth int) id {
	parts := []id{j.str, j.number, j.text("true"), j.text("false"), j.text("null")}
	if depth < maxDepth {
		parts = append(parts, j.object(depth), j.array(depth))
	}
	return j.alt(parts...)
}

func (j *jsonTerms) object(depth int) id {
	return j.between("{", j.items(j.member(j.str, j.value(depth+1)), 0, unbounded), "}")
}

func (j *jsonTerms) array(depth int) id {
	return j.between("[", j.items(j.value(depth+1), 0, unbounded), "]")
}

func (j *jsonTerms) member(key, value id) id {
	return j.sequence(key, j.space, j.text(":"), j.space, value)
}

// between puts brackets around contents that end with space where they are not empty.
func (j *jsonTerms) between(open string, contents id, shut string) id {
	return j.sequence(j.text(open), j.space, contents, j.text(shut))
}

// items is min to max times item, with commas between them and space behind.
func (j *jsonTerms) items(item id, min, max int32) id {
	if max == 0 {
		return empty
	}
	if max != unbounded {
		max--
	}
	some := j.sequence(item, j.space, j.repeat(j.sequence(j.text(","), j.space, item, j.space), less(min), max))
	if min == 0 {
		return j.optional(some)
	}
	return some
}

func less(n int32) int32 { return max(n-1, 0) }
