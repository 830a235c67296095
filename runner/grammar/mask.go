package grammar

// A token is allowed where its bytes lead to something. The trie of the vocabulary is walked with the
// derivatives of the state as far as there are some, so that tokens that begin alike are tried once.
//
// Most of a vocabulary may follow within a string, and that walk is long. Strings, numbers and patterns are
// therefore lexemes, terms that are kept apart from what follows. The tokens that stay within a lexeme
// depend on nothing else: they are found once, with the nodes of the trie at which the lexeme may be over.
// Only there the walk goes on with what follows; few tokens do. A string of bounded length is in another state
// after each character: there the tokens that are nothing but characters are known by their number (letters.go).

// an inside is what is known of a state of a lexeme.
type inside struct {
	mask  []uint32 // tokens that stay in it or end it
	exits []int32  // nodes with others below, at which it may be over
}

const (
	// longWalk is the number of nodes from which on the result is kept.
	longWalk = 4096
	// maxKept bounds what is kept, in bytes; Qwen3's vocabulary takes 19 KB for each.
	maxKept = 16 << 20
)

type place struct {
	state id
	exits bool
}

// A reader holds what a walk needs, beside the arena. An arena has one for its vocabulary.
type reader struct {
	*arena
	vocab *Vocabulary
	known map[place]*inside
	kept  int // bytes in known
	least int // nodes in a walk whose result is kept

	letters map[id]*letters // of repeated terms; nil where there are none
	long    map[id]bool     // repeated terms whose walk was long, without letters

	path  []id     // states by depth
	trail []*moves // their transitions, in search
	other inside
}

func newReader(a *arena, v *Vocabulary) *reader {
	return &reader{
		arena: a, vocab: v, known: map[place]*inside{}, least: longWalk, letters: map[id]*letters{}, long: map[id]bool{},
		path: make([]id, v.depth+1), trail: make([]*moves, v.depth+1),
		other: inside{mask: make([]uint32, words(v.Size()))},
	}
}

// words is the length of a mask for n tokens.
func words(n int) int { return (n + 31) / 32 }

// allow adds to mask what may follow where n comes next, and then the term after.
func (r *reader) allow(mask []uint32, n, after id) {
	switch t := *r.at(n); t.kind {
	case kindEmpty:
		if after != empty {
			r.allow(mask, after, empty)
		}
	case kindAlt:
		for _, p := range t.list {
			r.allow(mask, p, after)
		}
	case kindCat:
		r.allow(mask, t.a, r.cat(t.b, after))
	case kindCall:
		r.allow(mask, r.unfold(n), after)
	case kindLexeme:
		in := r.within(t.a, after != empty)
		for i, word := range in.mask {
			mask[i] |= word
		}
		if after != empty {
			for _, e := range in.exits {
				r.walk(mask, e, after)
			}
		}
	default:
		r.walk(mask, 0, r.cat(n, after))
	}
}

// set adds the tokens of a node.
func (r *reader) set(mask []uint32, n *trieNode) {
	r.vocab.eachToken(n, func(token int32) { mask[token/32] |= 1 << (token % 32) })
}

// walk adds the tokens below a node whose further bytes may follow in the state s.
func (r *reader) walk(mask []uint32, from int32, s id) {
	nodes := r.vocab.nodes
	r.path[nodes[from].depth] = s
	for i, end := from+1, nodes[from].end; i < end; {
		n := &nodes[i]
		next := r.step(r.path[n.depth-1], n.b)
		if next == nothing {
			i = n.end
			continue
		}
		r.path[n.depth] = next
		r.set(mask, n)
		i++
	}
}

// within is what stays within a lexeme in the state s; exits are left out where they are not wanted. It is
// valid until the next call.
func (r *reader) within(s id, exits bool) *inside {
	s = r.saturated(s)
	if in, ok := r.known[place{s, exits}]; ok {
		return in
	}
	in := &r.other
	in.exits = in.exits[:0]
	each, room := r.repetition(s, exits)
	var l *letters
	if room > 0 {
		l = r.lettersFor(each)
	}
	visited := 0
	if l == nil {
		clear(in.mask)
		visited = r.search(in, s, nil)
	} else {
		copy(in.mask, l.upTo(r.vocab, room))
		if _, tail := r.split(s); tail != empty || !l.all {
			visited = r.search(in, s, l.pure)
		}
	}
	if visited < r.least || r.full {
		return in
	}
	if room > 0 && l == nil {
		r.long[each] = true
	}
	size := 4 * (len(in.mask) + len(in.exits))
	if r.kept += size; r.kept > maxKept {
		clear(r.known)
		r.kept = size
	}
	in = &inside{mask: append([]uint32(nil), in.mask...), exits: append([]int32(nil), in.exits...)}
	r.known[place{s, exits}] = in
	return in
}

// saturated is a state in which the same tokens may follow as in s: of what is repeated, no token has more than it has bytes.
// So most states within a string of bounded length are one.
func (r *reader) saturated(s id) id {
	head, tail := r.split(s)
	t := r.at(head)
	if t.kind != kindRepeat {
		return s
	}
	each, least, most := t.a, t.min, t.max
	enough := int32(r.vocab.depth) + 1
	if most > enough {
		most = unbounded
	}
	return r.cat(r.repeat(each, min(least, enough), most), tail)
}

// lettersFor returns what is known of the tokens as letters of a repeated term. It is found out when a walk for the term was long
// before: another state of the repetition is to come then, and mostly many.
func (r *reader) lettersFor(each id) *letters {
	l, ok := r.letters[each]
	if !ok {
		l = r.vocab.lettersOf(r.arena, each, false)
		r.letters[each] = l
	}
	if l == nil && r.long[each] {
		l = r.vocab.lettersOf(r.arena, each, true)
		r.letters[each] = l
		delete(r.long, each) // a term that is too long for it stays so
	}
	return l
}

// search adds to in, and returns the number of nodes that it has looked at. It leaves out what is below
// those in skip. Of a long walk nearly all steps were made before, so that it looks into moves itself.
func (r *reader) search(in *inside, s id, skip []bool) int {
	nodes := r.vocab.nodes
	visited := 0
	r.enter(0, s)
	if r.terms[s].nullable {
		in.exits = append(in.exits, 0)
	}
	for i := int32(1); i < nodes[0].end; visited++ {
		n := &nodes[i]
		if skip != nil && skip[i] {
			i = n.end
			continue
		}
		m := r.trail[n.depth-1]
		next := m.next[m.class[n.b]]
		if next == unmade {
			next = r.step(r.path[n.depth-1], n.b)
		}
		if next == nothing {
			i = n.end
			continue
		}
		if n.token >= 0 {
			in.mask[n.token/32] |= 1 << (n.token % 32)
			if n.shared {
				r.set(in.mask, n)
			}
		}
		i++
		if n.end > i {
			r.enter(n.depth, next)
			if r.terms[next].nullable {
				in.exits = append(in.exits, i-1)
			}
		}
	}
	return visited
}

// enter makes s the state at a depth.
func (r *reader) enter(depth uint16, s id) {
	r.path[depth] = s
	m := r.terms[s].moves
	if m == nil {
		m = r.newMoves(s)
	}
	r.trail[depth] = m
}

// repetition takes apart a state that begins with a repetition: what is repeated, and how often it may
// still be. room is 0 where the letters of what is repeated do not tell which tokens may follow: where exits are
// wanted and the lexeme may be over at once, and where what is behind the repetition begins alike, so that a token
// may go beyond the last letter and still be letters only.
func (r *reader) repetition(s id, exits bool) (each id, room int) {
	head, tail := r.split(s)
	t := r.at(head)
	if t.kind != kindRepeat || exits && r.at(tail).nullable {
		return nothing, 0
	}
	each, room = t.a, int(t.max)
	if t.max == unbounded || room > r.vocab.depth { // then no token is too long
		return each, r.vocab.depth
	}
	both := r.cutsOf(tail)
	both.join(r.cutsOf(each))
	for _, b := range both.bytes() {
		if r.step(tail, b) != nothing && r.step(each, b) != nothing {
			return nothing, 0
		}
	}
	return each, room
}
