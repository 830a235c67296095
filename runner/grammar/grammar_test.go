package grammar

import (
	"encoding/json"
	"math/rand/v2"
	"regexp"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// newTestVocabulary has all bytes as tokens, and words.
func newTestVocabulary(t testing.TB, words ...string) *Vocabulary {
	var tokens []string
	for b := range 256 {
		tokens = append(tokens, string([]byte{byte(b)}))
	}
	tokens = append(tokens, words...)
	tokens = append(tokens, "", "{\"") // one that is no text, and one with a twin perhaps
	v, err := NewVocabulary(len(tokens), func(id int32) (string, bool) { return tokens[id], tokens[id] != "" })
	require.NoError(t, err)
	return v
}

var testWords = []string{
	"{\"", "\":", "\",\"", "\"}", "},{", "]}", "[[", "true", "false", "null", "nul", "tru", "12", "123", "-1", "0.5", "e+", "1e",
	"the", " the", "th", "hello world", "\"a\"", "\"a\":", "é", "éé", "\xc3", "\xa9", "\xa9\xc3", "日本", "\xe6\x97", "\\n", "\\u", "\\u00", "00",
	"\\\"", "\\ud83d", "\\ude00", "\x00\x01", "a\"b", "  ", "\n  ", "aa", "aaa", "ab", "ba", "bb", ", ", ": ", "{}", "[]", "😀", "\xf0\x9f", "\x98\x80",
}

// accepts reads text byte by byte.
func accepts(g *Grammar, v *Vocabulary, text string) bool {
	m := g.NewMatcher(v)
	for i := range len(text) {
		if m.Accept(int32(text[i])) != nil {
			return false
		}
	}
	return m.Complete()
}

// slowMask tries each token by itself.
func slowMask(m *Matcher) []uint32 {
	out := make([]uint32, words(m.r.vocab.Size()))
	for id := range m.r.vocab.tokens {
		if m.Clone().Accept(int32(id)) == nil {
			out[id/32] |= 1 << (id % 32)
		}
	}
	return out
}

// walkAtRandom takes allowed tokens until the text is done, compares each mask with the slow one, and
// returns the text; "" and false if it did not end within so many tokens.
func walkAtRandom(t *testing.T, g *Grammar, v *Vocabulary, random *rand.Rand, most int) (string, bool) {
	t.Helper()
	m := g.NewMatcher(v)
	m.r.least = random.IntN(2) * longWalk // else the small vocabulary would not come to keep anything
	mask := make([]uint32, words(v.Size()))
	text := ""
	for range most {
		end, err := m.Mask(mask)
		require.NoError(t, err)
		require.Equal(t, m.Complete(), end)
		require.Equal(t, slowMask(m), mask, "after %q", text)
		var allowed []int32
		for id := range v.tokens {
			if mask[id/32]>>(id%32)&1 != 0 {
				allowed = append(allowed, int32(id))
			}
		}
		require.Equal(t, len(allowed) == 0, m.Done(), "after %q", text)
		require.True(t, end || len(allowed) > 0, "a dead end after %q", text)
		if len(allowed) == 0 || end && random.IntN(3) == 0 {
			return text, true
		}
		token := allowed[random.IntN(len(allowed))]
		require.NoError(t, m.Accept(token))
		text += v.tokens[token]
	}
	return "", false
}

func TestRegexpAgreesWithGo(t *testing.T) {
	v := newTestVocabulary(t, testWords...)
	random := rand.New(rand.NewPCG(1, 2))
	for _, expr := range []string{
		"", "a", "abc|abd", "(a|b)*abb", "a{2,4}", "a{3,}b?", "[^a-y]{1,3}", ".", ".*", "é+", "[à-ö]日?", `\d{1,3}(\.\d{1,3}){3}`,
		"(?i)hello", "(?s).{2}", "^ab$", "^(a|b)$|c", "(^ab$)", `\pL+`, `[\x00-\x{10ffff}]`, `(a?b?){3}`, "(a*)*b", "((a|aa)(b|bb))*", `"[^"]*"`, "😀|é",
		`x*`, `(?:the| )+`, `[[:alpha:]]{2}`, `\w+\s\w+`, "a??", "(|a)+b",
		`[a-z]{0,4}`, `[a-z ]{2,5}e`, `.{1,3}"`, `(é|日|a){3,9}`, `(?:ab|b){2,4}b`, `[^"]{0,6}"x?`, `(?:a|aa){2,5}`,
	} {
		g, err := Regexp(expr, Options{})
		require.NoError(t, err, expr)
		want := regexp.MustCompile("^(?:" + expr + ")$")
		for range 10 {
			text, ok := walkAtRandom(t, g, v, random, 60)
			if ok {
				require.Regexp(t, want, text)
			}
		}
		for _, text := range []string{
			"", "a", "b", "ab", "abb", "aab", "abd", "aaa", "aaaa", "aaaab", "z", "zz", "é", "éé", "à日", "1.2.3.4", "hELLo", "HELLO", "\n", "ab\n", "xx", "c", "the the", `"x"`, "😀",
		} {
			require.Equal(t, want.MatchString(text), accepts(g, v, text), "%s on %q", expr, text)
		}
		require.False(t, accepts(g, v, "\xff"), expr)
	}
}

func TestJSON(t *testing.T) {
	v := newTestVocabulary(t, testWords...)
	random := rand.New(rand.NewPCG(3, 4))
	for _, space := range []Space{Compact, Flexible} {
		anyValue, err := JSON(Options{Space: space})
		require.NoError(t, err)
		object, err := JSONObject(Options{Space: space})
		require.NoError(t, err)
		ended := 0
		for range 30 {
			text, ok := walkAtRandom(t, anyValue, v, random, 50)
			if ok {
				ended++
				require.True(t, json.Valid([]byte(text)), "%q", text)
				require.True(t, utf8.ValidString(text), "%q", text)
			}
			if text, ok = walkAtRandom(t, object, v, random, 50); ok {
				var m map[string]any
				require.NoError(t, json.Unmarshal([]byte(text), &m), "%q", text)
			}
		}
		require.Greater(t, ended, 10)
		for text, ok := range map[string]bool{
			`{}`: true, `[]`: true, `"\u00e9\ud83d\ude00é"`: true, `-0.5e+10`: true, `[1,[2,{"a":[]}],"x"]`: true, `{"a":{"b":null}}`: true,
			`"\ud83d"`: false, `"\ude00"`: false, `01`: false, `1.`: false, `[1,]`: false, `{"a"}`: false, `{"a":1,}`: false, `nul`: false, "\"\n\"": false,
			"\"\xc3\"": false, ``: false, ` 1`: false, `1 `: false, `+1`: false, `.5`: false, `"\x"`: false, `[1 2]`: false,
		} {
			require.Equal(t, ok, accepts(anyValue, v, text), text)
		}
		require.Equal(t, space == Flexible, accepts(anyValue, v, "{ \"a\" : [ 1 , 2 ],\n\t\"b\": {\n} }"))
		require.False(t, accepts(object, v, `[]`))
		require.True(t, accepts(object, v, `{"a":[1]}`))
	}
}

func TestDepth(t *testing.T) {
	v := newTestVocabulary(t, testWords...)
	g, err := JSON(Options{})
	require.NoError(t, err)
	m := g.NewMatcher(v)
	for range maxDepth {
		require.NoError(t, m.Accept('['))
	}
	require.ErrorIs(t, m.Accept('['), ErrToken)
	require.NoError(t, m.Accept('1'))
}
