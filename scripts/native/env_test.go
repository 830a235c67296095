package main

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// evaluated returns variable after a shell has evaluated script.
func evaluated(t *testing.T, script, variable string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "sh", "-c", `eval "$1"; printf %s "$`+variable+`"`, "sh", script).Output()
	require.NoError(t, err)
	return string(out)
}

func TestEnvSurvivesTheShell(t *testing.T) {
	tests := []struct{ name, root string }{
		{"plain", "/cache/native"},
		{"space: CGO_LDFLAGS is split at it", "/home/a user/native"},
		{"single quote: ends a quoted shell word", "/home/o'brien/native"},
		{"what shells expand", "/home/$HOME/`id`/$(id)/*/!/\\n"},
		{"double quote", `/home/"u"/native`},
		{"line break: export would end there", "/home/a\nb"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("CGO_LDFLAGS", "")
			set := libraries{ort: source{path: test.root + "/ort/lib.so"}, tokenizers: source{path: test.root + "/tok"}}
			var out bytes.Buffer
			require.NoError(t, writeEnv(&out, test.root, set))
			require.Equal(t, set.ort.path, evaluated(t, out.String(), "QWENRT_ORT_LIB"))
			flags, err := splitFlags(evaluated(t, out.String(), "CGO_LDFLAGS"))
			require.NoError(t, err)
			require.Equal(t, []string{"-L" + set.tokenizers.path}, flags)
		})
	}
}

func TestLinkerFlags(t *testing.T) {
	tests := []struct{ name, old, dir, want string }{
		{"nothing set", "", "/n/tok-2", "-L/n/tok-2"},
		{"the user's flags stay in front", "-O2 -L/usr/x", "/n/tok-2", "-O2 -L/usr/x -L/n/tok-2"},
		{"a second eval changes nothing", "-O2 -L/n/tok-2", "/n/tok-2", "-O2 -L/n/tok-2"},
		{"an older version's folder would be searched first", "-L/n/tok-1 -O2", "/n/tok-2", "-O2 -L/n/tok-2"},
		{"a second eval with the user's own folder", "-L/own", "/own", "-L/own"},
		{"quoted flags stay whole", `'-L/a b' "-Wl,-x y"`, "/n/tok-2", `'-L/a b' '-Wl,-x y' -L/n/tok-2`},
		{"a single quote asks for double ones", "", "/o'b/tok", `"-L/o'b/tok"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := linkerFlags(test.old, "/n", test.dir)
			require.NoError(t, err)
			require.Equal(t, test.want, got)
		})
	}

	_, err := linkerFlags("'-L/a", "/n", "/n/tok")
	require.ErrorContains(t, err, "unterminated")
	_, err = linkerFlags("", "/n", `/a'b"c`)
	require.ErrorContains(t, err, "QWENRT_NATIVE_DIR", "go's splitting has no escapes")
}

func FuzzSplitFlags(f *testing.F) {
	f.Add(`-O2 '-L/a b' "-L/c'd"`)
	f.Add("' '\" \"x")
	f.Add("'")
	f.Fuzz(func(t *testing.T, s string) {
		fields, err := splitFlags(s)
		if err != nil {
			return
		}
		var quoted []string
		for _, field := range fields {
			q, err := quoteFlag(field)
			if err != nil {
				return
			}
			quoted = append(quoted, q)
		}
		again, err := splitFlags(strings.Join(quoted, " "))
		require.NoError(t, err)
		require.Equal(t, fields, again)
	})
}
