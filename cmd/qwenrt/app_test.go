package main

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"github.com/urfave/cli/v2"
)

func TestFlagsFirst(t *testing.T) {
	cmd := &cli.Command{Flags: []cli.Flag{
		&cli.StringFlag{Name: "output", Aliases: []string{"o"}}, &cli.BoolFlag{Name: "force"},
	}}
	for _, c := range []struct{ why, in, want string }{
		{"flags behind the argument, as help texts have it", "IN -o OUT --force", "-o OUT --force -- IN"},
		{"flags in front", "--output OUT IN", "--output OUT -- IN"},
		{"a switch takes no argument with it", "--force IN", "--force -- IN"},
		{"a value behind = is its own", "--output=OUT IN", "--output=OUT -- IN"},
		{"a value may look like a flag", "IN -o -x", "-o -x -- IN"},
		{"one dash is an argument", "- --force", "--force -- -"},
		{"behind two dashes all are arguments", "-o OUT -- --force", "-o OUT -- --force"},
		{"an unknown flag is left for package flag to report", "IN --what", "--what -- IN"},
		{"a flag without its value stays last, where package flag sees it", "IN -o", "-o"},
	} {
		require.Equal(t, c.want, strings.Join(flagsFirst(cmd, strings.Fields(c.in)), " "), c.why)
	}
}

// TestUsage holds that a wrong command line gives exit code 2 and one line on standard error.
func TestUsage(t *testing.T) {
	for _, c := range []struct {
		why  string
		args []string
		want string
	}{
		{"unknown command", []string{"frobnicate"}, `unknown command "frobnicate"`},
		{"unknown flag before any command", []string{"--frobnicate"}, `unknown flag "frobnicate"`},
		{"unknown flag", []string{"run", "x", "-p", "y", "--frobnicate"}, `run: unknown flag "frobnicate"`},
		{"flag of another command", []string{"optimize", "x", "-o", "y", "--block-size", "32"}, `unknown flag "block-size"`},
		{"no checkpoint", []string{"export", "-o", "x"}, "missing argument HF_DIR"},
		{"empty argument", []string{"export", "", "-o", "x"}, "HF_DIR is empty"},
		{"two checkpoints", []string{"build", "a", "b", "-o", "x"}, `unexpected argument "b"`},
		{"no output", []string{"quantize", "x"}, "missing -o OUT"},
		{"no name", []string{"pull"}, "missing argument NAME"},
		{"a name that the hub cannot have", []string{"pull", "Qwen3"}, `"Qwen3" is no name on the hub`},
		{"dtype", []string{"export", "x", "-o", "y", "--dtype", "fp8"}, `dtype "fp8": want fp32, fp16 or bf16`},
		{"empty dtype", []string{"export", "x", "-o", "y", "--dtype", ""}, "--dtype is empty"},
		{"target", []string{"optimize", "x", "-o", "y", "--target", "tpu"}, `target "tpu": want cpu, cuda or coreml`},
		{"precision", []string{"quantize", "x", "-o", "y", "--precision", "int3"}, `precision "int3"`},
		{"nothing to do", []string{"quantize", "x", "-o", "y", "--precision", "none"}, "want int4, int8, dynamic-int8, static-int8"},
		{"block size", []string{"quantize", "x", "-o", "y", "--block-size", "48"}, "block size 48: it must be 16, 32"},
		{"block size of 0 is no default", []string{"quantize", "x", "-o", "y", "--block-size", "0"}, "--block-size is 0"},
		{"all faults at once", []string{"build", "x", "-o", "y", "--dtype", "f", "--target", "t"}, `dtype "f": want fp32, fp16 or bf16; target "t"`},
		{"not a number", []string{"run", "x", "-p", "y", "--max-tokens", "many"}, `"many"`},
		{"no prompt", []string{"run", "x"}, "-p PROMPT"},
		{"a flag without its value", []string{"run", "x", "-p"}, "flag needs an argument: -p"},
		{"an empty prompt", []string{"run", "x", "-p", ""}, "the prompt is empty"},
		{"an empty prompt on standard input", []string{"run", "x", "-p", "-"}, "the prompt is empty"},
		{"no tokens", []string{"run", "x", "-p", "y", "--max-tokens", "0"}, "--max-tokens is 0"},
		{"fewer than no threads", []string{"run", "x", "-p", "y", "--threads", "-1"}, "--threads is -1"},
		{"slots that are none", []string{"run", "x", "--batch", "y", "--results", "z", "--slots", "0"}, "--slots is 0: want 1 or more"},
		{"all faults of a configuration", []string{"run", "x", "-p", "y", "--precision", "int3", "--attention", "fast", "--threads", "0"},
			`--threads is 0: want 1 or more; precision "int3": want none, fp16, bf16, int4, int8, dynamic-int8 or static-int8; attention "fast": want flash, memory_efficient or plain; see`},
		{"sampling out of range", []string{"run", "x", "-p", "y", "--temperature", "-1", "--top-p", "2"}, "temperature is -1, not from 0 to 100; top-p is 2"},
		{"NaN", []string{"run", "x", "-p", "y", "--temperature", "NaN"}, "temperature is NaN"},
		{"a bias that is none", []string{"run", "x", "-p", "y", "--logit-bias", "7"}, `--logit-bias "7": want ID=BIAS`},
		{"a token that is none", []string{"run", "x", "-p", "y", "--stop-token", "the"}, `--stop-token "the": want the id of a token`},
		{"no answers", []string{"run", "x", "-p", "y", "--n", "0"}, "--n is 0: want 1 or more"},
		{"log-probabilities in a text", []string{"run", "x", "-p", "y", "--logprobs", "2"}, "--logprobs is for --json and --batch"},
		{"to think and not to", []string{"run", "x", "-p", "y", "--think", "--no-think"}, "exclude each other"},
		{"a prompt and a batch", []string{"run", "x", "-p", "y", "--batch", "z"}, "exclude each other"},
		{"a batch without results", []string{"run", "x", "--batch", "z"}, "belong together"},
		{"objects in a conversation", []string{"run", "x", "--interactive", "--json"}, "--json is not for conversations"},
		{"chat flags without chat", []string{"run", "x", "-p", "y", "--no-chat", "--no-think"}, "--no-chat"},
		{"form of a report", []string{"doctor", "-o", "xml"}, `output "xml": want table or json`},
		{"an argument too many", []string{"version", "x"}, `unexpected argument "x"`},
	} {
		t.Run(c.why, func(t *testing.T) {
			r := qwenrt(t, c.args...)
			require.Equal(t, exitUsage, r.code, r.stderr)
			require.Empty(t, r.stdout)
			requireLine(t, r.stderr, c.want)
		})
	}
}

// requireLine holds that stderr is one line of ours that has want in it.
func requireLine(t *testing.T, stderr, want string) {
	t.Helper()
	require.True(t, strings.HasPrefix(stderr, "qwenrt: "), stderr)
	require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
	require.True(t, strings.HasSuffix(stderr, "\n"))
	require.Contains(t, stderr, want)
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{}, {"--help"}, {"help"}} {
		r := qwenrt(t, args...)
		require.Equal(t, exitOK, r.code)
		require.Empty(t, r.stderr)
		require.Contains(t, r.stdout, "doctor")
	}
	for _, c := range new(program).commands() {
		r := qwenrt(t, c.Name, "--help")
		require.Equal(t, exitOK, r.code)
		require.Empty(t, r.stderr)
		require.Regexp(t, "Examples?: qwenrt "+c.Name, r.stdout, "each help text has an example")
	}
}

func TestDescriptionsFitTerminals(t *testing.T) {
	const most = 107 // and three of indentation
	all := new(program).commands()
	for i := 0; i < len(all); i++ {
		all = append(all, all[i].Subcommands...)
		for line := range strings.Lines(all[i].Description) {
			require.LessOrEqual(t, utf8.RuneCountInString(strings.TrimSuffix(line, "\n")), most, "%s: %s", all[i].Name, line)
		}
	}
	require.Greater(t, len(all), len(new(program).commands()))
}

func TestVersion(t *testing.T) {
	r := qwenrt(t, "version")
	require.Equal(t, exitOK, r.code)
	require.Regexp(t, `^qwenrt \S+ go\S+ \w+/\w+\n$`, r.stdout)
}

func TestOneLine(t *testing.T) {
	require.Equal(t, "a; b", oneLine(errors.Join(errors.New("a"), errors.New("b"))))
}

func TestProgress(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out)
	require.False(t, p.terminal)
	p.begin("downloading x")
	for done := range int64(1001) {
		p.show(done, 1000, 50)
	}
	p.done()
	require.Equal(t, "downloading x\ndownloading x: 50 % of 1.0 kB\ndownloading x: 100 % of 1.0 kB\n", out.String())

	out.Reset()
	p = &progress{w: &out, terminal: true}
	p.begin("writing")
	p.show(1, 2, 1)
	p.show(1, 2, 1) // nothing new
	p.done()
	p.done()
	require.Equal(t, "\r\x1b[Kwriting\r\x1b[Kwriting [===============               ] 50 % of 2 B\r\x1b[K", out.String())

	f, err := os.Create(t.TempDir() + "/log")
	require.NoError(t, err)
	defer f.Close()
	require.False(t, newProgress(f).terminal, "a file is no terminal")
}

func TestBytesText(t *testing.T) {
	require.Equal(t, []string{"0 B", "999 B", "1.0 kB", "1.2 MB", "4.00 GB"},
		[]string{bytesText(0), bytesText(999), bytesText(1000), bytesText(1_249_000), bytesText(4e9)})
}

func TestShellWord(t *testing.T) {
	require.Equal(t, "out/int4", shellWord("out/int4"))
	require.Equal(t, `'it'\''s a folder'`, shellWord("it's a folder"))
}
