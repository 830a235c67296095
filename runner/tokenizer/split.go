package tokenizer

import (
	"unicode"
	"unicode/utf8"
)

// splitPattern is the expression by which Qwen2 and later split a text before merging, each match a piece. nextPiece is this
// expression, written out.
const splitPattern = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`

// class is what splitPattern knows of a character.
type class uint8

const (
	other   class = iota // neither of those below: punctuation, symbols, marks, controls
	letter               // \p{L}
	number               // \p{N}
	newline              // [\r\n]
	space                // \s without newlines
	unsure               // may be something else in another version of Unicode
)

// longS is a lower-case form of S. Whether 's matches it where case does not count is left to the library.
const longS = 'ſ'

func classOf(r rune) class {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z':
		return letter
	case '0' <= r && r <= '9':
		return number
	case r == '\n' || r == '\r':
		return newline
	case r == ' ' || '\t' <= r && r <= '\f':
		return space
	case r < utf8.RuneSelf:
		return other
	case r == longS:
		return unsure
	case unicode.IsLetter(r):
		return letter
	case unicode.IsNumber(r):
		return number
	case unicode.IsSpace(r):
		return space
	case unicode.In(r, unicode.M, unicode.P, unicode.S, unicode.Z, unicode.Cc, unicode.Cf, unicode.Co):
		return other
	}
	return unsure // not assigned; the library's version of Unicode may be newer
}

// first returns the class of the first character of s and its length.
func first(s string) (class, int) {
	if c := s[0]; c < utf8.RuneSelf {
		return classOf(rune(c)), 1
	}
	r, n := utf8.DecodeRuneInString(s)
	return classOf(r), n
}

// run returns the length of the characters of class c that s begins with.
func run(s string, c class) int {
	n := 0
	for n < len(s) {
		k, size := first(s[n:])
		if k != c {
			break
		}
		n += size
	}
	return n
}

// nextPiece returns the length of the first match of splitPattern in s, which is not empty and well-formed UTF-8. It is 0 at
// a character that is unsure, which no match contains.
func nextPiece(s string) int {
	if n := contraction(s); n > 0 {
		return n
	}
	c, n := first(s)
	switch c {
	case unsure:
		return 0
	case letter:
		return n + run(s[n:], letter)
	case number:
		return n
	case other, space: // [^\r\n\p{L}\p{N}]?\p{L}+
		if letters := run(s[n:], letter); letters > 0 {
			return n + letters
		}
	}
	lead := 0 // of " ?"
	if s[0] == ' ' {
		lead = 1
	}
	if others := run(s[lead:], other); others > 0 { // ` ?[^\s\p{L}\p{N}]+[\r\n]*`
		n = lead + others
		return n + run(s[n:], newline)
	}
	return blank(s)
}

// contraction returns the length of (?i:'s|'t|'re|'ve|'m|'ll|'d) at the beginning of s, 0 where there is none.
func contraction(s string) int {
	if s[0] != '\'' || len(s) < 2 {
		return 0
	}
	const toLower = 'a' - 'A'
	switch s[1] | toLower {
	case 's', 't', 'm', 'd':
		return 2
	case 'r', 'v':
		if len(s) > 2 && s[2]|toLower == 'e' {
			return 3
		}
	case 'l':
		if len(s) > 2 && s[2]|toLower == 'l' {
			return 3
		}
	}
	return 0
}

// blank returns the length of \s*[\r\n]+|\s+(?!\S)|\s+ at the beginning of s, which is white space: up to the last newline of
// the run; else all but the last character of the run, which goes to what follows; else all of it.
func blank(s string) int {
	end, last, lines := 0, 0, 0 // where the run ends, where its last character begins, where its last newline ends
	for end < len(s) {
		c, size := first(s[end:])
		if c != space && c != newline {
			break
		}
		last = end
		end += size
		if c == newline {
			lines = end
		}
	}
	switch {
	case lines > 0:
		return lines
	case end == len(s) || last == 0:
		return end
	}
	return last
}
