package grammar

import (
	"encoding/binary"
	"slices"
)

// A term is a language: a set of byte strings. Terms are interned, so that equal ones have equal ids, and
// are kept in a normal form, which makes the terms that derivatives lead to few (Brzozowski, Derivatives of
// Regular Expressions, JACM 1964; Owens, Reppy, Turon, Regular-expression derivatives re-examined, JFP 2009).
// A term is at once a state of the automaton that reads a text: what may still come.
type term struct {
	key
	list []id // parts of alternatives and intersections

	nullable bool // the empty text belongs to the language
	bounded  bool // contains And or Not, so that emptiness is not seen at once
	calls    bool // contains a call, so that it may not be intersected

	life  life   // of bounded terms
	cuts  *cuts  // of bytes, once it is asked for
	moves *moves // derivatives, once there are some
	whole id     // what a call stands for, once it is asked for: nothing before
}

type id int32

const (
	nothing id = iota // the language without any text
	empty             // the language of the empty text
)

type life uint8

const (
	unknown life = iota
	alive
	dead
)

type kind uint8

const (
	kindNothing kind = iota
	kindEmpty
	kindSet    // one byte of those in text, 256 bits
	kindText   // text
	kindCat    // a, then b; a is no concatenation
	kindAlt    // one of list
	kindRepeat // a, min to max times; max -1 is without bound
	kindAnd    // all of list
	kindNot    // any text but those of a
	kindLexeme // a, kept apart from what follows it: see mask.go
	kindCall   // what the grammar's rule number a stands for, in the state text
	kindDigits // digits, perhaps with a point, that make a multiple of a behind what leaves the remainder b
)

// key tells terms apart.
type key struct {
	kind     kind
	a, b     id
	min, max int32
	text     string
}

// An arena holds terms, the transitions between them, and an account of their memory. It is not safe for
// use by several goroutines.
type arena struct {
	terms  []term
	ids    map[key]id
	shared map[cuts]*[256]uint8 // byte classes by their cuts
	rules  *rules               // what calls mean

	limit, used int // bytes
	full        bool
}

// The sizes are those of a term with its entry in the map, and of its transitions, measured on amd64.
const (
	termSize  = 320
	movesSize = 64
)

func newArena(limit int) *arena {
	a := &arena{ids: map[key]id{}, shared: map[cuts]*[256]uint8{}, rules: &rules{}, limit: limit}
	a.intern(key{kind: kindNothing}, nil, func(*term) {})
	a.intern(key{kind: kindEmpty}, nil, func(t *term) { t.nullable = true })
	return a
}

// intern returns the id of a term, which init completes if it is new. A full arena returns nothing, and
// what is made of it has no meaning: callers look at full when they are done.
func (a *arena) intern(k key, list []id, init func(*term)) id {
	if n, ok := a.ids[k]; ok {
		return n
	}
	a.used += termSize + len(k.text) + 4*len(list)
	if a.used > a.limit {
		a.full = true
		return nothing
	}
	n := id(len(a.terms))
	t := term{key: k, list: list}
	init(&t)
	a.terms = append(a.terms, t)
	a.ids[k] = n
	return n
}

func (a *arena) at(n id) *term { return &a.terms[n] }

// inherit takes over what a term has from its part n.
func (t *term) inherit(a *arena, n id) {
	t.bounded = t.bounded || a.at(n).bounded
	t.calls = t.calls || a.at(n).calls
}

// A byteSet is a set of bytes.
type byteSet [4]uint64

func (s *byteSet) add(lo, hi byte) {
	for b := int(lo); b <= int(hi); b++ {
		s[b>>6] |= 1 << (b & 63)
	}
}

func (s byteSet) has(b byte) bool { return s[b>>6]>>(b&63)&1 != 0 }

func (s byteSet) text() string {
	var out [32]byte
	for i, w := range s {
		binary.LittleEndian.PutUint64(out[8*i:], w)
	}
	return string(out[:])
}

func setOf(text string) (s byteSet) {
	for i := range s {
		s[i] = binary.LittleEndian.Uint64([]byte(text[8*i : 8*i+8]))
	}
	return s
}

func (a *arena) set(s byteSet) id {
	if s == (byteSet{}) {
		return nothing
	}
	return a.intern(key{kind: kindSet, text: s.text()}, nil, func(*term) {})
}

func (a *arena) bytes(lo, hi byte) id {
	var s byteSet
	s.add(lo, hi)
	return a.set(s)
}

func (a *arena) text(s string) id {
	if s == "" {
		return empty
	}
	return a.intern(key{kind: kindText, text: s}, nil, func(*term) {})
}

// cat is x, then y.
func (a *arena) cat(x, y id) id {
	switch {
	case x == nothing || y == nothing:
		return nothing
	case x == empty:
		return y
	case y == empty:
		return x
	}
	if t := a.at(x); t.kind == kindCat {
		first, second := t.a, t.b
		return a.cat(first, a.cat(second, y))
	}
	return a.intern(key{kind: kindCat, a: x, b: y}, nil, func(t *term) {
		t.nullable = a.at(x).nullable && a.at(y).nullable
		t.inherit(a, x)
		t.inherit(a, y)
	})
}

func (a *arena) sequence(parts ...id) id {
	out := empty
	for _, p := range slices.Backward(parts) {
		out = a.cat(p, out)
	}
	return out
}

// split gives a term as a concatenation: of itself and the empty text where it is none.
func (a *arena) split(n id) (head, tail id) {
	if t := a.at(n); t.kind == kindCat {
		return t.a, t.b
	}
	return n, empty
}

// alt is one of the parts. Alternatives that begin alike are joined, so that what follows a common
// beginning is one term and not one for each way to get there.
func (a *arena) alt(parts ...id) id {
	parts = a.flatten(kindAlt, parts, nothing)
	if len(parts) > 1 {
		parts = a.joinSets(parts)
	}
	if len(parts) > 1 {
		parts = a.joinLexemes(parts)
	}
	if len(parts) > 1 {
		parts = a.joinHeads(parts)
	}
	switch len(parts) {
	case 0:
		return nothing
	case 1:
		return parts[0]
	}
	return a.intern(key{kind: kindAlt, text: listText(parts)}, parts, func(t *term) {
		for _, p := range parts {
			t.nullable = t.nullable || a.at(p).nullable
			t.inherit(a, p)
		}
	})
}

// flatten gives the parts of parts of the kind, sorted, each once, without the one that changes nothing.
func (a *arena) flatten(k kind, parts []id, neutral id) []id {
	var out []id
	for _, p := range parts {
		if t := a.at(p); t.kind == k {
			out = append(out, t.list...)
		} else if p != neutral {
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func listText(list []id) string {
	out := make([]byte, 0, 4*len(list))
	for _, n := range list {
		out = binary.LittleEndian.AppendUint32(out, uint32(n))
	}
	return string(out)
}

// joinSets makes one set of all.
func (a *arena) joinSets(parts []id) []id {
	var union byteSet
	n := 0
	for _, p := range parts {
		if t := a.at(p); t.kind == kindSet {
			n++
			for i, w := range setOf(t.text) {
				union[i] |= w
			}
		}
	}
	if n < 2 {
		return parts
	}
	out := slices.DeleteFunc(parts, func(p id) bool { return a.at(p).kind == kindSet })
	return insert(out, a.set(union))
}

func insert(sorted []id, n id) []id {
	if i, found := slices.BinarySearch(sorted, n); !found {
		return slices.Insert(sorted, i, n)
	}
	return sorted
}

// joinLexemes makes one lexeme of those that the same follows.
func (a *arena) joinLexemes(parts []id) []id {
	tails := map[id][]id{}
	n := 0
	for _, p := range parts {
		if head, tail := a.split(p); a.at(head).kind == kindLexeme {
			tails[tail] = append(tails[tail], p)
			n++
		}
	}
	if len(tails) == n {
		return parts
	}
	var out []id
	for _, p := range parts {
		head, tail := a.split(p)
		same := tails[tail]
		if a.at(head).kind != kindLexeme || len(same) == 1 {
			out = append(out, p)
			continue
		}
		if p != same[0] {
			continue
		}
		var bodies []id
		for _, s := range same {
			head, _ := a.split(s)
			bodies = append(bodies, a.at(head).a)
		}
		out = append(out, a.cat(a.lexeme(a.alt(bodies...)), tail))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// joinHeads makes x(y|z) of xy|xz.
func (a *arena) joinHeads(parts []id) []id {
	heads := map[id][]id{}
	for _, p := range parts {
		head, tail := a.split(p)
		heads[head] = append(heads[head], tail)
	}
	if len(heads) == len(parts) {
		return parts
	}
	var out []id
	for _, p := range parts {
		head, tail := a.split(p)
		if tails := heads[head]; tail == tails[0] {
			out = append(out, a.cat(head, a.alt(tails...)))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// unbounded is the max of a repetition without one.
const unbounded = -1

// repeat is x, min to max times.
func (a *arena) repeat(x id, min, max int32) id {
	switch t := a.at(x); {
	case max != unbounded && max < min:
		return nothing
	case max == 0 || x == empty:
		return empty
	case x == nothing && min == 0:
		return empty
	case x == nothing:
		return nothing
	case min == 1 && max == 1:
		return x
	case t.nullable:
		min = 0
		if t.kind == kindRepeat && t.max == unbounded {
			return x
		}
	}
	return a.intern(key{kind: kindRepeat, a: x, min: min, max: max}, nil, func(t *term) {
		t.nullable = min == 0
		t.inherit(a, x)
	})
}

func (a *arena) optional(x id) id { return a.alt(empty, x) }

// and is what belongs to all parts, which must be free of calls.
func (a *arena) and(parts ...id) id {
	anything := a.not(nothing)
	parts = a.flatten(kindAnd, parts, anything)
	nullable := true
	for _, p := range parts {
		if p == nothing {
			return nothing
		}
		nullable = nullable && a.at(p).nullable
	}
	switch {
	case len(parts) == 0:
		return anything
	case len(parts) == 1:
		return parts[0]
	case slices.Contains(parts, empty):
		if nullable {
			return empty
		}
		return nothing
	}
	return a.intern(key{kind: kindAnd, text: listText(parts)}, parts, func(t *term) {
		t.nullable = nullable
		t.bounded = true
	})
}

// not is any text but those of x, which must be free of calls.
func (a *arena) not(x id) id {
	if t := a.at(x); t.kind == kindNot {
		return t.a
	}
	return a.intern(key{kind: kindNot, a: x}, nil, func(t *term) {
		t.nullable = !a.at(x).nullable
		t.bounded = true
	})
}

// lexeme keeps x apart from what follows, so that what is known of x serves wherever it stands.
func (a *arena) lexeme(x id) id {
	if x == nothing || x == empty {
		return x
	}
	return a.intern(key{kind: kindLexeme, a: x}, nil, func(t *term) {
		t.nullable = a.at(x).nullable
		t.inherit(a, x)
	})
}

// digits is decimal digits, with or without a point among them, that are a multiple of m when they are read
// as one integer behind digits that leave the remainder rest. m is at most maxModulus.
func (a *arena) digits(m, rest int32) id {
	return a.intern(key{kind: kindDigits, a: id(m), b: id(rest)}, nil, func(t *term) { t.nullable = rest == 0 })
}

const maxModulus = 200_000_000 // ten times that fits 32 bits

// call is what a rule stands for. A rule that is called must have some text, and not the empty one.
func (a *arena) call(rule int, state string) id {
	return a.intern(key{kind: kindCall, a: id(rule), text: state}, nil, func(t *term) { t.calls = true })
}
