package tokenizer

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

var (
	// ErrClosed is returned by methods that need the library after Close.
	ErrClosed = errors.New("tokenizer: closed")

	// ErrTokenRange is returned for an id that no token has. A model's vocabulary
	// may be larger than its tokenizer's (Qwen3: 151,936 and 151,669): keep logits
	// from VocabSize on out of the choice of tokens.
	ErrTokenRange = errors.New("tokenizer: no token has the id")

	// ErrNotByteLevel is returned by Bytes for tokenizers whose tokens do not stand
	// for fixed bytes.
	ErrNotByteLevel = errors.New("tokenizer: not a byte-level BPE, so its tokens have no bytes of their own")
)

// A Tokenizer is safe for use by several goroutines.
type Tokenizer struct {
	path      string
	vocab     vocabulary
	added     []string // what Encode recognises in a text
	byteLevel bool
	// mayNormalize tells that added tokens are searched in the normalised text, so
	// that a text without them may come to have them.
	mayNormalize bool
	nul          int32    // the id of a lone NUL byte where the library decodes, or -1
	encoder      *encoder // nil where the file has not Qwen's form

	mu     sync.RWMutex // held for reading during calls to the library
	closed bool
	lib    library
	plain  library // without added tokens: few texts need it
}

// Open reads tokenizer.json of a model folder. The file is checked first: the
// library must not meet one that it would abort at.
func Open(dir string) (*Tokenizer, error) {
	path := filepath.Join(dir, fileName)
	t, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %s: %w", path, err)
	}
	return t, nil
}

func open(path string) (*Tokenizer, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, unwrapPath(err)
	}
	t := &Tokenizer{path: path, nul: -1}
	d, vocab, encoder, ok := readQwen(text)
	if ok {
		t.vocab, t.encoder = vocab, encoder
	} else if d, err = parseDefinition(text); err != nil {
		return nil, err
	}
	t.lib = library{text: text}
	if d.changesLength() {
		t.lib.entries = map[string]string{"truncation": "null", "padding": "null"}
	}
	t.plain = library{text: text, entries: map[string]string{"truncation": "null", "padding": "null", "added_tokens": "[]"}}
	if !ok {
		if err := t.readAny(d); err != nil {
			return nil, errors.Join(err, t.lib.close())
		}
	}
	t.vocab.numbers = nil
	t.byteLevel = d.byteLevel()
	for _, a := range d.AddedTokens {
		t.added = append(t.added, a.Content)
		t.mayNormalize = t.mayNormalize || a.Normalized
	}
	if id, ok := t.vocab.ids.id("<0x00>"); ok && !t.byteLevel {
		t.nul = id
	}
	return t, nil
}

// readAny reads a file of another form than Qwen's. Both readings, the library's and the vocabulary's, take long.
func (t *Tokenizer) readAny(d *definition) error {
	loaded := make(chan error)
	go func() {
		_, err := t.lib.open()
		loaded <- err
	}()
	var err error
	t.vocab, err = d.readVocab()
	return cmp.Or(err, <-loaded)
}

// Close frees the library's memory. It may be called twice, and while other calls
// run. Decoding of byte-level tokens goes on working.
func (t *Tokenizer) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	t.closed = true
	return errors.Join(t.lib.close(), t.plain.close())
}

// VocabSize returns the number of ids, which is the largest id plus one.
func (t *Tokenizer) VocabSize() int { return len(t.vocab.info) }

// TokenID returns the id of a token as tokenizer.json spells it: "<|im_end|>", or
// "Ġthe" for " the" in byte-level BPE.
func (t *Tokenizer) TokenID(spelling string) (int, bool) {
	id, ok := t.vocab.ids.id(spelling)
	return int(id), ok
}

// Special reports whether id is a special token, such as <|im_end|>, which decoding
// leaves out unless told otherwise. Qwen3's <think> is an added token, not a
// special one.
func (t *Tokenizer) Special(id int32) bool { return t.vocab.known(id) && t.vocab.info[id].special }

// Added reports whether id is one of added_tokens, special or not: a token that steers the model, such as
// <|im_end|> or <tool_call>, and comes from no ordinary text.
func (t *Tokenizer) Added(id int32) bool { return t.vocab.known(id) && t.vocab.info[id].added }

// Bytes returns the bytes that a token stands for; they may be parts of characters.
// They come as a string because they are shared and must not change. The error is
// ErrTokenRange or ErrNotByteLevel.
func (t *Tokenizer) Bytes(id int32) (string, error) {
	if !t.byteLevel {
		return "", ErrNotByteLevel
	}
	if !t.vocab.known(id) {
		return "", rangeError(id)
	}
	return t.vocab.token(id), nil
}

func rangeError(id int32) error { return fmt.Errorf("%w %d", ErrTokenRange, id) }

// Encode returns the ids of a text. Added tokens in the text, special ones among
// them, become their ids: this is what a rendered chat template needs. Bytes that
// are not UTF-8 are read as U+FFFD; a NUL byte is an error, because the library
// would take it for the end of the text. Truncation and padding of tokenizer.json
// are not done.
func (t *Tokenizer) Encode(text string) ([]int32, error) { return t.encode(&t.lib, text) }

// EncodePlain returns the ids of a text in which nothing has a special meaning:
// "<|im_end|>" is encoded as any other run of characters. Use it for text that must
// not be able to end a turn or to open one.
func (t *Tokenizer) EncodePlain(text string) ([]int32, error) {
	if !t.mayNormalize && !slices.ContainsFunc(t.added, func(token string) bool { return strings.Contains(text, token) }) {
		return t.Encode(text)
	}
	return t.encode(&t.plain, text)
}

// encode encodes as the library l does, without it where that is known to give the same.
func (t *Tokenizer) encode(l *library, text string) ([]int32, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.closed {
		return nil, ErrClosed
	}
	if text == "" {
		return nil, nil
	}
	if i := strings.IndexByte(text, 0); i >= 0 {
		return nil, fmt.Errorf("tokenizer: the text has a NUL byte at offset %d: remove it", i)
	}
	if t.encoder != nil {
		if ids, ok := t.encoder.encode(text, l != &t.plain); ok {
			return ids, nil
		}
	}
	return t.libEncode(l, text)
}

func (t *Tokenizer) libEncode(l *library, text string) ([]int32, error) {
	lib, err := l.open()
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %s: %w", t.path, err)
	}
	found := lib.EncodeWithOptions(text, false).IDs
	if len(found) == 0 {
		return nil, fmt.Errorf("tokenizer: %s: the tokenizers library failed on a text of %d bytes", t.path, len(text))
	}
	ids := make([]int32, len(found))
	for i, id := range found {
		ids[i] = int32(id)
	}
	return ids, nil
}

// DecodeOptions says what text is made of ids. The zero value leaves special tokens
// out.
type DecodeOptions struct {
	// ShowSpecial keeps special tokens in the text, as tokenizer.json spells them.
	ShowSpecial bool
}

// Decode returns the text of ids. Bytes that do not form characters are replaced by
// U+FFFD, one for each run that could have begun a character (Unicode 15, section
// 3.9, substitution of maximal subparts). An id without a token is ErrTokenRange.
func (t *Tokenizer) Decode(ids []int32, opts DecodeOptions) (string, error) {
	for _, id := range ids {
		if !t.vocab.known(id) {
			return "", rangeError(id)
		}
	}
	if !t.byteLevel {
		return t.libDecode(t.visible(ids, opts))
	}
	var data []byte
	for _, id := range ids {
		if opts.ShowSpecial || !t.vocab.info[id].special {
			data = append(data, t.vocab.token(id)...)
		}
	}
	text, rest := appendCharacters(nil, data)
	if len(rest) > 0 {
		text = append(text, replacement...)
	}
	return string(text), nil
}

// visible returns the ids to show, as the library takes them.
func (t *Tokenizer) visible(ids []int32, opts DecodeOptions) []uint32 {
	out := make([]uint32, 0, len(ids))
	for _, id := range ids {
		// The library returns no text at all where a NUL is in it.
		if id != t.nul && (opts.ShowSpecial || !t.vocab.info[id].special) {
			out = append(out, uint32(id))
		}
	}
	return out
}

func (t *Tokenizer) libDecode(ids []uint32) (string, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.closed {
		return "", ErrClosed
	}
	lib, err := t.lib.open()
	if err != nil {
		return "", fmt.Errorf("tokenizer: %s: %w", t.path, err)
	}
	return lib.Decode(ids, false), nil
}
