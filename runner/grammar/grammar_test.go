package grammar

import (
	"encoding/json"
	"math/rand/v2"
	"regexp"
	"strings"
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
	tokens = append(tokens, "", "a") // one that is no text, and a twin
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
		`[a-z]{0,4}`, `[a-z ]{2,5}e`, `.{1,3}"`, `(é|日|a){3,9}`, `(?:ab|b){2,4}b`, `[^"]{0,6}"x?`, `(?:a|aa){2,5}`, `[a-z]{20,30}`, `(?:the|[a-c ]){15,40}b`, `"[a-c]{0,20}"`,
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

// TestFullArena reads with an automaton of 2^30 states in little memory: what is not needed is let go.
func TestFullArena(t *testing.T) {
	v := newTestVocabulary(t, testWords...)
	g, err := Regexp("(a|b)*a(a|b){30}", Options{Memory: 1 << 20})
	require.NoError(t, err)
	random := rand.New(rand.NewPCG(7, 8))
	m := g.NewMatcher(v)
	other := m.Clone()
	mask := make([]uint32, words(v.Size()))
	text := ""
	renewed := 0
	for range 3000 {
		before := m.r
		_, err := m.Mask(mask)
		require.NoError(t, err)
		token := int32("ab"[random.IntN(2)])
		require.NoError(t, m.Accept(token))
		text += string(rune(token))
		require.Equal(t, len(text) > 30 && text[len(text)-31] == 'a', m.Complete())
		if m.r != before {
			renewed++
			require.NotSame(t, before, g.reader(v), "new matchers get the one with room")
		}
	}
	require.Positive(t, renewed)
	require.NoError(t, other.Accept('b'), "a clone of the old one goes on")
	require.ErrorIs(t, other.Accept('c'), ErrToken)

	_, err = Regexp("[a-c]{1,1000}x|(\\pL|b){900}", Options{Memory: 10_000})
	require.ErrorIs(t, err, ErrLimit)
}

// TestStepBeyondLimit holds that a matcher survives what does not fit.
func TestStepBeyondLimit(t *testing.T) {
	v := newTestVocabulary(t, testWords...)
	g, err := JSON(Options{})
	require.NoError(t, err)
	m := g.NewMatcher(v)
	require.NoError(t, m.Accept('['))
	mask := make([]uint32, words(v.Size()))
	room := g.base.limit
	m.r.limit, g.base.limit = 0, 0
	_, err = m.Mask(mask)
	require.ErrorIs(t, err, ErrLimit)
	require.ErrorIs(t, m.Accept('1'), ErrLimit)
	g.base.limit = room
	_, err = m.Mask(mask)
	require.NoError(t, err)
	require.Equal(t, slowMask(m), mask)
	require.NoError(t, m.Accept(']'))
	require.True(t, m.Done())
}

func TestMatcher(t *testing.T) {
	v := newTestVocabulary(t, testWords...)
	g, err := Regexp("(the )*end", Options{})
	require.NoError(t, err)
	m := g.NewMatcher(v)
	back := m.Clone()
	require.ErrorIs(t, m.Accept('x'), ErrToken)
	require.ErrorIs(t, m.Accept(-1), ErrToken)
	require.ErrorIs(t, m.Accept(int32(v.Size())), ErrToken)
	require.ErrorIs(t, m.Accept(int32(v.Size()-2)), ErrToken, "a token without text")
	require.NoError(t, m.Accept('e'))
	require.NoError(t, m.Accept('n'))
	require.False(t, m.Complete())
	require.NoError(t, m.Accept('d'))
	require.True(t, m.Complete())
	require.True(t, m.Done())
	require.NoError(t, back.Accept('t'), "a clone is the way back")
	_, err = m.Mask(make([]uint32, 3))
	require.ErrorContains(t, err, "want")
}

// TestConcurrently has matchers of one grammar in several goroutines; the race detector looks on.
func TestConcurrently(t *testing.T) {
	v := newTestVocabulary(t, testWords...)
	g, err := JSON(Options{Memory: 1 << 20})
	require.NoError(t, err)
	done := make(chan error)
	for i := range 4 {
		go func() {
			mask := make([]uint32, words(v.Size()))
			random := rand.New(rand.NewPCG(9, uint64(i)))
			done <- func() error {
				for range 30 {
					m := g.NewMatcher(v)
					for range 40 {
						if _, err := m.Mask(mask); err != nil {
							return err
						}
						token := int32(random.IntN(v.Size()))
						if mask[token/32]>>(token%32)&1 != 0 {
							if err := m.Accept(token); err != nil {
								return err
							}
						}
					}
				}
				return nil
			}()
		}()
	}
	for range 4 {
		require.NoError(t, <-done)
	}
}

func TestVocabularyErrors(t *testing.T) {
	_, err := NewVocabulary(-1, nil)
	require.ErrorIs(t, err, ErrVocabulary)
	_, err = NewVocabulary(maxTokens+1, nil)
	require.ErrorIs(t, err, ErrVocabulary)
	_, err = NewVocabulary(1, func(int32) (string, bool) { return strings.Repeat("x", maxTokenLength+1), true })
	require.ErrorIs(t, err, ErrVocabulary)
	v, err := NewVocabulary(2, func(id int32) (string, bool) { return "", false })
	require.NoError(t, err)
	g, err := JSON(Options{})
	require.NoError(t, err)
	mask := []uint32{7}
	end, err := g.NewMatcher(v).Mask(mask)
	require.NoError(t, err)
	require.False(t, end)
	require.Zero(t, mask[0])
}

func TestOptionErrors(t *testing.T) {
	_, err := JSON(Options{Space: 2})
	require.ErrorContains(t, err, "Space")
	_, err = JSON(Options{Memory: -1})
	require.ErrorContains(t, err, "Memory")
	for expr, want := range map[string]string{
		"(": "missing closing", `\bx`: "not supported", "(x^)y": "ends of a pattern", "x{1001}": "invalid repeat",
		strings.Repeat("x", maxPattern+1): "bytes", "[^\\x00-\\x{10ffff}]": "no text",
	} {
		_, err := Regexp(expr, Options{})
		require.ErrorIs(t, err, ErrPattern)
		require.ErrorContains(t, err, want)
	}
}
