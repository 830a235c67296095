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

// small keeps what a fuzzed input may cost low.
var small = Options{Memory: 1 << 20}

// FuzzRegexp compares with package regexp.
func FuzzRegexp(f *testing.F) {
	for _, seed := range [][2]string{
		{"(a|b)*abb", "aabb"}, {"^a$|b^", "a"}, {`\pL{2}`, "éa"}, {"(?i)k", "K"}, {"(?s).*x{3,}", "\nxxx"}, {"[^a]?(a*)*", "ba"}, {`a\b`, "a"},
		{"(a|b)*a(a|b){12}", "abababababab"}, {"((a{0,9}){0,9}){0,9}", "aaa"},
	} {
		f.Add(seed[0], seed[1])
	}
	v := newTestVocabulary(f, testWords...)
	f.Fuzz(func(t *testing.T, expr, text string) {
		if len(expr) > 200 || len(text) > 200 {
			return
		}
		g, err := Regexp(expr, small)
		if err != nil {
			require.NotContains(t, err.Error(), "\n")
			return
		}
		if !utf8.ValidString(text) || strings.ContainsRune(text, utf8.RuneError) {
			return // package regexp reads broken characters as U+FFFD
		}
		want, err := regexp.Compile(`^(?:` + expr + `)$`)
		if err != nil { // brackets that only the whole closes
			return
		}
		want.Longest()
		require.Equal(t, want.MatchString(text), accepts(g, v, text), "%q on %q", expr, text)
	})
}

// FuzzSchema holds that any schema compiles or is refused, in bounds, and that what comes out is JSON.
func FuzzSchema(f *testing.F) {
	for _, text := range schemas {
		f.Add([]byte(text), uint64(1))
	}
	f.Add([]byte(`{"$ref":"#/$defs/a","$defs":{"a":{"anyOf":[{"$ref":"#/$defs/a"},{"oneOf":[{"const":[]},{"enum":[{"a":1}]}]}]}}}`), uint64(2))
	f.Add([]byte(`{"patternProperties":{"a*":{},"b":{},"[^c]":{}},"propertyNames":{"not":{}},"minimum":-1e-9,"multipleOf":1e-3}`), uint64(3))
	v := newTestVocabulary(f, testWords...)
	mask := make([]uint32, words(v.Size()))
	f.Fuzz(func(t *testing.T, schema []byte, seed uint64) {
		if len(schema) > 2000 {
			return
		}
		g, err := Schema(schema, Options{Memory: 1 << 20, Space: Space(seed % 2), AnyOrder: seed/2%2 == 0})
		if err != nil {
			require.NotContains(t, err.Error(), "\n")
			return
		}
		random := rand.New(rand.NewPCG(seed, 1))
		m := g.NewMatcher(v)
		text := ""
		for range 40 {
			end, err := m.Mask(mask)
			if err != nil {
				require.ErrorIs(t, err, ErrLimit)
				return
			}
			var allowed []int32
			for id := range v.tokens {
				if mask[id/32]>>(id%32)&1 != 0 {
					allowed = append(allowed, int32(id))
				}
			}
			if end {
				require.True(t, json.Valid([]byte(text)), "%q", text)
			}
			if len(allowed) == 0 {
				require.True(t, end, "a dead end after %q", text)
				return
			}
			token := allowed[random.IntN(len(allowed))]
			require.NoError(t, m.Accept(token))
			text += v.tokens[token]
		}
	})
}
