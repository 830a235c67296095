package tokenizer

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// singleBytes are the tokens that vocabularies of byte-level BPE begin with.
const singleBytes = 256

// encoder is byte-level BPE as Qwen's tokenizer.json defines it (see qwenForm). It gives the ids that the tokenizers library
// gives, or none: where characters are not settled, the library is to be asked.
//
// A token's spelling and the length of its left part tell the merge that makes it. Ids rise in the order of the merges.
type encoder struct {
	ids    *spellings
	bytes  [singleBytes]int32
	left   []uint16     // by id: bytes of the left part's spelling; 0 for single bytes
	added  []addedToken // the longest first
	begins [256]bool    // bytes that added tokens begin with
}

func newEncoder(ids *spellings, left []uint16, added []addedToken) *encoder {
	e := &encoder{ids: ids, left: left, added: slices.Clone(added)}
	slices.SortStableFunc(e.added, func(a, b addedToken) int { return cmp.Compare(len(b.Content), len(a.Content)) })
	for b := range e.bytes {
		e.bytes[b], _ = ids.id(string(runeOf(byte(b))))
	}
	for _, t := range e.added {
		e.begins[t.Content[0]] = true
	}
	return e
}

// encode returns the ids of a text, with added tokens or as if there were none. It is not ok where the library may see
// something else in the text: it is not in normal form C, or has characters that are not settled.
func (e *encoder) encode(text string, added bool) (ids []int32, ok bool) {
	if len(text) > math.MaxInt32/2 || !utf8.ValidString(text) {
		return nil, false
	}
	ids = make([]int32, 0, len(text)/3+1)
	var w word
	for len(text) > 0 {
		plain, token := text, addedToken{}
		if added {
			plain, token = e.nextAdded(text)
		}
		if !norm.NFC.IsNormalString(plain) {
			return nil, false
		}
		text = text[len(plain)+len(token.Content):]
		for len(plain) > 0 {
			n := nextPiece(plain)
			if n == 0 {
				return nil, false
			}
			ids = w.encode(ids, e, plain[:n])
			plain = plain[n:]
		}
		if token.Content != "" {
			ids = append(ids, token.ID)
		}
	}
	return ids, true
}

// nextAdded returns what comes before the first added token of a text, the longest of several, and that token.
func (e *encoder) nextAdded(text string) (before string, token addedToken) {
	for i := range len(text) {
		if !e.begins[text[i]] {
			continue
		}
		for _, t := range e.added {
			if strings.HasPrefix(text[i:], t.Content) {
				return text[:i], t
			}
		}
	}
	return text, addedToken{}
}

// word is a piece of text on its way from bytes to tokens: a list of symbols, and a heap of the pairs that can be merged, by
// the id of the merged token and then by place, which is the order of the merges.
type word struct {
	spelling []byte
	symbols  []symbol
	heap     []uint64 // id << 32 | place of the left symbol
}

// symbol is a token in the making.
type symbol struct {
	id         int32 // -1: merged into the symbol before it
	start, end int32 // in the spelling
	prev, next int32 // -1: none
}

// encode appends the tokens of a piece to ids.
func (w *word) encode(ids []int32, e *encoder, piece string) []int32 {
	w.spelling, w.symbols = w.spelling[:0], w.symbols[:0]
	for i := range len(piece) {
		start := len(w.spelling)
		w.spelling = utf8.AppendRune(w.spelling, runeOf(piece[i]))
		w.symbols = append(w.symbols, symbol{e.bytes[piece[i]], int32(start), int32(len(w.spelling)), int32(i - 1), int32(i + 1)})
	}
	w.symbols[len(piece)-1].next = -1
	for i := range int32(len(piece) - 1) {
		w.consider(e, i)
	}
	for len(w.heap) > 0 {
		top := w.pop()
		id, at := int32(top>>32), int32(top)
		if merged, ok := w.merged(e, at); !ok || merged != id {
			continue // another merge has taken one of the two
		}
		s := &w.symbols[at]
		right := &w.symbols[s.next]
		s.id, s.end, s.next, right.id = id, right.end, right.next, -1
		if s.next >= 0 {
			w.symbols[s.next].prev = at
			w.consider(e, at)
		}
		if s.prev >= 0 {
			w.consider(e, s.prev)
		}
	}
	for at := int32(0); at >= 0; at = w.symbols[at].next {
		ids = append(ids, w.symbols[at].id)
	}
	return ids
}

// merged returns what the symbol at a place and the next one make together.
func (w *word) merged(e *encoder, at int32) (id int32, ok bool) {
	s := w.symbols[at]
	if s.id < 0 || s.next < 0 {
		return 0, false
	}
	id, ok = e.ids.idOf(w.spelling[s.start:w.symbols[s.next].end])
	return id, ok && int(id) < len(e.left) && int32(e.left[id]) == s.end-s.start
}

// consider puts the symbol at a place and the next one on the heap, if they can be merged.
func (w *word) consider(e *encoder, at int32) {
	id, ok := w.merged(e, at)
	if !ok {
		return
	}
	w.heap = append(w.heap, uint64(id)<<32|uint64(at))
	for i := len(w.heap) - 1; i > 0 && w.heap[i] < w.heap[(i-1)/2]; i = (i - 1) / 2 {
		w.heap[i], w.heap[(i-1)/2] = w.heap[(i-1)/2], w.heap[i]
	}
}

// pop takes the least from the heap.
func (w *word) pop() uint64 {
	h := w.heap
	top, n := h[0], len(h)-1
	h[0], w.heap = h[n], h[:n]
	for i := 0; 2*i+1 < n; {
		least := 2*i + 1
		if least+1 < n && h[least+1] < h[least] {
			least++
		}
		if h[i] <= h[least] {
			break
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
	return top
}
