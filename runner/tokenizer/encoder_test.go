package tokenizer

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// sameAsLibrary compares the encoder with the library, and reports whether the encoder took the text.
func sameAsLibrary(t testing.TB, tok *Tokenizer, text string) bool {
	t.Helper()
	require.NotNil(t, tok.encoder)
	for _, l := range []*library{&tok.lib, &tok.plain} {
		got, ok := tok.encoder.encode(text, l == &tok.lib)
		if !ok {
			return false
		}
		requireLibrary(t, tok, l, text, got)
	}
	return true
}

// requireLibrary requires that the library gives these ids. It does not print all of a long text.
func requireLibrary(t testing.TB, tok *Tokenizer, l *library, text string, got []int32) {
	t.Helper()
	want, err := tok.libEncode(l, text)
	require.NoError(t, err)
	if slices.Equal(want, got) {
		return
	}
	at := 0
	for at < min(len(want), len(got)) && want[at] == got[at] {
		at++
	}
	before, err := tok.Decode(want[:at], DecodeOptions{ShowSpecial: true})
	require.NoError(t, err)
	require.FailNow(t, "the library sees other tokens", "behind %q: want %v, got %v", tail(before), head(want[at:]), head(got[at:]))
}

func tail(s string) string     { return s[max(0, len(s)-40):] }
func head(ids []int32) []int32 { return ids[:min(10, len(ids))] }

func TestEncoderOnTexts(t *testing.T) {
	tok := openTest(t, modelDir)
	files := []string{evalFile, "../../docs/acceleration.md", "encoder.go", "../../go.sum", "../../models/tiny/qwen3-tiny/tokenizer_config.json"}
	for _, file := range files {
		require.True(t, sameAsLibrary(t, tok, string(readFileTest(t, file))), file)
	}
}

func TestEncoderOnPieces(t *testing.T) {
	tok := openTest(t, modelDir)
	rows := []struct {
		why, text string
		declined  bool
	}{
		{why: "contractions in any case, and what only begins as one", text: "it's IT'S we'RE I've I'Ll he'D 'm 't'x r'e l'l don'\u2019t '"},
		{why: "a letter takes one character before it that is no newline", text: "(a \ta\u00a0a\na \u2028b -c"},
		{why: "digits are alone", text: "1234 12a a12 ٣٤ ⅷ ½"},
		{why: "one space goes to punctuation, with the newlines behind", text: "a ,.\n\nb  ,\r\n ,\t\n, \n"},
		{why: "white space up to the last newline", text: "a \n \t\n  b\r\n\r\n   \n"},
		{why: "white space but the last character", text: "a    b \t c\u3000\u3000d"},
		{why: "white space at the end", text: "a   "},
		{why: "white space alone", text: " "},
		{why: "white space before an added token is at an end", text: "a   <|im_end|>   \n<think>  \n\n</think>  b"},
		{why: "added tokens that others begin with, and parts of them", text: "<|im_end|><|im_end<|im_start|>|></think></tool_call<tool_call><|fim_"},
		{why: "scripts", text: "Żółć Ελλάδα Привет שלום مرحبا नमस्ते ไทย 日本語の文 한국어 𝔘𝔫𝔦 👩‍👩‍👧‍👦🇩🇪"},
		{why: "marks that stay on their own", text: "q\u0301 x\u0323\u0301 ก็ שָׁ"},
		{why: "a long word", text: strings.Repeat("abcdefghij", 500)},
		{why: "a long run of one letter", text: strings.Repeat("a", 3001)},
		{why: "a long run of spaces", text: strings.Repeat(" ", 3001) + "x"},
		{why: "not in normal form C", text: "e\u0301", declined: true},
		{why: "a character that normal form C replaces", text: "\u212b", declined: true},
		{why: "not assigned", text: "a\u0378", declined: true},
		{why: "assigned since Unicode 16, which this Go may not know", text: "a\U00010d40", declined: true},
		{why: "a long s, which 's may match", text: "it'ſ", declined: true},
		{why: "not UTF-8", text: "a\xff", declined: true},
	}
	for _, row := range rows {
		t.Run(row.why, func(t *testing.T) {
			require.Equal(t, !row.declined, sameAsLibrary(t, tok, row.text))
			for _, encode := range []func(string) ([]int32, error){tok.Encode, tok.EncodePlain} {
				ids, err := encode(row.text)
				require.NoError(t, err)
				require.NotEmpty(t, ids)
			}
		})
	}
}

// classFile is a tokenizer.json of Qwen's form whose merges show where a text is split: a letter, a digit or an exclamation
// mark beside a character becomes one token with the nearer byte of it exactly if both are in one piece.
func classFile(t *testing.T) string {
	vocab, merges := object{}, []any{}
	for r := rune(0); r < 0x144; r++ {
		if _, ok := byteOf(r); ok {
			vocab[string(r)] = len(vocab)
		}
	}
	for b := range singleBytes {
		for _, m := range [][2]string{{"q", string(runeOf(byte(b)))}, {string(runeOf(byte(b))), "q"}, {string(runeOf(byte(b))), "!"}} {
			if _, known := vocab[m[0]+m[1]]; !known {
				vocab[m[0]+m[1]] = len(vocab)
				merges = append(merges, m)
			}
		}
	}
	return write(t, qwenFile(vocab, merges))
}

// qwenFile is a tokenizer.json of Qwen's form, without added tokens.
func qwenFile(vocab object, merges []any) object {
	file := object{"version": "1.0", "truncation": nil, "padding": nil, "added_tokens": []any{}}
	for name, values := range qwenForm {
		file[name] = values[len(values)-1]
	}
	model := object{}
	for name, values := range qwenModel {
		model[name] = values[0]
	}
	model["vocab"], model["merges"] = vocab, merges
	file["model"] = model
	return file
}

// Every character of Unicode is taken for what the library takes it for, or left to it.
func TestClassOfEveryCharacter(t *testing.T) {
	tok := openTest(t, classFile(t))
	taken := 0
	var batch strings.Builder
	for r := rune(1); r <= unicode.MaxRune; r++ {
		if !utf8.ValidRune(r) || r%32 > 1 && unicode.In(r, unicode.Co, unicode.Han, unicode.Hangul) { // large blocks of the same
			continue
		}
		text := "0q" + string(r) + "0" + string(r) + "q0" + string(r) + "!0"
		if _, ok := tok.encoder.encode(text, false); ok {
			taken++
			batch.WriteString(text)
		}
		if batch.Len() > 1<<14 || r == unicode.MaxRune {
			got, ok := tok.encoder.encode(batch.String(), true)
			require.True(t, ok)
			requireLibrary(t, tok, &tok.lib, batch.String(), got)
			batch.Reset()
		}
	}
	require.Greater(t, taken, 40_000, "most characters are settled")
}

// Random texts of what is hard.
func TestEncoderOnRandomTexts(t *testing.T) {
	tok := openTest(t, modelDir)
	parts := strings.Split(" |  |\n|\r\n|\t|'s|'LL|'|the|quick|The|ing|a|Z|0|42|.|,|!?|—|é|ß|漢字|한|🙂|\u200d|\u0301|\u0323|\u00a0|\u2003|\u3000|\u0345|<|<think>|<|im_end|>|_|//|\ufeff|ﬁ|ſ|K|ا|ִ", "|")
	parts = append(parts, "<|im_start|>", "|")
	random := rand.New(rand.NewPCG(3, 4))
	taken := 0
	for range 5000 {
		var b strings.Builder
		for range 1 + random.IntN(10) {
			b.WriteString(parts[random.IntN(len(parts))])
		}
		if sameAsLibrary(t, tok, b.String()) {
			taken++
		}
	}
	require.Greater(t, taken, 1000)
}

func FuzzEncoder(f *testing.F) {
	tok := openTest(f, modelDir)
	f.Add("it's 12 o'clock, <|im_end|>\n\n  \u00e9\u0301 漢字\r\n x")
	f.Add("\u0301\u0323<think>\u0301")
	f.Fuzz(func(t *testing.T, text string) {
		if text != "" && !strings.Contains(text, "\x00") {
			sameAsLibrary(t, tok, text)
		}
	})
}

// smallFile is a tokenizer.json of Qwen's form with two merges and an added token.
func smallFile() object {
	vocab := object{}
	for r := rune(0); r < 0x144; r++ {
		if _, ok := byteOf(r); ok {
			vocab[string(r)] = len(vocab)
		}
	}
	vocab["ab"], vocab[`"\`] = 256, 257
	file := qwenFile(vocab, []any{[]string{"a", "b"}, []string{`"`, `\`}})
	file["added_tokens"] = []any{added(258, "<s>")}
	return file
}

// What is of Qwen's form is encoded here, and all else by the library.
func TestQwenForm(t *testing.T) {
	model := func(name string, value any) func(object) {
		return func(file object) { file["model"].(object)[name] = value }
	}
	flag := func(name string) func(object) {
		return func(file object) { file["added_tokens"].([]any)[0].(object)[name] = true }
	}
	rows := []struct {
		why    string
		change func(file object)
		ours   bool
	}{
		{"as it is", func(object) {}, true},
		{"merges as texts", model("merges", []string{"a b", `" \`}), true},
		{"empty suffix and prefix", func(f object) { model("end_of_word_suffix", "")(f); model("continuing_subword_prefix", "")(f) }, true},
		{"without entries that have a default", func(f object) { delete(f["model"].(object), "ignore_merges") }, true},
		{"lengths that are cut are not cut here", func(f object) {
			f["truncation"] = object{"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
		}, true},
		{"no post processor", func(f object) { f["post_processor"] = nil }, true},
		{"no normalizer", func(f object) { f["normalizer"] = nil }, false},
		{"another normalizer", func(f object) { f["normalizer"] = object{"type": "NFKC"} }, false},
		{"another expression", func(f object) {
			f["pre_tokenizer"] = object{"type": "Sequence", "pretokenizers": []any{
				object{"type": "Split", "pattern": object{"Regex": `\p{N}{1,3}|.`}, "behavior": "Isolated", "invert": false},
				object{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
			}}
		}, false},
		{"a space before the text", func(f object) {
			f["pre_tokenizer"].(object)["pretokenizers"].([]any)[1] = object{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": false}
		}, false},
		{"merges at random", model("dropout", 0.5), false},
		{"an entry that is not known", model("cache_capacity", 7), false},
		{"words that are tokens are not merged", model("ignore_merges", true), false},
		{"a token in place of bytes", model("byte_fallback", true), false},
		{"an added token that takes the space before it", flag("lstrip"), false},
		{"an added token that takes the space behind it", flag("rstrip"), false},
		{"an added token that is a word", flag("single_word"), false},
		{"an added token that is searched in the normalised text", flag("normalized"), false},
		{"merges out of order", model("merges", [][]string{{`"`, `\`}, {"a", "b"}}), false},
		{"a token of no merge before those of merges", model("merges", [][]string{{`"`, `\`}}), false},
	}
	for _, row := range rows {
		t.Run(row.why, func(t *testing.T) {
			file := clone(t, smallFile())
			row.change(file)
			tok := openTest(t, write(t, file))
			require.Equal(t, row.ours, tok.encoder != nil)
			if row.ours {
				require.True(t, sameAsLibrary(t, tok, `abab "\ <s> ba`))
				return
			}
			ids, err := tok.Encode("abab")
			require.NoError(t, err)
			require.NotEmpty(t, ids)
		})
	}
}

// clone copies JSON.
func clone(t *testing.T, file object) (out object) {
	data, err := json.Marshal(file)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &out))
	return out
}

// Qwen3's tokenizer is of Qwen's form, and so is what the library is not needed for.
func TestLibraryIsNotLoaded(t *testing.T) {
	tok := openTest(t, modelDir)
	_, err := tok.Encode("<|im_start|>user\nWhy is the sky blue?<|im_end|>\n")
	require.NoError(t, err)
	_, err = tok.EncodePlain("<|im_end|>")
	require.NoError(t, err)
	require.Nil(t, tok.lib.lib)
	require.Nil(t, tok.plain.lib)
	_, err = tok.Encode("e\u0301")
	require.NoError(t, err)
	require.NotNil(t, tok.lib.lib)
}

// The scanner reads what encoding/json reads, or nothing.
func FuzzReadQwen(f *testing.F) {
	data, err := json.Marshal(smallFile())
	require.NoError(f, err)
	f.Add(data)
	var indented bytes.Buffer
	require.NoError(f, json.Indent(&indented, data, "", "\t"))
	f.Add(indented.Bytes())
	f.Add(bytes.Replace(data, []byte(`"ab":256`), []byte(`"\u0061b":256,"zz":258`), 1))
	f.Add(bytes.Replace(data, []byte(`"merges":[`), []byte(`"merges":[[],`), 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, v, e, ok := readQwen(string(data))
		if !ok {
			return
		}
		require.True(t, json.Valid(data))
		require.NotNil(t, e)
		whole, err := parseDefinition(string(data))
		require.NoError(t, err)
		require.Equal(t, whole.AddedTokens, d.AddedTokens)
		want, err := whole.readVocab()
		require.NoError(t, err)
		require.Equal(t, want.ids.len(), v.ids.len())
		for i, e := range want.ids.entries {
			spelling := want.ids.spelling(uint32(i + 1))
			if id, ok := v.ids.idOf(spelling); !ok || id != e.id {
				t.Fatalf("%q has the id %d, %v, not %d", spelling, id, ok, e.id)
			}
		}
		want.ids, v.ids, want.numbers, v.numbers = nil, nil, nil, nil // entries are in another order
		require.Equal(t, want, v)
	})
}

func TestScannerDepth(t *testing.T) {
	_, _, ok := readLarge(`{"x": ` + strings.Repeat("[", 1<<20))
	require.False(t, ok)
}

// Merging must not take quadratic time: a prompt may be one long word.
func BenchmarkLongWord(b *testing.B) {
	tok := openTest(b, modelDir)
	text := strings.Repeat("abcdefghij", 10_000)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		_, err := tok.Encode(text)
		require.NoError(b, err)
	}
}
