package grammar

import (
	"fmt"
	"maps"
	"slices"
	"sync"
)

// Options bound a grammar, and say how JSON is spelled. The zero value is fine.
type Options struct {
	// Space says where JSON may have white space. It means nothing for patterns.
	Space Space
	// AnyOrder lets the properties of an object come in any order. Without it they come in the order of the
	// schema, as most models write them, and those that it does not name come last.
	AnyOrder bool
	// Memory bounds what compiling a grammar and reading by it hold, in bytes, the masks of a vocabulary
	// apart (16 MiB more). Time is bounded with it. 0: 64 MiB.
	Memory int
}

// Space says where JSON may have white space.
type Space int

const (
	// Compact: nowhere. It costs the fewest tokens.
	Compact Space = iota
	// Flexible: between the parts of objects and arrays, at each place at most one line break and
	// 40 blanks or tabs.
	Flexible
)

const defaultMemory = 64 << 20

func (o *Options) validate() error {
	if o.Space != Compact && o.Space != Flexible {
		return fmt.Errorf("grammar: Space is %d: want Compact or Flexible", o.Space)
	}
	if o.Memory < 0 {
		return fmt.Errorf("grammar: Memory is %d bytes: want a positive number, or 0 for %d", o.Memory, defaultMemory)
	}
	return nil
}

func (o *Options) memory() int {
	if o.Memory == 0 {
		return defaultMemory
	}
	return o.Memory
}

// A Grammar is a compiled pattern or schema. It belongs to no vocabulary, never changes for its users, and may be
// shared by any number of matchers and goroutines.
type Grammar struct {
	base  *arena
	start id

	mu      sync.Mutex
	readers map[*Vocabulary]*shared
}

// shared is a reader that several matchers use, one at a time.
type shared struct {
	sync.Mutex
	*reader
}

// compile makes a grammar of what build returns.
func compile(o Options, kind error, build func(*arena) (id, error)) (*Grammar, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	a := newArena(o.memory())
	start, err := build(a)
	if a.full {
		return nil, fmt.Errorf("%w: it needs more than %d MiB to compile", ErrLimit, o.memory()>>20)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", kind, err)
	}
	if !a.lives(start) {
		if a.full {
			return nil, fmt.Errorf("%w: whether it has any text takes more than %d MiB to tell", ErrLimit, o.memory()>>20)
		}
		return nil, fmt.Errorf("%w: no text satisfies it", kind)
	}
	return &Grammar{base: a, start: start, readers: map[*Vocabulary]*shared{}}, nil
}

// Regexp compiles a regular expression in Go's syntax (package regexp) that the whole text must match.
// Word boundaries, and anchors within the expression, are not supported. The error wraps ErrPattern or
// ErrLimit.
func Regexp(expr string, o Options) (*Grammar, error) {
	return compile(o, ErrPattern, func(a *arena) (id, error) {
		n, err := a.pattern(expr, re2)
		return a.lexeme(n), err
	})
}

// reader returns the grammar's own for a vocabulary.
func (g *Grammar) reader(v *Vocabulary) *shared {
	g.mu.Lock()
	defer g.mu.Unlock()
	r, ok := g.readers[v]
	if !ok {
		r = &shared{reader: newReader(g.base.fresh(), v)}
		g.readers[v] = r
	}
	return r
}

// replace takes a reader that is full from the grammar, for one with room.
func (g *Grammar) replace(full, with *shared) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.readers[full.vocab] == full {
		g.readers[full.vocab] = with
	}
}

// fresh copies an arena as it was compiled, with room for what reading adds.
func (a *arena) fresh() *arena {
	f := &arena{
		terms: slices.Clone(a.terms), ids: maps.Clone(a.ids), shared: map[cuts]*[256]uint8{}, rules: a.rules, limit: a.limit,
	}
	for i := range f.terms {
		t := &f.terms[i]
		t.moves = nil
		f.used += termSize + len(t.text) + 4*len(t.list)
	}
	f.limit += f.used / 2 // or a grammar that just fits could not be read
	return f
}

// A Matcher reads one text, token by token. It is not safe for use by several goroutines; matchers of one
// grammar are safe beside each other.
type Matcher struct {
	g     *Grammar
	r     *shared
	state id
}

// NewMatcher starts a text. What matchers of the same grammar and vocabulary have found they share.
func (g *Grammar) NewMatcher(v *Vocabulary) *Matcher {
	return &Matcher{g: g, r: g.reader(v), state: g.start}
}

// Clone returns a matcher in the same state, which goes its own way. It costs nothing, so that a clone is
// also the way back: to the text before some tokens.
func (m *Matcher) Clone() *Matcher {
	c := *m
	return &c
}

// do runs f, and once more with a fresh arena if the one in use is full. Where that is too small as well, the matcher
// is as before.
func (m *Matcher) do(f func(*reader) error) error {
	if fits, err := m.try(f); fits {
		return err
	}
	before := *m
	m.renew()
	if fits, err := m.try(f); fits {
		m.g.replace(before.r, m.r)
		return err
	}
	*m = before
	return fmt.Errorf("%w: a step needs more than %d MiB", ErrLimit, m.g.base.limit>>20)
}

// try runs f, and reports whether there was room for what it does.
func (m *Matcher) try(f func(*reader) error) (fits bool, err error) {
	m.r.Lock()
	defer m.r.Unlock()
	err = f(m.r.reader)
	return !m.r.full, err
}

// renew carries the state over to an arena with room.
func (m *Matcher) renew() {
	old := m.r
	old.Lock()
	defer old.Unlock()
	m.r = &shared{reader: newReader(m.g.base.fresh(), old.vocab)}
	m.state = m.r.adopt(old.arena, m.state, map[id]id{})
}

// adopt gives the term of another arena that was made of the same grammar.
func (a *arena) adopt(from *arena, n id, known map[id]id) id {
	if have, ok := known[n]; ok {
		return have
	}
	t := from.at(n)
	var out id
	switch t.kind {
	case kindNothing, kindEmpty:
		out = n
	case kindCat:
		out = a.cat(a.adopt(from, t.a, known), a.adopt(from, t.b, known))
	case kindRepeat:
		out = a.repeat(a.adopt(from, t.a, known), t.min, t.max)
	case kindNot:
		out = a.not(a.adopt(from, t.a, known))
	case kindLexeme:
		out = a.lexeme(a.adopt(from, t.a, known))
	case kindAlt, kindAnd:
		list := make([]id, len(t.list))
		for i, p := range t.list {
			list[i] = a.adopt(from, p, known)
		}
		if out = a.alt(list...); t.kind == kindAnd {
			out = a.and(list...)
		}
	default:
		out = a.intern(t.key, nil, func(new *term) { new.calls = t.calls })
	}
	known[n] = out
	return out
}

// Mask sets bit i%32 of mask[i/32] for each token i that may follow, and clears all other bits. mask must
// have room for the vocabulary. end reports whether the text may be over here. The error is ErrLimit.
func (m *Matcher) Mask(mask []uint32) (end bool, err error) {
	if len(mask) < words(m.r.vocab.Size()) {
		return false, fmt.Errorf("grammar: a mask of %d words for %d tokens: want %d", len(mask), m.r.vocab.Size(), words(m.r.vocab.Size()))
	}
	err = m.do(func(r *reader) error {
		clear(mask)
		r.allow(mask, m.state, empty)
		end = r.at(m.state).nullable
		return nil
	})
	return end, err
}

// Accept goes on by a token. The error is ErrToken for one that may not follow, ErrLimit otherwise; the
// matcher is then as before.
func (m *Matcher) Accept(token int32) error {
	if token < 0 || int(token) >= m.r.vocab.Size() || m.r.vocab.tokens[token] == "" {
		return fmt.Errorf("%w: %d has no text", ErrToken, token)
	}
	text := m.r.vocab.tokens[token]
	return m.do(func(r *reader) error {
		s := m.state
		for i := range len(text) {
			s = r.step(s, text[i])
		}
		if s == nothing {
			return fmt.Errorf("%w: %d, %q", ErrToken, token, text)
		}
		if !r.full {
			m.state = s
		}
		return nil
	})
}

// Complete reports whether the text may be over here.
func (m *Matcher) Complete() bool {
	m.r.Lock()
	defer m.r.Unlock()
	return m.r.at(m.state).nullable
}

// Done reports that the text is complete, and that nothing may follow.
func (m *Matcher) Done() bool { return m.state == empty }
