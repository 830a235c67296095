package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
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
	Decoder     *struct {
		Type string `json:"type"`
	} `json:"decoder"`
	Model struct {
		Type                    string          `json:"type"`
		Vocab                   json.RawMessage `json:"vocab"`
		ContinuingSubwordPrefix string          `json:"continuing_subword_prefix"`
	} `json:"model"`
}

type addedToken struct {
	ID         int32  `json:"id"`
	Content    string `json:"content"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

// byteLevel reports whether each token stands for fixed bytes.
func (d *definition) byteLevel() bool {
	return d.Model.Type == "BPE" && d.Decoder != nil && d.Decoder.Type == "ByteLevel"
}

// changesLength reports whether the file asks for truncation or padding.
func (d *definition) changesLength() bool {
	isSet := func(raw []byte) bool { return len(raw) > 0 && string(raw) != "null" }
	return isSet(d.Truncation) || isSet(d.Padding)
}

// readFile returns the contents of path, at most maxFile bytes.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	data := bytes.NewBuffer(make([]byte, 0, min(info.Size(), maxFile)+bytes.MinRead))
	if _, err := io.Copy(data, io.LimitReader(f, maxFile+1)); err != nil {
		return nil, err
	}
	if data.Len() > maxFile {
		return nil, fmt.Errorf("larger than %d MiB", maxFile>>20)
	}
	return data.Bytes(), nil
}

// parseDefinition reads tokenizer.json and refuses what the library would not
// survive or would read otherwise than this package.
func parseDefinition(data []byte) (*definition, error) {
	var d definition
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, err
	}
	if hasNUL(data) {
		return nil, errors.New(`contains the character \u0000, which the tokenizers library cannot pass on`)
	}
	if d.Model.ContinuingSubwordPrefix != "" && d.Model.Type == "BPE" {
		// The library slices merges by the prefix's length without checking it.
		return nil, errors.New("BPE with continuing_subword_prefix is not supported")
	}
	return &d, nil
}

// hasNUL reports whether JSON text has an escaped NUL. The library passes texts
// and errors as C strings, and aborts the process at one that has a NUL inside.
func hasNUL(data []byte) bool {
	nul := []byte(`\u0000`)
	for at := 0; ; {
		i := bytes.Index(data[at:], nul)
		if i < 0 {
			return false
		}
		i += at
		escapes := 0
		for i-escapes > 0 && data[i-escapes-1] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return true
		}
		at = i + len(nul)
	}
}

// parseVocab returns the ids of model.vocab by spelling. It is an object from token
// to id, or for Unigram a list of [token, score].
func (d *definition) parseVocab() (map[string]int32, error) {
	raw := d.Model.Vocab
	if len(raw) == 0 || string(raw) == "null" {
		return nil, errors.New("model.vocab is missing")
	}
	if d.Model.Type == "Unigram" {
		return parseScores(raw)
	}
	var ids map[string]int32
	if err := json.Unmarshal(raw, &ids); err != nil {
		return nil, fmt.Errorf("model.vocab: %w", err)
	}
	seen := make([]bool, maxTokens)
	for token, id := range ids {
		if id < 0 || id >= maxTokens {
			return nil, fmt.Errorf("model.vocab: token %q has the id %d, outside 0 to %d", token, id, maxTokens-1)
		}
		if seen[id] {
			return nil, fmt.Errorf("model.vocab: two tokens have the id %d", id)
		}
		seen[id] = true
	}
	return ids, nil
}

func parseScores(raw json.RawMessage) (map[string]int32, error) {
	var rows [][]json.RawMessage
	if err := json.Unmarshal(raw, &rows); err != nil {
		return nil, fmt.Errorf("model.vocab: %w", err)
	}
	if len(rows) > maxTokens {
		return nil, fmt.Errorf("model.vocab: more than %d tokens", maxTokens)
	}
	ids := make(map[string]int32, len(rows))
	for i, row := range rows {
		var token string
		if len(row) != 2 || json.Unmarshal(row[0], &token) != nil {
			return nil, fmt.Errorf("model.vocab: row %d is not [token, score]", i)
		}
		ids[token] = int32(i)
	}
	return ids, nil
}

// addTo adds the added tokens to the vocabulary and checks their ids, which the
// library does not read: it gives a token of the vocabulary its id there, and the
// others the ids after the vocabulary in the order of the file.
func (d *definition) addTo(ids map[string]int32) error {
	next := int32(len(ids))
	for _, t := range d.AddedTokens {
		want, known := ids[t.Content]
		if !known {
			want = next
		}
		if t.ID != want {
			return fmt.Errorf("added_tokens: %q has the id %d, but the tokenizers library gives it %d", t.Content, t.ID, want)
		}
		ids[t.Content] = t.ID
		next = max(next, t.ID+1)
	}
	return nil
}

// edit returns the file's text with top-level entries replaced.
func edit(data []byte, entries map[string]string) ([]byte, error) {
	var file map[string]json.RawMessage
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, err
	}
	for name, value := range entries {
		file[name] = json.RawMessage(value)
	}
	return json.Marshal(file)
}
