package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// tokenizerFile is a tokenizer.json of Hugging Face tokenizers, in its order of fields.
type tokenizerFile struct {
	Version       json.RawMessage  `json:"version"`
	Truncation    json.RawMessage  `json:"truncation"`
	Padding       json.RawMessage  `json:"padding"`
	AddedTokens   []map[string]any `json:"added_tokens"`
	Normalizer    json.RawMessage  `json:"normalizer"`
	PreTokenizer  json.RawMessage  `json:"pre_tokenizer"`
	PostProcessor json.RawMessage  `json:"post_processor"`
	Decoder       json.RawMessage  `json:"decoder"`
	Model         map[string]any   `json:"model"`
}

// writeTokenizer copies the tokenizer of one folder into another for a vocabulary of s.firstSpecial tokens
// followed by the special ones.
func writeTokenizer(from, to string, s shape) error {
	var file tokenizerFile
	if err := readJSON(filepath.Join(from, "tokenizer.json"), &file); err != nil {
		return err
	}
	vocab, ok := file.Model["vocab"].(map[string]any)
	if !ok || len(file.AddedTokens) == 0 {
		return fmt.Errorf("%s: no byte-level BPE vocabulary with added tokens", filepath.Join(from, "tokenizer.json"))
	}
	if int64(len(vocab)) > s.firstSpecial {
		return fmt.Errorf("%s: %d tokens do not fit below id %d", filepath.Join(from, "tokenizer.json"), len(vocab), s.firstSpecial)
	}
	for id := int64(len(vocab)); id < s.firstSpecial; id++ {
		vocab[fmt.Sprintf("Ġ<%d>", id)] = id // Ġ is the space of byte-level BPE
	}
	for i, token := range file.AddedTokens {
		token["id"] = s.firstSpecial + int64(i)
	}
	if err := writeJSON(filepath.Join(to, "tokenizer.json"), file); err != nil {
		return err
	}
	return writeTokenizerConfig(from, to, s)
}

func writeTokenizerConfig(from, to string, s shape) error {
	var config map[string]any
	if err := readJSON(filepath.Join(from, "tokenizer_config.json"), &config); err != nil {
		return err
	}
	decoder, _ := config["added_tokens_decoder"].(map[string]any)
	first := int64(-1)
	for key := range decoder {
		id, err := strconv.ParseInt(key, 10, 64)
		if err != nil {
			return fmt.Errorf("%s: added_tokens_decoder: %w", filepath.Join(from, "tokenizer_config.json"), err)
		}
		if first < 0 || id < first {
			first = id
		}
	}
	moved := make(map[string]any, len(decoder))
	for key, token := range decoder {
		id, _ := strconv.ParseInt(key, 10, 64)
		moved[strconv.FormatInt(id-first+s.firstSpecial, 10)] = token
	}
	config["added_tokens_decoder"] = moved
	config["model_max_length"] = s.maxPosition
	return writeJSON(filepath.Join(to, "tokenizer_config.json"), config)
}

func readJSON(path string, value any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, value); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
