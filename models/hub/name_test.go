package hub

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseName(t *testing.T) {
	for given, want := range map[string]string{
		"Qwen/Qwen3-0.6B":                        "Qwen/Qwen3-0.6B",
		"a/b":                                    "a/b",
		"_a/b_c.d-e":                             "_a/b_c.d-e",
		"https://huggingface.co/Qwen/Qwen3-0.6B": "Qwen/Qwen3-0.6B",
		"https://hf.co/Qwen/Qwen3-0.6B/":         "Qwen/Qwen3-0.6B",
		"hf://Qwen/Qwen3-0.6B":                   "Qwen/Qwen3-0.6B",

		"":                              "",
		"Qwen3-0.6B":                    "", // a folder more likely than a repository
		"./model":                       "",
		"../model":                      "",
		"/model":                        "",
		"models/":                       "",
		"a/b/c":                         "",
		`a\b`:                           "",
		"a/..":                          "",
		"a/b..c":                        "",
		"a/b--c":                        "", // the cache's separator
		"a/-b":                          "",
		"a/b.":                          "",
		"a/b.git":                       "",
		"a/b c":                         "",
		"a/b\n":                         "",
		"a/ü":                           "",
		"https://example.com/a/b":       "",
		strings.Repeat("a/b", 1000):     "",
		"a/" + strings.Repeat("b", 100): "",
	} {
		repo, ok := ParseName(given)
		require.Equal(t, want, repo, given)
		require.Equal(t, want != "", ok, given)
	}
}

func TestNamesThatWouldLeaveTheCache(t *testing.T) {
	client := newFakeHub(t).client(t)
	for _, name := range []string{"", "model", "../x", "a/../b"} {
		_, err := client.Pull(t.Context(), name, "main")
		requireOneLine(t, err)
		require.ErrorIs(t, err, ErrName, name)
	}
	for _, revision := range []string{"..", ".", "../x", "/etc/passwd", "a/../b", "a//b", "a/", "a b", "a\nb", `a\b`, "c:x", strings.Repeat("r", 300)} {
		_, err := client.Pull(t.Context(), "a/b", revision)
		requireOneLine(t, err)
		require.ErrorIs(t, err, ErrName, revision)
	}
}
