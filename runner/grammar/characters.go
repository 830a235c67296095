package grammar

import (
	"fmt"
	"unicode/utf8"
)

// An alphabet spells characters as bytes.
type alphabet int

const (
	plainText  alphabet = iota // UTF-8
	jsonString                 // within the quotes of a JSON string, each character in one way
)

// A span is a range of characters, both ends in it.
type span struct{ lo, hi rune }

const (
	surrogateMin, surrogateMax = 0xD800, 0xDFFF
)

var anyCharacter = []span{{0, utf8.MaxRune}}

// characters is one character of the spans, which are sorted and do not overlap.
func (a *arena) characters(in alphabet, spans []span) id {
	var parts []id
	for _, s := range spans {
		if in == plainText {
			parts = append(parts, a.utf8(s))
			continue
		}
		for r := s.lo; r <= min(s.hi, 0x1F); r++ {
			parts = append(parts, a.text(jsonSpelling(r)))
		}
		for _, r := range []rune{'"', '\\'} {
			if s.lo <= r && r <= s.hi {
				parts = append(parts, a.text(jsonSpelling(r)))
			}
		}
		for _, p := range plainSpans {
			parts = append(parts, a.utf8(span{max(s.lo, p.lo), min(s.hi, p.hi)}))
		}
	}
	return a.alt(parts...)
}

// plainSpans are the characters that a JSON string has unescaped (RFC 8259, section 7).
var plainSpans = []span{{0x20, '"' - 1}, {'"' + 1, '\\' - 1}, {'\\' + 1, utf8.MaxRune}}

// jsonSpelling is the one way in which characters are spelled in strings that are not free: as short as
// can be, and in ways that every parser reads.
func jsonSpelling(r rune) string {
	switch r {
	case '"':
		return `\"`
	case '\\':
		return `\\`
	case '\b':
		return `\b`
	case '\f':
		return `\f`
	case '\n':
		return `\n`
	case '\r':
		return `\r`
	case '\t':
		return `\t`
	}
	if r < 0x20 {
		return fmt.Sprintf(`\u%04x`, r)
	}
	return string(r)
}

// utf8 is one character of a span as UTF-8. Spans are cut where the number of bytes changes, and where a
// byte but the first would not run over its whole range.
func (a *arena) utf8(s span) id {
	if s.lo > s.hi {
		return nothing
	}
	if s.lo <= surrogateMax && s.hi >= surrogateMin {
		return a.alt(a.utf8(span{s.lo, surrogateMin - 1}), a.utf8(span{surrogateMax + 1, s.hi}))
	}
	for _, last := range []rune{0x7F, 0x7FF, 0xFFFF} {
		if s.lo <= last && last < s.hi {
			return a.alt(a.utf8(span{s.lo, last}), a.utf8(span{last + 1, s.hi}))
		}
	}
	for low := rune(0x3F); s.hi > 0x7F && low <= 0x3FFFF; low = low<<6 | 0x3F {
		if s.lo&^low == s.hi&^low {
			continue
		}
		if s.lo&low != 0 {
			return a.alt(a.utf8(span{s.lo, s.lo | low}), a.utf8(span{s.lo | low + 1, s.hi}))
		}
		if s.hi&low != low {
			return a.alt(a.utf8(span{s.lo, s.hi&^low - 1}), a.utf8(span{s.hi &^ low, s.hi}))
		}
	}
	lo, hi := utf8.AppendRune(nil, s.lo), utf8.AppendRune(nil, s.hi)
	var parts []id
	for i := range lo {
		parts = append(parts, a.bytes(lo[i], hi[i]))
	}
	return a.sequence(parts...)
}

// jsonCharacter is one character of a JSON string in any spelling: as it is, as an escape, or beyond
// U+FFFF as two escapes (RFC 8259, section 7). Halves of such pairs alone are left out.
func (a *arena) jsonCharacter() id {
	var parts []id
	for _, p := range plainSpans {
		parts = append(parts, a.utf8(p))
	}
	var short, digit, low, notD byteSet
	for _, b := range []byte(`"\/bfnrt`) {
		short.add(b, b)
	}
	digit.add('0', '9')
	digit.add('a', 'f')
	digit.add('A', 'F')
	low.add('c', 'f')
	low.add('C', 'F')
	notD = digit
	notD['d'>>6] &^= 1<<('d'&63) | 1<<('D'&63)
	var d, high byteSet
	d.add('d', 'd')
	d.add('D', 'D')
	high.add('8', '9')
	high.add('a', 'b')
	high.add('A', 'B')
	hex := a.set(digit)
	scalar := a.alt(
		a.sequence(a.set(notD), hex, hex, hex),
		a.sequence(a.set(d), a.bytes('0', '7'), hex, hex),
	)
	pair := a.sequence(a.set(d), a.set(high), hex, hex, a.text(`\u`), a.set(d), a.set(low), hex, hex)
	escape := a.cat(a.text(`\`), a.alt(a.set(short), a.cat(a.text("u"), a.alt(scalar, pair))))
	return a.alt(append(parts, escape)...)
}
