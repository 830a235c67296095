package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/runner"
)

// Exit codes.
const (
	exitOK          = 0
	exitError       = 1
	exitUsage       = 2
	exitUnsure      = 3   // bench gate: too noisy to say
	exitInterrupted = 130 // as shells have it: 128 + SIGINT
	exitBrokenPipe  = 141 // and 128 + SIGPIPE
)

// program is what commands read from and write to.
type program struct {
	stdin          io.Reader
	stdout, stderr io.Writer
}

// commands lists the commands in the order of the help text.
func (p *program) commands() []*cli.Command {
	return []*cli.Command{
		p.runCommand(),
		p.serveCommand(),
		p.benchCommand(),
		p.evalCommand(),
		p.pullCommand(),
		p.buildCommand(),
		p.exportCommand(),
		p.optimizeCommand(),
		p.quantizeCommand(),
		p.inspectCommand(),
		p.diffCommand(),
		p.infoCommand(),
		p.cacheCommand(),
		p.recommendCommand(),
		p.tuneCommand(),
		p.doctorCommand(),
		p.versionCommand(),
	}
}

// run is the program: it does what args say and gives the exit code. Cancelling ctx is an interrupt.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	p := &program{stdin, stdout, stderr}
	err := p.run(ctx, args)
	var wrong *usageError
	var code reported
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &wrong):
		fmt.Fprintf(stderr, "qwenrt: %v\n", wrong)
		return exitUsage
	case errors.Is(context.Cause(ctx), errBrokenPipe):
		return exitBrokenPipe
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "qwenrt: interrupted")
		return exitInterrupted
	case errors.As(err, &code):
		return int(code)
	}
	fmt.Fprintf(stderr, "qwenrt: %s\n", oneLine(err))
	return exitError
}

// reported ends a command that has said itself what is wrong, with an exit code.
type reported int

func (r reported) Error() string { return fmt.Sprintf("reported, exit code %d", int(r)) }

// errReported is the usual one.
const errReported = reported(exitError)

func (p *program) run(ctx context.Context, args []string) error {
	app := &cli.App{
		Name:  "qwenrt",
		Usage: "run Qwen3 models fast on ONNX Runtime",
		Description: "A first try, with nothing downloaded:\n\n" +
			"   qwenrt run qwen3-tiny -p 'What does \"harbor\" mean?' --no-think",
		Version:        runner.Version(),
		HideVersion:    true, // there is a command
		Writer:         p.stdout,
		ErrWriter:      p.stderr,
		Commands:       p.commands(),
		OnUsageError:   onUsageError,
		ExitErrHandler: func(*cli.Context, error) {}, // the library would end the process
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return usage("unknown command %q; see qwenrt --help", c.Args().First())
			}
			return cli.ShowAppHelp(c)
		},
	}
	return app.RunContext(ctx, append([]string{app.Name}, arrange(app.Commands, args)...))
}

// arrange prepares commands, and those below them, and puts the arguments of the one that args name in the
// order that package flag wants.
func arrange(commands []*cli.Command, args []string) []string {
	for _, c := range commands {
		c.HideHelpCommand = true // or an argument "help" would be a command
		c.OnUsageError = onUsageError
		if len(args) == 0 || !c.HasName(args[0]) {
			arrange(c.Subcommands, nil)
			continue
		}
		rest := args[1:]
		if arranged := arrange(c.Subcommands, rest); len(arranged) > 0 && hasCommand(c.Subcommands, arranged[0]) {
			rest = arranged
		} else {
			rest = flagsFirst(c, rest)
		}
		args = append([]string{args[0]}, rest...)
	}
	return args
}

func hasCommand(commands []*cli.Command, name string) bool {
	return slices.ContainsFunc(commands, func(c *cli.Command) bool { return c.HasName(name) })
}

// usageError is a command line that cannot be understood.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usage(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

// commandUsage is usage for what is wrong on the line of one command.
func commandUsage(c *cli.Context, format string, args ...any) error {
	name := strings.TrimPrefix(c.Command.HelpName, c.App.Name+" ") // "bench ab", where Name is "ab" alone
	return usage("%s: %s; see qwenrt %[1]s --help", name, fmt.Sprintf(format, args...))
}

// onUsageError gives the errors of package flag our words.
func onUsageError(c *cli.Context, err error, isCommand bool) error {
	text := err.Error()
	if name, unknown := strings.CutPrefix(text, "flag provided but not defined: -"); unknown {
		text = fmt.Sprintf("unknown flag %q", name)
	}
	if !isCommand {
		return usage("%s; see qwenrt --help", text)
	}
	return commandUsage(c, "%s", text)
}

// oneLine gives an error as the one line that a user sees, also where several were joined.
func oneLine(err error) string {
	lines := strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' })
	return strings.Join(lines, "; ")
}

// flagsFirst puts the flags of a command before its arguments: package flag takes everything behind
// the first argument for arguments.
func flagsFirst(c *cli.Command, args []string) []string {
	var flags, rest []string
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if arg == "--" {
			rest = append(rest, args...)
			break
		}
		if len(arg) < 2 || arg[0] != '-' {
			rest = append(rest, arg)
			continue
		}
		flags = append(flags, arg)
		if !takesValue(c, arg) {
			continue
		}
		if len(args) == 0 {
			return flags // package flag reports the last one
		}
		flags = append(flags, args[0])
		args = args[1:]
	}
	return slices.Concat(flags, []string{"--"}, rest)
}

// takesValue reports whether the value of a flag is the argument behind it.
func takesValue(c *cli.Command, arg string) bool {
	name := strings.TrimLeft(arg, "-")
	for _, f := range c.Flags {
		if slices.Contains(f.Names(), name) {
			valued, ok := f.(cli.DocGenerationFlag)
			return ok && valued.TakesValue()
		}
	}
	return false
}

// argument is a command's only argument.
func argument(c *cli.Context) (string, error) {
	switch c.NArg() {
	case 0:
		return "", commandUsage(c, "missing argument %s", c.Command.ArgsUsage)
	case 1:
		if c.Args().First() == "" {
			return "", commandUsage(c, "%s is empty", c.Command.ArgsUsage)
		}
		return c.Args().First(), nil
	}
	return "", commandUsage(c, "unexpected argument %q", c.Args().Get(1))
}

func noArguments(c *cli.Context) error {
	if c.NArg() > 0 {
		return commandUsage(c, "unexpected argument %q", c.Args().First())
	}
	return nil
}
