package tokenizer

import (
	"encoding/json"
	"reflect"
	"slices"
	"unicode/utf8"
)

// qwenForm is what Qwen2, Qwen2.5 and Qwen3 have in tokenizer.json beside vocabulary, merges and added tokens, with the values
// that mean the same to byte-level BPE. What is said there of lengths is not looked at: see Encode.
var qwenForm = map[string][]any{
	"normalizer": {object{"type": "NFC"}},
	"pre_tokenizer": {object{"type": "Sequence", "pretokenizers": []any{
		object{"type": "Split", "pattern": object{"Regex": splitPattern}, "behavior": "Isolated", "invert": false},
		object{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
	}}},
	"post_processor": {nil, object{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}},
	"decoder":        {object{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}},
}

// qwenModel is the same for the entry model. An entry that is not there has its default, which is the first value.
var qwenModel = map[string][]any{
	"type":                      {"BPE"},
	"dropout":                   {nil},
	"unk_token":                 {nil},
	"continuing_subword_prefix": {nil, ""},
	"end_of_word_suffix":        {nil, ""},
	"fuse_unk":                  {false},
	"byte_fallback":             {false},
	"ignore_merges":             {false},
	"vocab":                     {nil}, // as readLarge leaves it
	"merges":                    {nil},
}

// object is JSON with names.
type object = map[string]any

// readQwen reads a tokenizer.json of Qwen's form, in less time than encoding/json takes to see that it is well-formed. It is
// not ok for any other.
func readQwen(text string) (*definition, vocabulary, *encoder, bool) {
	fail := func() (*definition, vocabulary, *encoder, bool) { return nil, vocabulary{}, nil, false }
	l, rest, ok := readLarge(text)
	if !ok || !utf8.ValidString(text) || hasNUL(text) || !isQwen(rest) {
		return fail()
	}
	d, err := parseDefinition(rest)
	if err != nil || slices.ContainsFunc(d.AddedTokens, addedToken.unusual) {
		return fail()
	}
	if l.vocab.complete(d) != nil {
		return fail()
	}
	return d, l.vocab, newEncoder(l.vocab.ids, l.left, d.AddedTokens), true
}

// unusual reports whether more than its content says where an added token is in a text.
func (t addedToken) unusual() bool {
	return t.Normalized || t.SingleWord || t.LStrip || t.RStrip || t.Content == ""
}

// isQwen reports whether a tokenizer.json without vocabulary and merges has Qwen's form.
func isQwen(rest string) bool {
	var file object
	if json.Unmarshal([]byte(rest), &file) != nil {
		return false
	}
	model, _ := file["model"].(object)
	for name, values := range qwenForm {
		if !isAnyOf(file[name], values) {
			return false
		}
	}
	for name, value := range model {
		if !isAnyOf(value, qwenModel[name]) {
			return false
		}
	}
	return model["type"] == "BPE"
}

func isAnyOf(value any, values []any) bool {
	return slices.ContainsFunc(values, func(v any) bool { return reflect.DeepEqual(v, value) })
}
