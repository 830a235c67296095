package tokenizer

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"unicode/utf8"
)

const replacement = "\uFFFD"

// maxHeld bounds the tokens that a stream of the library holds back. A character
// has at most four bytes, and a token without any text may come before each.
const maxHeld = 8

// A Stream turns ids into text as they come, for one sequence. The texts that Next
// and Flush return add up to what Decode returns for all ids, and each is made of
// whole characters. A Stream is not safe for use by several goroutines.
type Stream struct {
	tok  *Tokenizer
	opts DecodeOptions

	// pending are bytes that begin a character, at most three.
	pending []byte

	// For the library's decoding: the ids whose text is out, kept as context for
	// what follows them, and then the ids whose text is not.
	ids []uint32
	out int // number of ids whose text is out
}

// NewStream starts a sequence.
func (t *Tokenizer) NewStream(opts DecodeOptions) *Stream {
	return &Stream{tok: t, opts: opts, pending: make([]byte, 0, utf8.UTFMax)}
}

// Clone gives a stream for a sequence that begins with the same ids.
func (s *Stream) Clone() *Stream {
	c := *s
	c.pending, c.ids = append(make([]byte, 0, utf8.UTFMax), s.pending...), slices.Clone(s.ids)
	return &c
}

// Next takes the next id and returns the text that is complete with it, which may
// be empty. After an error (ErrTokenRange, ErrClosed) the stream is as before.
func (s *Stream) Next(id int32) (string, error) {
	v := &s.tok.vocab
	if !v.known(id) {
		return "", rangeError(id)
	}
	if v.info[id].special && !s.opts.ShowSpecial {
		return "", nil
	}
	if !s.tok.byteLevel {
		return s.nextByLibrary(id)
	}
	token := v.token(id)
	if len(s.pending) == 0 && v.info[id].whole {
		return token, nil
	}
	text, rest := appendCharacters(nil, append(s.pending, token...))
	s.pending = append(s.pending[:0], rest...)
	return string(text), nil
}

// Flush ends the sequence and returns what was held back: U+FFFD for an incomplete
// character. The stream may then be used for another sequence.
func (s *Stream) Flush() string {
	text := ""
	if len(s.pending) > 0 {
		text = replacement
	}
	if held := len(s.ids) - s.out; held > 0 {
		if before, after, err := s.decodeWindow(); err == nil {
			text = strings.TrimPrefix(after, before)
		}
	}
	s.pending, s.ids, s.out = s.pending[:0], s.ids[:0], 0
	return text
}

// nextByLibrary decodes the tokens of the last step and those since with and without
// the new ones: the difference is the new text. What a token says can depend on the
// one before it, such as a space at a word's start.
func (s *Stream) nextByLibrary(id int32) (string, error) {
	if id == s.tok.nul {
		return "", nil
	}
	s.ids = append(s.ids, uint32(id))
	before, after, err := s.decodeWindow()
	if err != nil {
		s.ids = s.ids[:len(s.ids)-1]
		return "", err
	}
	incomplete := len(after) <= len(before) || strings.HasSuffix(after, replacement)
	if incomplete && len(s.ids)-s.out < maxHeld {
		return "", nil
	}
	s.ids = append(s.ids[:0], s.ids[s.out:]...)
	s.out = len(s.ids)
	return strings.TrimPrefix(after, before), nil
}

func (s *Stream) decodeWindow() (before, after string, err error) {
	if before, err = s.tok.libDecode(s.ids[:s.out]); err != nil {
		return "", "", err
	}
	after, err = s.tok.libDecode(s.ids)
	return before, after, err
}

// appendCharacters appends the characters of data to text, with U+FFFD for each
// maximal subpart of an ill-formed sequence, and returns the bytes at the end of
// data that may still become a character.
func appendCharacters(text, data []byte) (out, rest []byte) {
	for len(data) > 0 {
		r, size := utf8.DecodeRune(data)
		switch {
		case r != utf8.RuneError || size > 1:
			text = append(text, data[:size]...)
		case !utf8.FullRune(data):
			return text, data
		default:
			text = append(text, replacement...)
			for !utf8.FullRune(data[:size]) && !utf8.FullRune(data[:size+1]) {
				size++
			}
		}
		data = data[size:]
	}
	return text, nil
}

// unwrapPath drops the path from an error of package os: the caller adds it.
func unwrapPath(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
