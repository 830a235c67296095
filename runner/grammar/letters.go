package grammar

import (
	"fmt"
	"math"
	"strings"
	"sync"
)

// letters tell how a vocabulary's tokens are made of a term that is repeated, such as the characters of
// a string.
type letters struct {
	count []uint8 // by token: how many it is, the last perhaps incomplete; notLetters where it is not just that
	pure  []bool  // by node: the tokens of it and below are nothing else
	most  int     // largest count
	all   bool    // no other token is made of the term: it is always known where one letter ends and the next begins

	mu    sync.Mutex
	masks [][]uint32 // by number: tokens of at most so many
}

const (
	notLetters = math.MaxUint8
	// maxLetters bounds the terms that a vocabulary knows, which take 0.5 MB each for Qwen3's, and up to
	// 19 KB for each count.
	maxLetters = 16
	// maxSpelling bounds the spelling of a term, by which it is known.
	maxSpelling = 1 << 14
)

// lettersOf returns what there is to know of a term, or nil if it is too long, or not known and not to be found out.
func (v *Vocabulary) lettersOf(a *arena, each id, find bool) *letters {
	spelling := a.spelling(each)
	if spelling == "" {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	l, ok := v.letters[spelling]
	if !ok && find {
		if len(v.letters) == maxLetters {
			clear(v.letters)
		}
		if l = v.newLetters(a, each); a.full {
			return nil
		}
		v.letters[spelling] = l
	}
	return l
}

// prepare finds out about the characters of JSON strings, which most grammars have.
func (v *Vocabulary) prepare() {
	j := newJSONTerms(newArena(defaultMemory), Compact)
	v.lettersOf(j.arena, j.character, true)
}

func (v *Vocabulary) newLetters(a *arena, each id) *letters {
	type place struct {
		state id // within a letter; empty behind one
		count int
	}
	l := &letters{all: true, count: make([]uint8, len(v.tokens)), pure: make([]bool, len(v.nodes))}
	for i := range l.count {
		l.count[i] = notLetters
	}
	path := make([]place, v.depth+1)
	path[0] = place{state: empty}
	for i := int32(1); i < int32(len(v.nodes)); {
		n := &v.nodes[i]
		p := path[n.depth-1]
		if p.state == empty {
			p.state = each
			p.count++
		}
		p.state = a.step(p.state, n.b)
		unclear := p.state != empty && a.at(p.state).nullable || p.count >= notLetters
		if p.state == nothing || unclear {
			l.all = l.all && !unclear
			i = n.end
			continue
		}
		path[n.depth] = p
		l.pure[i] = true
		l.most = max(l.most, p.count)
		v.eachToken(n, func(token int32) { l.count[token] = uint8(p.count) })
		i++
	}
	// A node is pure if those below it are.
	for i := range path {
		path[i].count = 0 // impure nodes below the node at hand, by depth
	}
	for i := len(v.nodes) - 1; i > 0; i-- {
		d := v.nodes[i].depth
		impure := !l.pure[i]
		if int(d) < v.depth && path[d+1].count > 0 {
			impure = true
			path[d+1].count = 0
		}
		l.pure[i] = !impure
		if impure {
			path[d].count++
		}
	}
	return l
}

// upTo is the mask of tokens that are at most so many letters.
func (l *letters) upTo(v *Vocabulary, n int) []uint32 {
	n = min(n, l.most)
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.masks) <= n {
		l.masks = append(l.masks, nil)
	}
	if l.masks[n] == nil {
		mask := make([]uint32, words(v.Size()))
		for token, c := range l.count {
			if int(c) <= n && c != notLetters {
				mask[token/32] |= 1 << (token % 32)
			}
		}
		l.masks[n] = mask
	}
	return l.masks[n]
}

// spelling is a text by which terms without calls are known across arenas: equal ones are equal terms.
// It is "" for what is too long.
func (a *arena) spelling(n id) string {
	var out strings.Builder
	a.spell(&out, n)
	if out.Len() > maxSpelling {
		return ""
	}
	return out.String()
}

func (a *arena) spell(out *strings.Builder, n id) {
	t := a.at(n)
	if out.Len() > maxSpelling {
		return
	}
	fmt.Fprintf(out, "(%d", t.kind)
	switch t.kind {
	case kindSet, kindText:
		fmt.Fprintf(out, "%x", t.text)
	case kindCat:
		a.spell(out, t.a)
		a.spell(out, t.b)
	case kindRepeat:
		fmt.Fprintf(out, ",%d,%d", t.min, t.max)
		a.spell(out, t.a)
	case kindNot, kindLexeme:
		a.spell(out, t.a)
	case kindAlt, kindAnd:
		for _, p := range t.list {
			a.spell(out, p)
		}
	case kindCall:
		fmt.Fprintf(out, "%p,%d,%x", a.rules, t.a, t.text)
	}
	out.WriteByte(')')
}
