package grammar

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/stretchr/testify/require"
)

// schemas are of the kinds that are asked for, and some that are hard.
var schemas = map[string]string{
	"person": `{"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer","minimum":0,"maximum":150},
		"email":{"type":["string","null"]}},"required":["name","age"],"additionalProperties":false}`,
	"open":         `{"type":"object","properties":{"aa":{"type":"integer"},"ab":{"type":"boolean"}},"required":["ab"]}`,
	"only new":     `{"type":"object","required":["aa","the"],"additionalProperties":{"enum":[1,"x",null]}}`,
	"enum":         `{"enum":["a","\"b\"\n",1.50,null,[1,{"a":true}],{"x":{},"y":[]}]}`,
	"list":         `{"type":"array","items":{"type":"integer","minimum":-12,"exclusiveMaximum":7},"minItems":2,"maxItems":4}`,
	"tuple":        `{"type":"array","prefixItems":[{"const":1},{"type":"boolean"}],"items":{"type":"null"},"minItems":1,"maxItems":4}`,
	"closed tuple": `{"type":"array","prefixItems":[{"type":"integer"},{"type":"string","maxLength":3}],"items":false}`,
	"numbers":      `{"type":"array","items":{"anyOf":[{"type":"number","minimum":-1.5,"exclusiveMaximum":12.25},{"type":"integer","multipleOf":7,"minimum":30,"maximum":1e15}]},"maxItems":3}`,
	"multiples":    `{"type":"array","items":{"type":"number","multipleOf":0.25,"minimum":0,"maximum":3},"minItems":1,"maxItems":3}`,
	"lengths":      `{"type":"array","items":{"type":"string","minLength":2,"maxLength":4},"minItems":1,"maxItems":2}`,
	"patterns":     `{"type":"object","properties":{"id":{"type":"string","pattern":"^[a-z]{2}-\\d+$","maxLength":6},"any":{"type":"string","pattern":"a.b|\\\"","maxLength":8}},"required":["id","any"],"additionalProperties":false}`,
	"tree": `{"$defs":{"node":{"type":"object","properties":{"v":{"type":"integer","minimum":0,"maximum":9},"next":{"anyOf":[{"$ref":"#/$defs/node"},{"type":"null"}]},
		"all":{"type":"array","items":{"$ref":"#/$defs/node"},"maxItems":2}},"required":["v","next"],"additionalProperties":false}},"$ref":"#/$defs/node"}`,
	"union": `{"oneOf":[{"type":"object","properties":{"kind":{"const":"aa"},"x":{"type":"integer"}},"required":["kind","x"],"additionalProperties":false},
		{"type":"object","properties":{"kind":{"const":"ab"},"x":{"type":"string","maxLength":2}},"required":["kind"],"additionalProperties":false}]}`,
	"merged":           `{"type":"object","allOf":[{"properties":{"a":{"type":"integer","minimum":3}},"required":["a"]},{"properties":{"a":{"maximum":5},"b":{"type":"boolean"}}}],"maxProperties":2}`,
	"named":            `{"type":"object","patternProperties":{"^a":{"type":"integer"},"b$":{"type":"integer","minimum":10,"maximum":99}},"propertyNames":{"maxLength":3,"pattern":"^[ab]+$"},"additionalProperties":{"type":"boolean"},"maxProperties":3}`,
	"counted":          `{"type":"object","properties":{"a":{"type":"null"},"b":{"type":"null"},"c":{"type":"null"},"d":{"type":"null"}},"additionalProperties":false,"minProperties":2,"maxProperties":3}`,
	"dependent":        `{"type":"object","properties":{"a":{"type":"null"},"b":{"type":"null"},"c":{"type":"null"}},"additionalProperties":false,"dependentRequired":{"a":["b"]},"dependentSchemas":{"c":{"required":["a"]}}}`,
	"calls":            `{"type":"array","minItems":1,"maxItems":2,"items":{"anyOf":[{"type":"object","properties":{"name":{"const":"get_weather"},"arguments":{"type":"object","properties":{"city":{"type":"string","maxLength":5}},"required":["city"],"additionalProperties":false}},"required":["name","arguments"],"additionalProperties":false}]}}`,
	"anything":         `{"type":["object","array","integer","boolean"]}`,
	"impossible parts": `{"type":"object","properties":{"a":false,"b":{"type":"array","items":false},"c":{"type":"string","pattern":"^a$","minLength":2}},"additionalProperties":false}`,
}

// TestSchemaWalks takes allowed tokens at random: the text that comes out satisfies the schema by another's judgement,
// and each mask is what trying all tokens gives.
func TestSchemaWalks(t *testing.T) {
	v := newTestVocabulary(t, append(testWords, `{"name":"`, `"age":`, `aa":`, `"kind":"a`, `a","x":`, `"b":`, `null}`, `","`, `0.25`, `.5`)...)
	for name, text := range schemas {
		t.Run(name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(5, 6)) // its own: a map's order is another each time
			var parsed jsonschema.Schema
			require.NoError(t, json.Unmarshal([]byte(text), &parsed))
			judge, err := parsed.Resolve(nil)
			require.NoError(t, err)
			ended := 0
			for i := range 12 {
				g, err := Schema([]byte(text), Options{Space: Space(i % 2), AnyOrder: i/2%2 == 0})
				require.NoError(t, err)
				out, ok := walkAtRandom(t, g, v, random, 60)
				if !ok {
					continue
				}
				ended++
				var value any
				require.NoError(t, json.Unmarshal([]byte(out), &value), "%q", out)
				require.NoError(t, judge.Validate(value), "%q", out)
			}
			require.Positive(t, ended)
		})
	}
}

func TestSchemaTexts(t *testing.T) {
	v := newTestVocabulary(t)
	for _, c := range []struct {
		why, schema, text string
		want              bool
	}{
		{"schema order", schemas["person"], `{"name":"x","age":3}`, true},
		{"another order", schemas["person"], `{"age":3,"name":"x"}`, false},
		{"what may be left out", schemas["person"], `{"name":"x","age":3,"email":null}`, true},
		{"twice", schemas["person"], `{"name":"x","age":3,"age":3}`, false},
		{"a declared name among free ones", schemas["open"], `{"ab":true,"aa":1}`, false},
		{"a declared name spelled otherwise", schemas["open"], `{"ab":true,"\u0061a":"x"}`, false},
		{"free names", schemas["open"], `{"ab":true,"aaa":"x","":{"y":[1]}}`, true},
		{"a letter as two escapes counts once", `{"type":"string","maxLength":1}`, `"\ud83d\ude00"`, true},
		{"and as itself", `{"type":"string","maxLength":1}`, `"😀"`, true},
		{"two letters", `{"type":"string","maxLength":1}`, `"ab"`, false},
		{"the pattern may be anywhere", `{"type":"string","pattern":"b"}`, `"abc"`, true},
		{"nowhere", `{"type":"string","pattern":"b"}`, `"ac"`, false},
		{"a newline is spelled", `{"type":"string","pattern":"^a\\nb$"}`, `"a\nb"`, true},
		{"ECMA's dot", `{"type":"string","pattern":"^.$"}`, `"` + "\u2028" + `"`, false},
		{"ECMA's space", `{"type":"string","pattern":"^\\s[\\s]$"}`, `"` + "\u00a0\u2003" + `"`, true},
		{"ECMA's escapes", `{"type":"string","pattern":"^\\u0061\\cA\\/[^]$"}`, `"a\u0001/x"`, true},
		{"alternatives with their anchors", `{"type":"string","pattern":"^a$|^b"}`, `"bc"`, true},
		{"and not", `{"type":"string","pattern":"^a$|^b"}`, `"ac"`, false},
		{"a large integer", `{"type":"integer"}`, `-98249283749234923498293171823948729348710298301928331`, true},
		{"no fraction", `{"type":"integer"}`, `1.0`, false},
		{"an exponent where there are no bounds", `{"type":"number"}`, `1e10`, true},
		{"a date", `{"type":"string","format":"date"}`, `"2024-02-29"`, true},
		{"no leap year", `{"type":"string","format":"date"}`, `"2023-02-29"`, false},
		{"nor this", `{"type":"string","format":"date"}`, `"1900-02-29"`, false},
		{"but this", `{"type":"string","format":"date"}`, `"2000-02-29"`, true},
		{"a time", `{"type":"string","format":"date-time"}`, `"2026-11-23T18:00:00.5Z"`, true},
		{"no time", `{"type":"string","format":"date-time"}`, `"2026-11-23T24:00:00Z"`, false},
		{"an address", `{"type":"string","format":"ipv4"}`, `"192.168.0.255"`, true},
		{"none", `{"type":"string","format":"ipv4"}`, `"192.168.0.256"`, false},
		{"a duration", `{"type":"string","format":"duration"}`, `"P1Y2M3DT4H5M6S"`, true},
		{"none, of nothing", `{"type":"string","format":"duration"}`, `"P"`, false},
	} {
		g, err := Schema([]byte(c.schema), Options{})
		require.NoError(t, err, c.why)
		require.Equal(t, c.want, accepts(g, v, c.text), c.why)
	}
}

// TestNumberBounds compares with arithmetic, around each bound.
func TestNumberBounds(t *testing.T) {
	v := newTestVocabulary(t)
	bounds := []float64{-120, -12.5, -1, -0.25, 0, 0.5, 1, 7, 9.75, 10, 99, 100, 100.125, 1000}
	texts := []string{"-0", "0", "0.0", "0.05", "5", "05", "0.49", "0.50", "0.500", "0.51", "9.7", "9.74", "9.75", "9.750", "9.76", "100.12", "100.125", "100.1250", "100.13", "9.999"}
	for _, b := range bounds {
		for _, d := range []float64{-1, -0.125, 0, 0.125, 1} {
			texts = append(texts, fmt.Sprint(b+d))
		}
	}
	for _, b := range bounds {
		for _, keyword := range []string{"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"} {
			for _, kind := range []string{"number", "integer"} {
				schema := fmt.Sprintf(`{"type":%q,%q:%v}`, kind, keyword, b)
				g, err := Schema([]byte(schema), Options{})
				require.NoError(t, err)
				for _, text := range texts {
					var x float64
					want := json.Unmarshal([]byte(text), &x) == nil && (kind == "number" || !strings.Contains(text, "."))
					switch keyword {
					case "minimum":
						want = want && x >= b
					case "maximum":
						want = want && x <= b
					case "exclusiveMinimum":
						want = want && x > b
					case "exclusiveMaximum":
						want = want && x < b
					}
					if text == "-0" && b == 0 && keyword == "minimum" {
						want = false // it would be right, and is of no use
					}
					require.Equal(t, want, accepts(g, v, text), "%s: %s", schema, text)
				}
			}
		}
	}
}

func TestSchemaErrors(t *testing.T) {
	for _, c := range []struct {
		schema, want string
		is           error
	}{
		{`{`, "not JSON", ErrSchema},
		{`{} {}`, "more than one value", ErrSchema},
		{`3`, "at #: a schema is an object or a boolean", ErrSchema},
		{`{"type":"object","type":"array"}`, `"type" is there twice`, ErrSchema},
		{`{"type":"text"}`, `at #: "type" is not`, ErrSchema},
		{`{"properties":{"a/b":{"contains":{}}}}`, `at #/properties/a~1b: "contains" is not supported`, ErrSchema},
		{`{"typo":1}`, `at #: "typo" is not supported`, ErrSchema},
		{`{"not":{}}`, `"not" is not supported`, ErrSchema},
		{`{"uniqueItems":true}`, `"uniqueItems" is not supported`, ErrSchema},
		{`{"items":[{}]}`, `prefixItems`, ErrSchema},
		{`{"$ref":"other.json"}`, `only schemas within this one`, ErrSchema},
		{`{"$ref":"#/$defs/x"}`, `there is no "$defs"`, ErrSchema},
		{`{"$ref":"#"}`, `refers to itself`, ErrSchema},
		{`{"anyOf":[{"type":"null"},{"$ref":"#"}]}`, `refers to itself`, ErrSchema},
		{`{"oneOf":[{"type":"integer"},{"type":"number"}]}`, `at #/oneOf/1: a value may satisfy both`, ErrSchema},
		{`{"type":"string","format":"regex"}`, `the format "regex" is not supported`, ErrSchema},
		{`{"type":"string","pattern":"(?=a)"}`, `at #: pattern "(?=a)"`, ErrSchema},
		{`{"type":"string","pattern":"a\\b"}`, `\b is not supported`, ErrSchema},
		{`{"type":"string","pattern":"(a^)"}`, `ends of a pattern`, ErrSchema},
		{`{"type":"string","pattern":"(a)\\1"}`, `invalid escape`, ErrSchema},
		{`{"type":"integer","minimum":1e999999999}`, `exponents`, ErrSchema},
		{`{"type":"integer","multipleOf":0}`, `above 0`, ErrSchema},
		{`{"type":"integer","multipleOf":1234567890123}`, `above`, ErrSchema},
		{`{"minLength":-1}`, `an integer from 0`, ErrSchema},
		{`{"type":"object","minProperties":2}`, `minProperties`, ErrSchema},
		{`false`, `no text satisfies it`, ErrSchema},
		{`{"type":"integer","minimum":5,"maximum":4}`, `no text satisfies it`, ErrSchema},
		{`{"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]}`, `no text satisfies it`, ErrSchema},
		{strings.Repeat(`{"items":`, 200) + `{}` + strings.Repeat(`}`, 200), `nested deeper`, ErrSchema},
		{`{"allOf":[` + strings.Repeat(`{"anyOf":[{"minimum":1},{"maxLength":1},{"maxItems":1}]},`, 20) + `{}]}`, `alternatives`, ErrSchema},
		{`{"type":"string","allOf":[{"pattern":"^(a|b)*a(a|b){20}$"},{"pattern":"^(a|b)*b(a|b){20}$"}]}`, `needs more than`, ErrLimit},
		{`{"title":"` + strings.Repeat("x", maxSchema) + `"}`, `more than the`, ErrSchema},
	} {
		_, err := Schema([]byte(c.schema), Options{Memory: 4 << 20})
		require.ErrorIs(t, err, c.is, "%.80s", c.schema)
		require.ErrorContains(t, err, c.want)
		require.NotContains(t, err.Error(), "\n")
		require.Less(t, len(err.Error()), 400)
	}
}
