package grammar

import (
	"encoding/json"
	"fmt"
	"math"
	"math/bits"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The benchmarks want a full vocabulary, which the repository does not carry: the path of a byte-level
// tokenizer.json, such as Qwen3's.
const vocabularyVariable = "QWENRT_TOKENIZER_JSON"

// modelVocab is Qwen3's number of logits.
const modelVocab = 151936

func fullVocabulary(b *testing.B) *Vocabulary {
	path := os.Getenv(vocabularyVariable)
	if path == "" {
		b.Skipf("set %s to the path of a tokenizer.json", vocabularyVariable)
	}
	data, err := os.ReadFile(path)
	require.NoError(b, err)
	var file struct {
		Model struct{ Vocab map[string]int }
	}
	require.NoError(b, json.Unmarshal(data, &file))
	byteOf := map[rune]byte{} // GPT-2's bytes_to_unicode
	next := rune(256)
	for c := range rune(256) {
		if '!' <= c && c <= '~' || '¡' <= c && c <= '¬' || '®' <= c && c <= 'ÿ' {
			byteOf[c] = byte(c)
		} else {
			byteOf[next] = byte(c)
			next++
		}
	}
	tokens := make([]string, modelVocab)
	for spelling, id := range file.Model.Vocab {
		var text []byte
		for _, r := range spelling {
			text = append(text, byteOf[r])
		}
		tokens[id] = string(text)
	}
	v, err := NewVocabulary(len(tokens), func(id int32) (string, bool) { return tokens[id], true })
	require.NoError(b, err)
	return v
}

func BenchmarkVocabulary(b *testing.B) {
	v := fullVocabulary(b)
	for b.Loop() {
		_, err := NewVocabulary(v.Size(), func(id int32) (string, bool) { return v.tokens[id], true })
		require.NoError(b, err)
	}
	b.ReportMetric(float64(len(v.nodes)), "nodes")
}

// apply is what the runner does with a mask.
func apply(mask []uint32, logits []float32) {
	for i, word := range mask {
		part := logits[32*i : min(32*i+32, len(logits))]
		switch word {
		case math.MaxUint32:
		case 0:
			for j := range part {
				part[j] = -1
			}
		default:
			for gone := ^word; gone != 0; gone &= gone - 1 {
				if j := bits.TrailingZeros32(gone); j < len(part) {
					part[j] = -1
				}
			}
		}
	}
}

var benchmarks = []struct {
	name string
	make func() (*Grammar, error)
	text string
}{
	{"json", func() (*Grammar, error) { return JSON(Options{Space: Flexible}) },
		`{"name": "Ada Lovelace", "born": 1815, "tags": ["mathematician", "writer of the first program"], "of": {"x": [1, 2.5e3, null, true]}}`},
	{"schema", func() (*Grammar, error) { return Schema([]byte(orderSchema), Options{Space: Flexible}) },
		`{"id": "ord-00042", "customer": {"name": "Ada Lovelace", "email": "ada@example.org"}, "state": "shipped", ` +
			`"items": [{"sku": "A-1", "count": 2, "price": 19.99}, {"sku": "B-22", "count": 1, "price": 5}], ` +
			`"note": "Please leave the parcel with the neighbours, they are at home in the evening."}`},
	{"date", func() (*Grammar, error) { return Regexp(`\d{4}-\d{2}-\d{2}`, Options{}) }, "2026-11-23"},
	{"words", func() (*Grammar, error) { return Regexp(`[A-Za-z ,.]{1,200}`, Options{}) },
		"The quick brown fox jumps over the lazy dog, and then it rests in the shade of a tall tree."},
	{"prose", func() (*Grammar, error) { return Regexp(`(.|\n)*THE END`, Options{}) },
		"The quick brown fox jumps over the lazy dog.\nTHE END"},
}

const orderSchema = `{"type": "object", "properties": {
	"id": {"type": "string", "pattern": "^ord-[0-9]{5}$"},
	"customer": {"$ref": "#/$defs/customer"},
	"state": {"enum": ["open", "paid", "shipped"]},
	"items": {"type": "array", "minItems": 1, "maxItems": 20, "items": {"type": "object", "properties": {
		"sku": {"type": "string", "minLength": 1, "maxLength": 12}, "count": {"type": "integer", "minimum": 1, "maximum": 999},
		"price": {"type": "number", "minimum": 0}}, "required": ["sku", "count", "price"]}},
	"note": {"type": "string", "maxLength": 200}},
	"required": ["id", "customer", "state", "items"],
	"$defs": {"customer": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 64},
		"email": {"type": "string", "format": "email"}}, "required": ["name"], "additionalProperties": false}}}`

// BenchmarkFirst reads a text with a grammar that was never used: compiling, and masks for each token, as
// the first answer pays for them. ms/step has the time of a step, max-ms that of the longest, compile-ms that before
// the first.
func BenchmarkFirst(b *testing.B) { benchmarkText(b, true) }

// BenchmarkAgain reads a text with a grammar that has read it before.
func BenchmarkAgain(b *testing.B) { benchmarkText(b, false) }

func benchmarkText(b *testing.B, first bool) {
	v := fullVocabulary(b)
	mask := make([]uint32, words(v.Size()))
	logits := make([]float32, v.Size())
	for _, c := range benchmarks {
		tokens := v.longest(c.text)
		b.Run(c.name, func(b *testing.B) {
			var longest, total, compiling float64
			var g *Grammar
			n, texts := 0, 0
			for b.Loop() {
				before := now()
				if first || g == nil {
					var err error
					g, err = c.make()
					require.NoError(b, err)
				}
				m := g.NewMatcher(v)
				compiling += now() - before
				texts++
				for _, token := range tokens {
					before := now()
					if _, err := m.Mask(mask); err != nil {
						b.Fatal(err)
					}
					apply(mask, logits)
					if mask[token/32]>>(token%32)&1 == 0 {
						b.Fatal("not allowed: " + fmt.Sprintf("%q", v.tokens[token]))
					}
					if err := m.Accept(token); err != nil {
						b.Fatal(err)
					}
					took := now() - before
					longest = max(longest, took)
					total += took
					n++
				}
			}
			b.ReportMetric(compiling/float64(texts), "compile-ms")
			b.ReportMetric(total/float64(n), "ms/step")
			b.ReportMetric(longest, "max-ms")
		})
	}
}

// start is what now counts from.
var start = time.Now()

func now() float64 { return float64(time.Since(start)) / 1e6 }

// longest cuts a text into the longest tokens, one after the other.
func (v *Vocabulary) longest(text string) []int32 {
	ids := map[string]int32{}
	for id, t := range v.tokens {
		ids[t] = int32(id)
	}
	var out []int32
	for len(text) > 0 {
		n := min(len(text), v.depth)
		for ; n > 1; n-- {
			if _, ok := ids[text[:n]]; ok {
				break
			}
		}
		out = append(out, ids[text[:n]])
		text = text[n:]
	}
	return out
}
