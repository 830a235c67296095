package main

import (
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/urfave/cli/v2"
)

// documents are README.md and all below docs, by path from the root of the repository.
func documents(t *testing.T) map[string]string {
	t.Helper()
	const root = "../.."
	all := map[string]string{}
	read := func(path string) {
		text, err := os.ReadFile(filepath.Join(root, path))
		require.NoError(t, err)
		all[path] = string(text)
	}
	read("README.md")
	require.NoError(t, fs.WalkDir(os.DirFS(root), "docs", func(path string, e fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".md" {
			read(path)
		}
		return err
	}))
	return all
}

// code are the pieces of a document that are set as code: indented and fenced lines, and `spans` within a line.
func code(document string) (all []string) {
	fenced := false
	for line := range strings.Lines(document) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(strings.TrimSpace(line), "```"):
			fenced = !fenced
		case fenced || strings.HasPrefix(line, "    "):
			all = append(all, strings.TrimSpace(line))
		default:
			for _, m := range codeSpan.FindAllStringSubmatch(line, -1) {
				all = append(all, m[1])
			}
		}
	}
	return all
}

var (
	codeSpan     = regexp.MustCompile("`([^`]+)`")
	documentLink = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	commandStart = regexp.MustCompile(`(?:^|[\s;&|(])(?:bin/)?qwenrt ([a-z].*)`)
	makeTarget   = regexp.MustCompile(`(?:^|&& )make ([a-z][a-z-]*)`)
	scriptPath   = regexp.MustCompile(`(?:^|[\s(])\.?/?(scripts/[a-z_/-]+(?:\.[a-z]+)?)`)
)

// Whoever types what a document says finds the command, each of its flags, the target and the script.
func TestDocumentedCommands(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	require.NoError(t, err)
	known := (&program{}).commands()
	seen := 0
	for path, text := range documents(t) {
		for _, line := range code(text) {
			if m := commandStart.FindStringSubmatch(line); m != nil {
				seen++
				require.Empty(t, unknownWord(known, m[1]), "%s: %s", path, line)
			}
			if m := makeTarget.FindStringSubmatch(line); m != nil {
				require.Contains(t, string(makefile), "\n"+m[1]+":", "%s: %s", path, line)
			}
			for _, m := range scriptPath.FindAllStringSubmatch(line, -1) {
				_, err := os.Stat(filepath.Join("../..", m[1]))
				require.NoError(t, err, "%s: %s", path, line)
			}
		}
	}
	require.Greater(t, seen, 10)
}

// unknownWord is the first word of a command line that is no command or flag of this program.
func unknownWord(known []*cli.Command, line string) string {
	line, _, _ = strings.Cut(line, " # ")
	var command *cli.Command
	for _, word := range strings.Fields(line) {
		if strings.ContainsAny(word, "|;&>") {
			break
		}
		name, isFlag := strings.CutPrefix(word, "-")
		switch {
		case command == nil || !isFlag && find(command.Subcommands, word) != nil:
			if command != nil {
				known = command.Subcommands
			}
			if command = find(known, word); command == nil {
				return word
			}
		case isFlag && name != "" && name != "-":
			name, _, _ = strings.Cut(strings.TrimLeft(name, "-"), "=")
			if name = strings.Trim(name, "[]'\"),."); name != "help" && !hasFlag(command, name) {
				return word
			}
		}
	}
	return ""
}

func find(all []*cli.Command, name string) *cli.Command {
	for _, c := range all {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}

func hasFlag(c *cli.Command, name string) bool {
	for _, alternative := range strings.Split(name, "|") {
		found := false
		for _, f := range c.Flags {
			for _, n := range f.Names() {
				found = found || n == alternative
			}
		}
		if !found {
			return false
		}
	}
	return true
}

func TestUnknownWord(t *testing.T) {
	known := (&program{}).commands()
	for line, want := range map[string]string{
		"run DIR -p 'some -x text'":                 "-x", // quotes are not looked at: documents have no such prompts
		"run DIR --temperature=0 # as a comment -x": "",
		"fly DIR":                    "fly",
		"bench DIR --no-such 1":      "--no-such",
		"bench DIR -p 512 | jq -r .": "",
	} {
		require.Equal(t, want, unknownWord(known, line), line)
	}
}

// Links between documents lead somewhere.
func TestDocumentLinks(t *testing.T) {
	for path, text := range documents(t) {
		for _, m := range documentLink.FindAllStringSubmatch(text, -1) {
			_, err := os.Stat(filepath.Join("../..", filepath.Dir(path), m[1]))
			require.NoError(t, err, "%s links to %s", path, m[1])
		}
	}
}

// Each command of these pages runs, on the carried model in the place of others, with less to do: at most documentedMost
// tokens and repetitions.
func TestDocumentedCommandsRun(t *testing.T) {
	need(t)
	ownHome(t)
	pages := documents(t)
	for page, least := range map[string]int{
		"README.md": 5, "docs/acceleration.md": 15, "docs/benchmarks.md": 8, "docs/ci.md": 5, "docs/grammar.md": 3, "docs/serving.md": 3,
	} {
		t.Run(page, func(t *testing.T) {
			names := documentedFiles(t)
			if page == "README.md" { // it makes its own
				require.NoError(t, os.RemoveAll("int4"))
			}
			ran := 0
			for line := range strings.Lines(pages[page]) {
				if m := documentedCommand.FindStringSubmatch(line); m != nil {
					ran++
					runDocumented(t, names.Replace(m[1]), documentedRequest.FindAllStringSubmatch(pages[page], -1))
				}
			}
			require.GreaterOrEqual(t, ran, least)
		})
	}
}

// documentedCommand is a line with a command, without its comment.
var documentedCommand = regexp.MustCompile(`^    (?:bin/)?qwenrt ([a-z].*?)\s*(?:  # .*)?\n`)

// documentedRequest is a line with a request to a server: its path and body.
var documentedRequest = regexp.MustCompile(`(?m)^    curl (?:-N )?http://127\.0\.0\.1:8080(\S+) -d '(.*)'$`)

// runDocumented runs what qwenrt is asked for in a document; requests are for a server.
func runDocumented(t *testing.T, command string, requests [][]string) {
	t.Helper()
	command = documentedNumber.ReplaceAllStringFunc(optionalPart.ReplaceAllString(command, ""), smallNumbers)
	what, _, _ := strings.Cut(command, " ")
	speeds := false // which no test may depend on
	switch {
	case what == "pull": // from the hub: see TestPull
		return
	case what == "tune":
		command += " --dimension spin --budget 20ms --context 16"
	case what == "run" && !strings.Contains(command, "--max-tokens"):
		command += " --max-tokens 16"
	case strings.HasPrefix(command, "bench ab "), strings.Contains(command, " --against "):
		speeds = true
		command += " --budget 200ms --round 50ms"
	}
	t.Log(command)
	if what == "serve" {
		url, stop := serving(t, shellWords(command)[1:]...)
		for _, r := range requests {
			status, answer := post(t, url+r[1], r[2])
			require.Equal(t, http.StatusOK, status, "%s: %s", r[0], answer)
		}
		require.Equal(t, exitOK, stop().code)
		return
	}
	r := qwenrt(t, shellWords(command)...)
	if speeds {
		require.Contains(t, []int{exitOK, exitError, exitUnsure}, r.code, "%s: %s", command, r.stderr)
	} else {
		require.Equal(t, exitOK, r.code, "%s: %s", command, r.stderr)
	}
	require.NotEmpty(t, r.stdout, command)
}

// documentedFiles makes, in a new folder that becomes the current one, what the commands of the documents begin with, and
// gives the names that stand for something else there.
func documentedFiles(t *testing.T) *strings.Replacer {
	t.Helper()
	from, err := filepath.Abs(checkpoint)
	require.NoError(t, err)
	text, err := filepath.Abs("../../models/testdata/reference/eval.txt")
	require.NoError(t, err)
	t.Chdir(t.TempDir())
	for _, dir := range []string{"main", "old", "build/bench", ".ci"} {
		require.NoError(t, os.MkdirAll(dir, 0o777))
	}
	for model, flags := range map[string][]string{"int4": nil, "int4-b128": {"--block-size", "128"}, "fp32": {"--precision", "none"}} {
		require.Equal(t, exitOK, qwenrt(t, append([]string{"build", from, "-o", model}, flags...)...).code)
	}
	int4, err := filepath.Abs("int4")
	require.NoError(t, err)
	for _, name := range []string{"int4-b32", "main/int4", "build/int4", "build/bench/int4"} {
		require.NoError(t, os.Symlink(int4, name))
	}
	write := func(name, text string, mode os.FileMode) { require.NoError(t, os.WriteFile(name, []byte(text), mode)) }
	for _, name := range []string{"a.yaml", "b.yaml", "old.yaml"} {
		write(name, "threads: 1\n", 0o666)
	}
	write("harbor.json", `{"type": "object", "properties": {"depth": {"type": "integer"}}, "required": ["depth"], "additionalProperties": false}`, 0o666)
	write("tools.json", `[{"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}]`, 0o666)
	all, err := os.ReadFile(text)
	require.NoError(t, err)
	write("eval.txt", string(all[:12_000]), 0o666)
	for _, name := range []string{"main/qwenrt", "old/qwenrt", "new-qwenrt"} {
		write(name, "#!/bin/sh\nexport "+asProgram+"=1\nexec '"+os.Args[0]+"' \"$@\"\n", 0o777)
	}
	return strings.NewReplacer("HF_DIR", from, "Qwen/Qwen3-0.6B", from, "MODEL", "int4", "MODEL_DIR", "int4", " bin/qwenrt", " ./new-qwenrt",
		" old/qwenrt", " ./old/qwenrt", " main/qwenrt", " ./main/qwenrt")
}

const documentedMost = 24

// documentedNumber is a flag whose numbers say how much is done.
var documentedNumber = regexp.MustCompile(` (-p|-n|-d|-b|-r|-pg|--max-tokens|--samples|--seq-len) [0-9,]+`)

func smallNumbers(flag string) string {
	return regexp.MustCompile(`[0-9]+`).ReplaceAllStringFunc(flag, func(n string) string {
		v, err := strconv.Atoi(n)
		if err != nil || v > documentedMost {
			v = documentedMost
		}
		return strconv.Itoa(v)
	})
}

var optionalPart = regexp.MustCompile(` \[-[^\]]*\]`)

// shellWords splits at spaces outside single quotes.
func shellWords(line string) (words []string) {
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			words = append(words, part)
		} else {
			words = append(words, strings.Fields(part)...)
		}
	}
	return words
}
