package chat

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of a template's source. The longest templates of published models have
// about 25 KB and tags of 2 KB; the bounds keep the engine's recursive parser and
// evaluator far below Go's limit of 1 GB of stack, past which a process dies.
const (
	maxSource   = 256 << 10
	maxTag      = 16 << 10
	maxBrackets = 100 // nested brackets in one tag
	maxBlocks   = 100 // nested blocks
)

type segmentKind int

const (
	textSegment segmentKind = iota
	outputSegment
	statementSegment
	commentSegment
)

// A segment is a run of text, or one tag with its delimiters and signs removed.
type segment struct {
	kind   segmentKind
	text   string  // literal text; white space is settled by split
	tokens []token // of an output or a statement
	line   int
}

type tokenKind int

const (
	nameToken tokenKind = iota
	numberToken
	stringToken // text holds the value, escapes resolved
	symbolToken
)

type token struct {
	kind tokenKind
	text string
}

func (t token) is(symbol string) bool { return t.kind == symbolToken && t.text == symbol }

// lexer splits a template as jinja2.lexer does with trim_blocks and lstrip_blocks
// on and keep_trailing_newline off, which is how transformers compiles templates.
type lexer struct {
	src      string
	pos      int
	line     int
	segments []segment
	// atLineStart tells that the byte before pos ended a line, so that lstrip_blocks
	// applies to white space from there on.
	atLineStart bool
}

func split(source string) ([]segment, error) {
	source = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(source)
	source = strings.TrimSuffix(source, "\n")
	l := &lexer{src: source, line: 1, atLineStart: true}
	for l.pos < len(l.src) {
		if err := l.next(); err != nil {
			return nil, err
		}
	}
	return l.segments, nil
}

func (l *lexer) next() error {
	start := l.pos
	open := nextTag(l.src[start:])
	if open < 0 {
		l.addText(l.src[start:], l.line)
		l.advance(len(l.src))
		return nil
	}
	open += start
	kind := map[byte]segmentKind{'{': outputSegment, '%': statementSegment, '#': commentSegment}[l.src[open+1]]
	body := open + 2
	sign := signAt(l.src, body)
	if sign != 0 {
		body++
	}
	l.addText(stripBefore(l.src[start:open], l.atLineStart, kind, sign), l.line)
	l.advance(body)
	switch kind {
	case commentSegment:
		return l.comment()
	case statementSegment:
		if l.rawBegins() {
			return l.raw()
		}
	}
	return l.tag(kind)
}

// advance moves to pos and keeps the line number.
func (l *lexer) advance(pos int) {
	l.line += strings.Count(l.src[l.pos:pos], "\n")
	if pos > l.pos {
		l.atLineStart = l.src[pos-1] == '\n'
	}
	l.pos = pos
}

func (l *lexer) addText(text string, line int) {
	if text != "" {
		l.segments = append(l.segments, segment{kind: textSegment, text: text, line: line})
	}
}

func (l *lexer) errorf(format string, args ...any) error {
	return fmt.Errorf("line %d: %s", l.line, fmt.Sprintf(format, args...))
}

// nextTag returns the offset of the next "{{", "{%" or "{#", or -1.
func nextTag(s string) int {
	for i := 0; i+1 < len(s); i++ {
		if s[i] == '{' && (s[i+1] == '{' || s[i+1] == '%' || s[i+1] == '#') {
			return i
		}
	}
	return -1
}

// signAt returns '-' or '+' where the tag has one at i, else 0.
func signAt(s string, i int) byte {
	if i < len(s) && (s[i] == '-' || s[i] == '+') {
		return s[i]
	}
	return 0
}

// stripBefore settles the white space of the text before a tag. atLineStart tells
// whether that text begins a line.
func stripBefore(text string, atLineStart bool, kind segmentKind, sign byte) string {
	switch {
	case sign == '-':
		return strings.TrimRightFunc(text, unicode.IsSpace)
	case sign == '+' || kind == outputSegment:
		return text
	}
	lineStart := strings.LastIndexByte(text, '\n') + 1
	if lineStart == 0 && !atLineStart {
		return text
	}
	if strings.TrimLeftFunc(text[lineStart:], unicode.IsSpace) == "" {
		return text[:lineStart]
	}
	return text
}

// closeTag consumes the end of a tag whose sign, if any, is at l.pos, and what
// trim_blocks or a minus sign removes after it.
func (l *lexer) closeTag(sign byte, trimNewline bool) {
	end := l.pos + 2
	if sign != 0 {
		end++
	}
	switch {
	case sign == '-':
		rest := l.src[end:]
		end += len(rest) - len(strings.TrimLeftFunc(rest, unicode.IsSpace))
	case sign == 0 && trimNewline && end < len(l.src) && l.src[end] == '\n':
		end++
	}
	l.advance(end)
}

func (l *lexer) comment() error {
	end := strings.Index(l.src[l.pos:], "#}")
	if end < 0 {
		return l.errorf("comment is not closed")
	}
	end += l.pos
	var sign byte
	if end > l.pos {
		sign = signAt(l.src, end-1)
	}
	if sign != 0 {
		end--
	}
	l.advance(end)
	l.closeTag(sign, true)
	return nil
}

// rawBegins reports whether the statement at l.pos is {% raw %}.
func (l *lexer) rawBegins() bool {
	rest := strings.TrimLeftFunc(l.src[l.pos:], unicode.IsSpace)
	after, ok := strings.CutPrefix(rest, "raw")
	if !ok {
		return false
	}
	after = strings.TrimLeftFunc(after, unicode.IsSpace)
	return strings.HasPrefix(after, "%}") || strings.HasPrefix(after, "-%}")
}

func (l *lexer) raw() error {
	begin := strings.Index(l.src[l.pos:], "%}") + l.pos
	minus := l.src[begin-1] == '-'
	l.advance(begin + 2)
	for at := l.pos; ; {
		open := strings.Index(l.src[at:], "{%")
		if open < 0 {
			return l.errorf("raw block is not closed")
		}
		open += at
		at = open + 2
		body := at
		sign := signAt(l.src, body)
		if sign != 0 {
			body++
		}
		rest := strings.TrimLeftFunc(l.src[body:], unicode.IsSpace)
		rest, ok := strings.CutPrefix(rest, "endraw")
		if !ok {
			continue
		}
		rest = strings.TrimLeftFunc(rest, unicode.IsSpace)
		endSign := signAt(rest, 0)
		close := len(l.src) - len(rest)
		if endSign != 0 {
			rest = rest[1:]
		}
		if !strings.HasPrefix(rest, "%}") {
			continue
		}
		text := l.src[l.pos:open]
		if minus {
			text = strings.TrimLeftFunc(text, unicode.IsSpace)
		}
		l.addText(stripBefore(text, l.atLineStart, statementSegment, sign), l.line)
		l.advance(close)
		l.closeTag(endSign, true)
		return nil
	}
}

// tag reads the tokens of an output or a statement up to its end. Brackets must
// balance, so that the braces of a dict do not end the tag.
func (l *lexer) tag(kind segmentKind) error {
	closer := "}}"
	if kind == statementSegment {
		closer = "%}"
	}
	seg := segment{kind: kind, line: l.line}
	var open []byte
	limit := l.pos + maxTag
	for {
		rest := strings.TrimLeftFunc(l.src[l.pos:], unicode.IsSpace)
		l.advance(len(l.src) - len(rest))
		if l.pos > limit {
			return l.errorf("tag is longer than %d bytes", maxTag)
		}
		if rest == "" {
			return fmt.Errorf("line %d: tag is not closed", seg.line)
		}
		if len(open) == 0 {
			sign := signAt(rest, 0)
			end := rest
			if sign == '-' || sign == '+' && kind == statementSegment {
				end = rest[1:]
			} else {
				sign = 0
			}
			if strings.HasPrefix(end, closer) {
				l.closeTag(sign, kind == statementSegment)
				l.segments = append(l.segments, seg)
				return nil
			}
		}
		tok, size, err := lexToken(rest)
		if err != nil {
			return l.errorf("%v", err)
		}
		if tok.kind == symbolToken {
			if open, err = balance(open, tok.text[0]); err != nil {
				return l.errorf("%v", err)
			}
		}
		seg.tokens = appendToken(seg.tokens, tok)
		l.advance(l.pos + size)
	}
}

// appendToken joins neighbouring string literals, as Python and Jinja do.
func appendToken(tokens []token, tok token) []token {
	if n := len(tokens); n > 0 && tok.kind == stringToken && tokens[n-1].kind == stringToken {
		tokens[n-1].text += tok.text
		return tokens
	}
	return append(tokens, tok)
}

func balance(open []byte, c byte) ([]byte, error) {
	switch c {
	case '(', '[', '{':
		if len(open) == maxBrackets {
			return nil, fmt.Errorf("more than %d nested brackets", maxBrackets)
		}
		return append(open, c), nil
	case ')', ']', '}':
		want := map[byte]byte{')': '(', ']': '[', '}': '{'}[c]
		if len(open) == 0 || open[len(open)-1] != want {
			return nil, fmt.Errorf("unexpected %q", c)
		}
		return open[:len(open)-1], nil
	}
	return open, nil
}

// lexToken reads the token at the start of s and returns its length in s.
func lexToken(s string) (token, int, error) {
	c := s[0]
	switch {
	case c == '\'' || c == '"':
		return lexString(s)
	case isDigit(c):
		return lexNumber(s)
	case isNameByte(c):
		n := 1
		for n < len(s) && isNameByte(s[n]) {
			n++
		}
		return token{nameToken, s[:n]}, n, nil
	}
	for _, op := range [...]string{"**", "//", "==", "!=", "<=", ">="} {
		if strings.HasPrefix(s, op) {
			return token{symbolToken, op}, 2, nil
		}
	}
	if strings.IndexByte("+-*/%<>=~|.,:()[]{}", c) < 0 {
		r, _ := utf8.DecodeRuneInString(s)
		return token{}, 0, fmt.Errorf("unexpected character %q", r)
	}
	return token{symbolToken, s[:1]}, 1, nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isNameByte(c byte) bool {
	return c == '_' || isDigit(c) || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// lexNumber reads the integer or float at the start of s. A float is spelled with
// a point, which the engine wants.
func lexNumber(s string) (token, int, error) {
	digits := func(i int) int {
		for i < len(s) && isDigit(s[i]) {
			i++
		}
		return i
	}
	whole := digits(0)
	mantissa, text := whole, s[:whole]
	if whole+1 < len(s) && s[whole] == '.' && isDigit(s[whole+1]) {
		mantissa = digits(whole + 1)
		text = s[:mantissa]
	}
	if mantissa == len(s) || s[mantissa] != 'e' && s[mantissa] != 'E' {
		return token{numberToken, text}, mantissa, nil
	}
	exponent := mantissa + 1
	if exponent < len(s) && (s[exponent] == '+' || s[exponent] == '-') {
		exponent++
	}
	end := digits(exponent)
	if end == exponent {
		return token{numberToken, text}, mantissa, nil
	}
	if mantissa == whole {
		text += ".0"
	}
	return token{numberToken, text + s[mantissa:end]}, end, nil
}

// lexString reads a quoted string and resolves the escapes of a Python literal.
func lexString(s string) (token, int, error) {
	quote := s[0]
	var b strings.Builder
	for i := 1; i < len(s); {
		switch s[i] {
		case quote:
			return token{stringToken, b.String()}, i + 1, nil
		case '\\':
			n, err := unescape(&b, s[i:])
			if err != nil {
				return token{}, 0, err
			}
			i += n
		default:
			b.WriteByte(s[i])
			i++
		}
	}
	return token{}, 0, fmt.Errorf("string is not closed")
}

// unescape writes the character that the escape at the start of s stands for and
// returns the escape's length. An unknown escape stands for itself.
func unescape(b *strings.Builder, s string) (int, error) {
	if len(s) < 2 {
		return 0, fmt.Errorf("string is not closed")
	}
	c := s[1]
	if i := strings.IndexByte(`\'"abfnrtv`, c); i >= 0 {
		b.WriteByte("\\'\"\a\b\f\n\r\t\v"[i])
		return 2, nil
	}
	if c == '\n' {
		return 2, nil
	}
	if '0' <= c && c <= '7' {
		n, r := 1, rune(0)
		for n < len(s) && n < 4 && '0' <= s[n] && s[n] <= '7' {
			r = r<<3 | rune(s[n]-'0')
			n++
		}
		b.WriteRune(r)
		return n, nil
	}
	width := map[byte]int{'x': 2, 'u': 4, 'U': 8}[c]
	if width == 0 {
		b.WriteString(s[:1])
		return 1, nil
	}
	if len(s) < 2+width {
		return 0, fmt.Errorf("incomplete escape %q", s)
	}
	r, err := strconv.ParseUint(s[2:2+width], 16, 32)
	if err != nil || !utf8.ValidRune(rune(r)) {
		return 0, fmt.Errorf("bad escape %q", s[:2+width])
	}
	b.WriteRune(rune(r))
	return 2 + width, nil
}
