package tokenizer

import (
	"encoding/json"
	"iter"
	"math"
	"strings"
)

// scanner reads the two large parts of a tokenizer.json, vocabulary and merges, which encoding/json takes 0.15 s for at the
// size of Qwen3's. It accepts no text that is not JSON, but not all JSON either: whoever uses it falls back to encoding/json
// where it has failed.
type scanner struct {
	text   string
	at     int
	depth  int // of values that are skipped
	failed bool
}

// maxDepth bounds brackets in brackets; a tokenizer.json has 6 of them.
const maxDepth = 100

// next skips white space and returns the byte behind it, without taking it; 0 at the end.
func (s *scanner) next() byte {
	for ; s.at < len(s.text); s.at++ {
		switch c := s.text[s.at]; c {
		case ' ', '\n', '\t', '\r':
		default:
			return c
		}
	}
	return 0
}

// take skips white space and the byte c.
func (s *scanner) take(c byte) {
	if s.next() != c {
		s.failed = true
		return
	}
	s.at++
}

// string reads a string.
func (s *scanner) string() string {
	s.take('"')
	start, escaped := s.at, false
	for ; s.at < len(s.text); s.at++ {
		switch c := s.text[s.at]; {
		case c == '"':
			raw := s.text[start:s.at]
			s.at++
			if !escaped {
				return raw
			}
			var text string
			s.failed = json.Unmarshal([]byte(`"`+raw+`"`), &text) != nil || s.failed
			return text
		case c == '\\':
			escaped = true
			s.at++ // what is escaped does not end the string
		case c < ' ':
			s.failed = true
			return ""
		}
	}
	s.at, s.failed = len(s.text), true
	return ""
}

// number reads a number from 0 to maxTokens - 1.
func (s *scanner) number() int32 {
	s.next()
	start, n := s.at, int32(0)
	for s.at < len(s.text) && '0' <= s.text[s.at] && s.text[s.at] <= '9' && n < maxTokens {
		n = 10*n + int32(s.text[s.at]-'0')
		s.at++
	}
	leadingZero := s.at > start+1 && s.text[start] == '0'
	s.failed = s.failed || s.at == start || leadingZero || n >= maxTokens
	return n
}

// members yields the keys of an object; the body of the loop reads the values.
func (s *scanner) members() iter.Seq[string] {
	return func(yield func(string) bool) {
		for range s.items('{', '}') {
			key := s.string()
			s.take(':')
			if s.failed || !yield(key) {
				return
			}
		}
	}
}

// elements yields the indices of an array; the body of the loop reads the values.
func (s *scanner) elements() iter.Seq[int] { return s.items('[', ']') }

// items yields once for each of what lies between two brackets, with commas in between.
func (s *scanner) items(begin, end byte) iter.Seq[int] {
	return func(yield func(int) bool) {
		s.take(begin)
		if s.next() == end {
			s.at++
			return
		}
		for i := 0; !s.failed && yield(i); i++ {
			if s.next() == end {
				s.at++
				return
			}
			s.take(',')
		}
	}
}

// skip passes over a value. What is in it is not checked, but for strings and brackets.
func (s *scanner) skip() {
	s.depth++
	defer func() { s.depth-- }()
	switch c := s.next(); {
	case s.depth > maxDepth:
		s.failed = true
	case c == '"':
		s.string()
	case c == '{':
		for range s.members() {
			s.skip()
		}
	case c == '[':
		for range s.elements() {
			s.skip()
		}
	default:
		n := strings.IndexAny(s.text[s.at:], ",]} \n\r\t")
		s.failed = s.failed || n <= 0
		s.at += max(n, 0)
	}
}

// large is what makes a tokenizer.json large.
type large struct {
	vocab vocabulary
	left  []uint16 // see encoder
}

// readLarge reads model.vocab and model.merges, and returns the file with null in place of both. It is not ok where the file
// should be read by encoding/json, which says what is wrong, if anything is; nor where merges do not make the vocabulary in
// its order.
func readLarge(text string) (l large, rest string, ok bool) {
	s := scanner{text: text}
	var b strings.Builder
	from := 0
	replace := func(read func(*scanner)) {
		s.next()
		b.WriteString(text[from:s.at])
		b.WriteString("null")
		read(&s)
		from = s.at
	}
	early := scanner{} // at merges that come before the vocabulary
	for key := range s.members() {
		if key != "model" {
			s.skip()
			continue
		}
		for key := range s.members() {
			switch {
			case key == "vocab" && l.vocab.ids == nil:
				replace(l.readVocab)
			case key == "merges" && l.left == nil && early.text == "":
				if l.vocab.ids != nil {
					replace(l.readMerges)
				} else {
					early = s
					replace((*scanner).skip)
				}
			default:
				s.skip()
			}
		}
	}
	if early.text != "" && l.vocab.ids != nil {
		l.readMerges(&early)
	}
	if s.failed || early.failed || l.left == nil {
		return l, "", false
	}
	b.WriteString(text[from:])
	return l, b.String(), true
}

// perEntry is how many bytes of a file a token of the vocabulary takes, with its merge, as transformers writes them.
const perEntry = 75

func (l *large) readVocab(s *scanner) {
	v := &l.vocab
	expected := len(s.text) / perEntry
	v.ids = newSpellings(expected)
	v.info, v.numbers = make([]tokenInfo, 0, expected), make([]uint32, 0, expected)
	for token := range s.members() {
		id := s.number()
		s.failed = s.failed || v.add(token, id) != nil
	}
}

// readMerges reads merges of both forms, ["a", "b"] and "a b", and says where the left parts of merged tokens end. It fails
// unless the vocabulary has the 256 bytes first and then what the merges make, in their order: then each token comes of one
// merge, and its id tells which is earlier.
func (l *large) readMerges(s *scanner) {
	l.left = make([]uint16, singleBytes, singleBytes+len(s.text)/perEntry)
	for b := range singleBytes {
		id, ok := l.vocab.ids.id(string(runeOf(byte(b))))
		s.failed = s.failed || !ok || id >= singleBytes
	}
	for range s.elements() {
		var m [2]string
		if s.next() == '[' {
			for i := range s.elements() {
				if i == len(m) {
					s.failed = true
					return
				}
				m[i] = s.string()
			}
		} else {
			m[0], m[1], _ = strings.Cut(s.string(), " ")
		}
		made, n := l.vocab.spelling(len(l.left)), len(m[0])
		if n == 0 || m[1] == "" || n > math.MaxUint16 || len(made) != n+len(m[1]) || string(made[:n]) != m[0] || string(made[n:]) != m[1] {
			s.failed = true
			return
		}
		l.left = append(l.left, uint16(n))
	}
}
