package grammar

import (
	"errors"
	"fmt"
	"regexp/syntax"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxPattern bounds patterns, in bytes.
const maxPattern = 1 << 16

// dialect are the points in which kinds of regular expressions differ.
type dialect struct {
	in  alphabet
	dot []span // what . means
	all bool   // the pattern must match the whole text; else any part of it
}

var (
	// re2 is Go's syntax, for whole texts.
	re2 = dialect{in: plainText, dot: except('\n'), all: true}
	// ecma is what JSON Schema has (ECMA-262, section 22.2), within JSON strings.
	ecma = dialect{in: jsonString, dot: except('\n', '\r', 0x2028, 0x2029)}
)

func except(runes ...rune) []span {
	var out []span
	lo := rune(0)
	for _, r := range runes {
		if lo < r {
			out = append(out, span{lo, r - 1})
		}
		lo = r + 1
	}
	return append(out, span{lo, utf8.MaxRune})
}

// pattern is the texts that a regular expression matches.
func (a *arena) pattern(expr string, d dialect) (id, error) {
	if len(expr) > maxPattern {
		return nothing, fmt.Errorf("a pattern of %d bytes, more than the %d that are supported", len(expr), maxPattern)
	}
	source := expr
	if d.in == jsonString {
		var err error
		if source, err = fromECMA(expr); err != nil {
			return nothing, fmt.Errorf("pattern %s: %w", quoted(expr), err)
		}
	}
	re, err := syntax.Parse(source, syntax.Perl)
	var malformed *syntax.Error
	if errors.As(err, &malformed) {
		return nothing, fmt.Errorf("pattern %s: %s: %s", quoted(expr), malformed.Code, quoted(malformed.Expr))
	}
	if err != nil {
		return nothing, fmt.Errorf("pattern %s: %w", quoted(expr), err)
	}
	n, err := a.outer(re, d)
	if err != nil {
		return nothing, fmt.Errorf("pattern %s: %w", quoted(expr), err)
	}
	return n, nil
}

// quoted is a pattern as errors show it.
func quoted(s string) string {
	const most = 80
	if len(s) > most {
		return strconv.Quote(strings.ToValidUTF8(s[:most], "")) + "..."
	}
	return strconv.Quote(s)
}

// outer is a pattern with the anchors at its ends, and what may stand around it.
func (a *arena) outer(re *syntax.Regexp, d dialect) (id, error) {
	switch re.Op {
	case syntax.OpCapture:
		return a.outer(re.Sub[0], d)
	case syntax.OpAlternate:
		parts := make([]id, len(re.Sub))
		for i, sub := range re.Sub {
			var err error
			if parts[i], err = a.outer(sub, d); err != nil {
				return nothing, err
			}
		}
		return a.alt(parts...), nil
	}
	parts := []*syntax.Regexp{re}
	if re.Op == syntax.OpConcat {
		parts = re.Sub
	}
	before, after := !d.all, !d.all
	for len(parts) > 0 && parts[0].Op == syntax.OpBeginText {
		parts, before = parts[1:], false
	}
	for len(parts) > 0 && parts[len(parts)-1].Op == syntax.OpEndText {
		parts, after = parts[:len(parts)-1], false
	}
	if len(parts) == 1 && !before && !after && parts[0].Op == syntax.OpCapture {
		whole := d
		whole.all = true
		return a.outer(parts[0], whole) // ^(^a$|b)$
	}
	body, err := a.inner(parts, d)
	if err != nil {
		return nothing, err
	}
	anything := a.repeat(a.characters(d.in, anyCharacter), 0, unbounded)
	if a.at(body).nullable && before && after {
		return anything, nil
	}
	if before {
		body = a.cat(anything, body)
	}
	if after {
		body = a.cat(body, anything)
	}
	return body, nil
}

func (a *arena) inner(list []*syntax.Regexp, d dialect) (id, error) {
	parts := make([]id, len(list))
	for i, re := range list {
		var err error
		if parts[i], err = a.expression(re, d); err != nil {
			return nothing, err
		}
	}
	return a.sequence(parts...), nil
}

// expression is a part of a pattern.
func (a *arena) expression(re *syntax.Regexp, d dialect) (id, error) {
	switch re.Op {
	case syntax.OpNoMatch:
		return nothing, nil
	case syntax.OpEmptyMatch:
		return empty, nil
	case syntax.OpLiteral:
		return a.literal(re, d), nil
	case syntax.OpCharClass:
		spans := make([]span, 0, len(re.Rune)/2)
		for i := 0; i+1 < len(re.Rune); i += 2 {
			spans = append(spans, span{re.Rune[i], re.Rune[i+1]})
		}
		return a.characters(d.in, spans), nil
	case syntax.OpAnyCharNotNL:
		return a.characters(d.in, d.dot), nil
	case syntax.OpAnyChar:
		return a.characters(d.in, anyCharacter), nil
	case syntax.OpCapture, syntax.OpConcat:
		return a.inner(re.Sub, d)
	case syntax.OpStar, syntax.OpPlus, syntax.OpQuest, syntax.OpRepeat:
		x, err := a.expression(re.Sub[0], d)
		if err != nil {
			return nothing, err
		}
		least, most := repetition(re)
		return a.repeat(x, least, most), nil
	case syntax.OpAlternate:
		parts := make([]id, len(re.Sub))
		for i, sub := range re.Sub {
			var err error
			if parts[i], err = a.expression(sub, d); err != nil {
				return nothing, err
			}
		}
		return a.alt(parts...), nil
	case syntax.OpBeginText, syntax.OpEndText:
		return nothing, fmt.Errorf("^ and $ are supported at the ends of a pattern or of its alternatives, not within")
	}
	return nothing, fmt.Errorf("%s is not supported", re)
}

func repetition(re *syntax.Regexp) (least, most int32) {
	switch re.Op {
	case syntax.OpStar:
		return 0, unbounded
	case syntax.OpPlus:
		return 1, unbounded
	case syntax.OpQuest:
		return 0, 1
	}
	return int32(re.Min), int32(re.Max) // -1 is without bound there too
}

func (a *arena) literal(re *syntax.Regexp, d dialect) id {
	if re.Flags&syntax.FoldCase == 0 {
		var text strings.Builder
		for _, r := range re.Rune {
			if d.in == jsonString {
				text.WriteString(jsonSpelling(r))
			} else {
				text.WriteRune(r)
			}
		}
		return a.text(text.String())
	}
	parts := make([]id, len(re.Rune))
	for i, r := range re.Rune {
		var same []id
		for f := r; ; {
			same = append(same, a.characters(d.in, []span{{f, f}}))
			if f = unicode.SimpleFold(f); f == r {
				break
			}
		}
		parts[i] = a.alt(same...)
	}
	return a.sequence(parts...)
}

// spaceECMA is \s of ECMA-262 (WhiteSpace and LineTerminator), within brackets.
const spaceECMA = `\t\n\v\f\r \x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}`

// fromECMA writes a pattern of ECMA-262 in Go's syntax where the two differ.
func fromECMA(expr string) (string, error) {
	var out strings.Builder
	class := false
	for i := 0; i < len(expr); {
		c := expr[i]
		switch {
		case c == '\\':
			n, err := escapeFromECMA(&out, expr[i:], class)
			if err != nil {
				return "", err
			}
			i += n
			continue
		case class && c == '[':
			out.WriteString(`\[`) // no [:alpha:] there
			i++
			continue
		case c == '[' && strings.HasPrefix(expr[i:], "[^]"):
			out.WriteString(`[\x{0}-\x{10ffff}]`)
			i += 3
			continue
		case c == '[' && strings.HasPrefix(expr[i:], "[]"):
			return "", fmt.Errorf("[] matches no character")
		case c == '[':
			class = true
		case c == ']':
			class = false
		}
		out.WriteByte(c)
		i++
	}
	return out.String(), nil
}

// escapeFromECMA writes the escape at the beginning of s, and returns its length.
func escapeFromECMA(out *strings.Builder, s string, class bool) (int, error) {
	if len(s) < 2 {
		return 0, fmt.Errorf("it ends in a backslash")
	}
	switch c := s[1]; c {
	case 'u':
		r, n, err := unicodeEscape(s)
		fmt.Fprintf(out, `\x{%x}`, r)
		return n, err
	case 'c':
		if len(s) < 3 || !('a' <= s[2]|0x20 && s[2]|0x20 <= 'z') {
			return 0, fmt.Errorf(`\c wants a letter`)
		}
		fmt.Fprintf(out, `\x%02x`, s[2]&0x1F)
		return 3, nil
	case 's':
		if class {
			out.WriteString(spaceECMA)
		} else {
			out.WriteString("[" + spaceECMA + "]")
		}
	case 'S':
		if class {
			return 0, fmt.Errorf(`\S within brackets is not supported`)
		}
		out.WriteString("[^" + spaceECMA + "]")
	case 'A', 'z', 'a', 'C', 'Q', 'E':
		return 0, fmt.Errorf(`\%c has no meaning in ECMA-262`, c)
	default:
		if c >= utf8.RuneSelf {
			return 0, fmt.Errorf("a backslash before a character that needs none")
		}
		out.WriteString(s[:2])
	}
	return 2, nil
}

// unicodeEscape reads \uXXXX, two of them for one character, or \u{X}.
func unicodeEscape(s string) (rune, int, error) {
	hex := func(s string) rune {
		n, err := strconv.ParseUint(s, 16, 32)
		if err != nil || n > utf8.MaxRune {
			return -1
		}
		return rune(n)
	}
	bad := fmt.Errorf(`\u wants four hexadecimal digits, or some in braces`)
	if strings.HasPrefix(s, `\u{`) {
		end := strings.IndexByte(s, '}')
		if end < 0 {
			return 0, 0, bad
		}
		r := hex(s[3:end])
		if !utf8.ValidRune(r) {
			return 0, 0, bad
		}
		return r, end + 1, nil
	}
	if len(s) < 6 {
		return 0, 0, bad
	}
	r := hex(s[2:6])
	if 0xD800 <= r && r < 0xDC00 && len(s) >= 12 && s[6:8] == `\u` {
		if low := hex(s[8:12]); 0xDC00 <= low && low <= surrogateMax {
			return 0x10000 + (r-0xD800)<<10 + low - 0xDC00, 12, nil
		}
	}
	if !utf8.ValidRune(r) {
		return 0, 0, bad
	}
	return r, 6, nil
}
