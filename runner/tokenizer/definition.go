package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

const (
	fileName = "tokenizer.json"

	// maxFile bounds tokenizer.json; Qwen3's has 11 MB, the largest published 35 MB.
	maxFile = 128 << 20
	// maxTokens bounds token ids; the largest published vocabularies have 262,144.
	maxTokens = 1 << 22
)

// A definition is what this package reads of tokenizer.json itself.
type definition struct {
	Truncation  json.RawMessage `json:"truncation"`
	Padding     json.RawMessage `json:"padding"`
	AddedTokens []addedToken    `json:"added_tokens"`

	Normalizer    *component `json:"normalizer"`
	PreTokenizer  *component `json:"pre_tokenizer"`
	PostProcessor *component `json:"post_processor"`
	Decoder       *component `json:"decoder"`

	Model struct {
		Type                    string          `json:"type"`
		Vocab                   json.RawMessage `json:"vocab"`
		ContinuingSubwordPrefix string          `json:"continuing_subword_prefix"`
	} `json:"model"`
}

// A component is one step of the library's work, or a sequence of them.
type component struct {
	Type          string      `json:"type"`
	Stop          int         `json:"stop"` // of a decoder Strip
	Normalizers   []component `json:"normalizers"`
	PreTokenizers []component `json:"pretokenizers"`
	Processors    []component `json:"processors"`
	Decoders      []component `json:"decoders"`
}

// The components that BPE tokenizers of language models have. Others are refused:
// among them are some that end the process when their data is malformed, such as
// Precompiled.
var (
	normalizers    = []string{"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Prepend", "Replace", "Strip", "Sequence"}
	preTokenizers  = []string{"ByteLevel", "Digits", "Metaspace", "Punctuation", "Split", "Whitespace", "WhitespaceSplit", "Sequence"}
	postProcessors = []string{"ByteLevel", "TemplateProcessing", "Sequence"}
	decoders       = []string{"ByteLevel", "ByteFallback", "Fuse", "Metaspace", "Replace", "Strip", "Sequence"}
)

// check refuses a component that is not among the allowed types. A nil one is fine.
func (c *component) check(entry string, allowed []string) error {
	if c == nil {
		return nil
	}
	if !slices.Contains(allowed, c.Type) {
		return fmt.Errorf("%s %q is not supported, only %s", entry, c.Type, strings.Join(allowed, ", "))
	}
	if c.Stop != 0 {
		// The library ends the process at a token shorter than that.
		return fmt.Errorf("%s %q with stop %d is not supported, only 0", entry, c.Type, c.Stop)
	}
	for _, steps := range [][]component{c.Normalizers, c.PreTokenizers, c.Processors, c.Decoders} {
		for i := range steps {
			if err := steps[i].check(entry, allowed); err != nil {
				return err
			}
		}
	}
	return nil
}

type addedToken struct {
	ID         int32  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

// byteLevel reports whether each token stands for fixed bytes.
func (d *definition) byteLevel() bool {
	return d.Decoder != nil && d.Decoder.Type == "ByteLevel"
}

// changesLength reports whether the file asks for truncation or padding.
func (d *definition) changesLength() bool {
	isSet := func(raw []byte) bool { return len(raw) > 0 && string(raw) != "null" }
	return isSet(d.Truncation) || isSet(d.Padding)
}

// readFile returns the contents of path, at most maxFile bytes.
func readFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", errors.New("not a regular file")
	}
	var text strings.Builder
	text.Grow(int(min(info.Size(), maxFile)))
	if _, err := io.Copy(&text, io.LimitReader(f, maxFile+1)); err != nil {
		return "", err
	}
	if text.Len() > maxFile {
		return "", fmt.Errorf("larger than %d MiB", maxFile>>20)
	}
	return text.String(), nil
}

// parseDefinition reads tokenizer.json and refuses what the library would not
// survive or would read otherwise than this package.
func parseDefinition(text string) (*definition, error) {
	var d definition
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		return nil, err
	}
	if hasNUL(text) {
		return nil, errors.New(`contains the character \u0000, which the tokenizers library cannot pass on`)
	}
	if d.Model.Type != "BPE" {
		return nil, fmt.Errorf("model %q is not supported, only BPE", d.Model.Type)
	}
	if d.Model.ContinuingSubwordPrefix != "" {
		// The library slices merges by the prefix's length without checking it.
		return nil, errors.New("BPE with continuing_subword_prefix is not supported")
	}
	err := errors.Join(
		d.Normalizer.check("normalizer", normalizers), d.PreTokenizer.check("pre_tokenizer", preTokenizers),
		d.PostProcessor.check("post_processor", postProcessors), d.Decoder.check("decoder", decoders),
	)
	if err != nil {
		return nil, errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return &d, nil
}

// hasNUL reports whether JSON text has an escaped NUL. The library passes texts
// and errors as C strings, and aborts the process at one that has a NUL inside.
func hasNUL(text string) bool {
	const nul = `\u0000`
	for at := 0; ; {
		i := strings.Index(text[at:], nul)
		if i < 0 {
			return false
		}
		i += at
		escapes := 0
		for i-escapes > 0 && text[i-escapes-1] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return true
		}
		at = i + len(nul)
	}
}

// readVocab reads model.vocab.
func (d *definition) readVocab() (v vocabulary, err error) {
	raw := d.Model.Vocab
	if len(raw) == 0 || string(raw) == "null" {
		return v, errors.New("model.vocab is missing")
	}
	var ids map[string]int32
	if err := json.Unmarshal(raw, &ids); err != nil {
		return v, fmt.Errorf("model.vocab: %w", err)
	}
	v.ids = newSpellings(len(ids))
	for token, id := range ids {
		if err := v.add(token, id); err != nil {
			return v, err
		}
	}
	return v, v.complete(d)
}

// addTo adds the added tokens to the vocabulary and checks their ids, which the
// library does not read: it gives a token of the vocabulary its id there, and the
// others the ids after the vocabulary in the order of the file.
func (d *definition) addTo(ids *spellings) error {
	next := int32(ids.len())
	for _, t := range d.AddedTokens {
		want, known := ids.id(t.Content)
		if !known {
			want = next
		}
		if t.ID != want {
			return fmt.Errorf("added_tokens: %q has the id %d, but the tokenizers library gives it %d", t.Content, t.ID, want)
		}
		ids.add(t.Content, t.ID) // unless it is there
		next = max(next, t.ID+1)
	}
	return nil
}
