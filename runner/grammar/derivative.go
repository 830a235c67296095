package grammar

import "math/bits"

// moves are the derivatives of a term: what may follow each byte. Bytes that the term does not tell apart
// share an entry.
type moves struct {
	class *[256]uint8
	next  []id // by class; unmade where it was never asked for
}

const unmade id = -1

// step returns the derivative of n by the byte b: what may follow b. It is nothing where b may not come,
// and where no text would be left.
func (a *arena) step(n id, b byte) id {
	m := a.terms[n].moves
	if m == nil {
		m = a.newMoves(n)
	}
	if next := m.next[m.class[b]]; next != unmade {
		return next
	}
	next := a.derive(n, b)
	if a.at(n).kind == kindAnd && !a.lives(next) {
		next = nothing
	}
	if !a.full {
		m.next[m.class[b]] = next
	}
	return next
}

func (a *arena) newMoves(n id) *moves {
	c := a.cutsOf(n)
	class, ok := a.shared[c]
	if !ok {
		class = new([256]uint8)
		for b := 1; b < 256; b++ {
			class[b] = class[b-1] + uint8(c[b>>6]>>(b&63)&1)
		}
		a.shared[c] = class
		a.used += 320
	}
	m := &moves{class: class, next: make([]id, int(class[255])+1)}
	for i := range m.next {
		m.next[i] = unmade
	}
	a.used += movesSize + 4*len(m.next)
	a.terms[n].moves = m
	return m
}

// derive is step without memory, and without a look at whether an intersection is empty.
func (a *arena) derive(n id, b byte) id {
	switch t := *a.at(n); t.kind {
	case kindSet:
		if setOf(t.text).has(b) {
			return empty
		}
	case kindText:
		if t.text[0] == b {
			return a.text(t.text[1:])
		}
	case kindCat:
		next := a.cat(a.step(t.a, b), t.b)
		if a.at(t.a).nullable {
			next = a.alt(next, a.step(t.b, b))
		}
		return next
	case kindAlt:
		return a.alt(a.steps(t.list, b)...)
	case kindAnd:
		return a.and(a.steps(t.list, b)...)
	case kindNot:
		return a.not(a.step(t.a, b))
	case kindLexeme:
		return a.lexeme(a.step(t.a, b))
	case kindRepeat:
		min, max := t.min, t.max
		if min > 0 {
			min--
		}
		if max > 0 {
			max--
		}
		return a.cat(a.step(t.a, b), a.repeat(t.a, min, max))
	case kindCall:
		return a.step(a.unfold(n), b)
	case kindDigits:
		switch {
		case b == '.':
			return n
		case '0' <= b && b <= '9':
			return a.digits(int32(t.a), (int32(t.b)*10+int32(b-'0'))%int32(t.a))
		}
	}
	return nothing
}

func (a *arena) steps(list []id, b byte) []id {
	out := make([]id, len(list))
	for i, p := range list {
		out[i] = a.step(p, b)
	}
	return out
}

// unfold gives what a call stands for.
func (a *arena) unfold(n id) id {
	if t := a.at(n); t.whole == nothing {
		whole := a.rules.unfold(a, int(t.a), t.text)
		if a.full {
			return nothing
		}
		a.at(n).whole = whole
	}
	return a.at(n).whole
}

// cuts are the bytes, as bits, at which a term begins to treat bytes otherwise than the byte before.
type cuts [4]uint64

func (c *cuts) at(b int) {
	if b < 256 {
		c[b>>6] |= 1 << (b & 63)
	}
}

func (c *cuts) join(o cuts) {
	for i := range c {
		c[i] |= o[i]
	}
}

func (a *arena) cutsOf(n id) cuts {
	if known := a.at(n).cuts; known != nil {
		return *known
	}
	var c cuts
	switch t := *a.at(n); t.kind {
	case kindSet:
		s := setOf(t.text)
		carry := uint64(0)
		for i, w := range s { // a bit that differs from the one below
			c[i] = w ^ (w<<1 | carry)
			carry = w >> 63
		}
	case kindText:
		c.at(int(t.text[0]))
		c.at(int(t.text[0]) + 1)
	case kindCat:
		c = a.cutsOf(t.a)
		if a.at(t.a).nullable {
			c.join(a.cutsOf(t.b))
		}
	case kindAlt, kindAnd:
		for _, p := range t.list {
			c.join(a.cutsOf(p))
		}
	case kindNot, kindLexeme, kindRepeat:
		c = a.cutsOf(t.a)
	case kindCall:
		c = a.cutsOf(a.unfold(n))
	case kindDigits:
		for b := '.'; b <= '9'+1; b++ {
			c.at(int(b))
		}
	}
	c[0] &^= 1 // no byte is below the first
	a.at(n).cuts = &c
	return c
}

// classes gives one byte of each class of n.
func (a *arena) classes(n id) []byte { return a.cutsOf(n).bytes() }

func (c cuts) bytes() []byte {
	out := []byte{0}
	for i, w := range c {
		for ; w != 0; w &= w - 1 {
			out = append(out, byte(64*i+bits.TrailingZeros64(w)))
		}
	}
	return out
}

// lives reports whether a term has any text. Without an intersection or a complement in it that is seen
// at once; otherwise its derivatives are searched for one that has the empty text.
func (a *arena) lives(n id) bool {
	if !a.at(n).bounded {
		return n != nothing
	}
	if life := a.at(n).life; life != unknown {
		return life == alive
	}
	if a.at(n).nullable {
		a.at(n).life = alive
		return true
	}
	type visit struct {
		n    id
		left []byte
	}
	seen := map[id]bool{n: true}
	path := []visit{{n, a.classes(n)}}
	for len(path) > 0 && !a.full {
		top := &path[len(path)-1]
		if len(top.left) == 0 {
			path = path[:len(path)-1]
			continue
		}
		next := a.derive(top.n, top.left[0])
		top.left = top.left[1:]
		if t := a.at(next); t.nullable || t.life == alive || next != nothing && !t.bounded {
			for _, v := range path {
				a.at(v.n).life = alive
			}
			return true
		}
		if !seen[next] && a.at(next).life != dead && next != nothing {
			seen[next] = true
			path = append(path, visit{next, a.classes(next)})
		}
	}
	if a.full {
		return false
	}
	for n := range seen {
		a.at(n).life = dead
	}
	return false
}
