package grammar

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write testdata/coverage.txt")

// spell writes a value as grammars spell it, in each order of properties.
func spell(v any) []string {
	switch v := v.(type) {
	case nil:
		return []string{"null"}
	case bool:
		return []string{fmt.Sprint(v)}
	case *big.Rat:
		return []string{numberText(v)}
	case string:
		return []string{`"` + stringText(v) + `"`}
	case []any:
		out := []string{""}
		for i, item := range v {
			var next []string
			for _, before := range out {
				if i > 0 {
					before += ","
				}
				for _, s := range spell(item) {
					next = append(next, before+s)
				}
			}
			out = next
		}
		for i := range out {
			out[i] = "[" + out[i] + "]"
		}
		return out
	}
	o := v.(*object)
	var out []string
	var place func(text string, left []string)
	place = func(text string, left []string) {
		if len(left) == 0 {
			out = append(out, "{"+text+"}")
		}
		for i, name := range left {
			rest := append(append([]string{}, left[:i]...), left[i+1:]...)
			for _, s := range spell(o.values[name]) {
				separator := ","
				if text == "" {
					separator = ""
				}
				place(text+separator+`"`+stringText(name)+`":`+s, rest)
			}
		}
	}
	place("", o.names)
	return out
}

// TestSuite runs a part of the JSON Schema Test Suite. A schema is refused, or all its valid instances are
// texts of the grammar and the others are not. Which it is, is written down in testdata/coverage.txt.
func TestSuite(t *testing.T) {
	v := newTestVocabulary(t)
	files, err := filepath.Glob("testdata/suite/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	var table strings.Builder
	var sum [3]int
	fmt.Fprintf(&table, "%-24s %8s %8s %8s\n", "keyword", "covered", "refused", "tests")
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		var cases []struct {
			Description string
			Schema      json.RawMessage
			Tests       []struct {
				Description string
				Data        json.RawMessage
				Valid       bool
			}
		}
		require.NoError(t, json.Unmarshal(text, &cases))
		var covered, refused, tests int
		for _, c := range cases {
			ordered, err := Schema(c.Schema, Options{})
			free, err2 := Schema(c.Schema, Options{AnyOrder: true})
			require.Equal(t, err == nil, err2 == nil)
			if err != nil {
				if strings.Contains(err.Error(), "no text satisfies it") {
					for _, test := range c.Tests {
						require.False(t, test.Valid, "%s: %s", c.Description, test.Description)
					}
					covered++
					tests += len(c.Tests)
					continue
				}
				require.ErrorIs(t, err, ErrSchema)
				require.NotContains(t, err.Error(), "\n")
				if testing.Verbose() {
					t.Logf("%s: %s: %v", filepath.Base(file), c.Description, err)
				}
				refused++
				continue
			}
			covered++
			for _, test := range c.Tests {
				tests++
				value, err := parseValue(test.Data)
				require.NoError(t, err)
				all := spell(value)
				inOrder := 0
				for _, text := range all {
					if accepts(ordered, v, text) {
						inOrder++
					}
					if got := accepts(free, v, text); got != test.Valid && !listedInOrder(c.Schema, all) {
						t.Errorf("%s: %s: %s: %s: %v", filepath.Base(file), c.Description, test.Description, text, got)
					}
				}
				if (inOrder > 0) != test.Valid {
					t.Errorf("%s: %s: %s: %s in order: %v", filepath.Base(file), c.Description, test.Description, all, inOrder > 0)
				}
			}
		}
		fmt.Fprintf(&table, "%-24s %8d %8d %8d\n", strings.TrimSuffix(filepath.Base(file), ".json"), covered, refused, tests)
		for i, n := range []int{covered, refused, tests} {
			sum[i] += n
		}
	}
	fmt.Fprintf(&table, "%-24s %8d %8d %8d\n", "all", sum[0], sum[1], sum[2])
	const golden = "testdata/coverage.txt"
	if *update {
		require.NoError(t, os.WriteFile(golden, []byte(table.String()), 0o666))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	require.Equal(t, string(want), table.String(), "run the test with -update")
}

// listedInOrder reports whether an instance has several spellings and the schema lists values: these come in
// the order in which they are listed.
func listedInOrder(schema json.RawMessage, spellings []string) bool {
	return len(spellings) > 1 && (strings.Contains(string(schema), `"enum"`) || strings.Contains(string(schema), `"const"`))
}
