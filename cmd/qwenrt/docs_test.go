package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
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

// The commands of the page that people start with work in the order in which they stand there.
func TestAccelerationCommands(t *testing.T) {
	need(t)
	ownHome(t)
	page := documents(t)["docs/acceleration.md"]
	from, err := filepath.Abs(checkpoint)
	require.NoError(t, err)
	t.Chdir(t.TempDir())
	ran := 0
	for line := range strings.Lines(page) {
		command, ok := strings.CutPrefix(line, "    qwenrt ")
		if !ok {
			continue
		}
		command, _, _ = strings.Cut(command, " #")
		command = optionalPart.ReplaceAllString(command, "")
		command = strings.NewReplacer("HF_DIR", from, "MODEL", "fast").Replace(strings.TrimSpace(command))
		if strings.HasPrefix(command, "tune ") { // a search in full takes minutes
			command += " --dimension spin --budget 20ms --context 16"
		}
		r := qwenrt(t, shellWords(command)...)
		require.Equal(t, exitOK, r.code, "%s: %s", command, r.stderr)
		require.NotEmpty(t, r.stdout, command)
		ran++
	}
	require.Greater(t, ran, 10)
}

var optionalPart = regexp.MustCompile(`\[[^\]]*\]`)

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
