package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
)

const usage = `usage: native <command> [--cuda]

  install   install ONNX Runtime and libtokenizers.a unless they are there
  env       install, then print export lines: eval "$(native env)"
  status    check the installed files and print where they are

  --cuda    ONNX Runtime with the CUDA provider
`

// errUsage marks a command line that cannot be understood; the exit code is 2.
var errUsage = errors.New("usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case errors.Is(err, errUsage):
		os.Exit(2)
	case err != nil && interrupted:
		fmt.Fprintln(os.Stderr, "native: interrupted; nothing half-installed is left")
		os.Exit(1)
	case err != nil:
		fmt.Fprintf(os.Stderr, "native: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("native", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage) }
	cuda := flags.Bool("cuda", false, "")
	if len(args) == 0 {
		flags.Usage()
		return errUsage
	}
	command := args[0]
	if command == "help" || command == "-h" || command == "--help" {
		fmt.Fprint(stdout, usage)
		return nil
	}
	if err := flags.Parse(args[1:]); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return errUsage
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "native: %s takes no argument %q\n", command, flags.Arg(0))
		return errUsage
	}
	switch command {
	case "install", "env", "status":
	default:
		fmt.Fprintf(stderr, "native: unknown command %q\n", command)
		flags.Usage()
		return errUsage
	}

	st, err := openStore()
	if err != nil {
		return err
	}
	set, err := choose(st, host(), *cuda)
	if err != nil {
		return err
	}
	if command == "status" {
		return set.status(st, stdout)
	}
	if err := set.install(ctx, st, steps{stderr}); err != nil {
		return err
	}
	if command == "env" {
		return writeEnv(stdout, st.root, set)
	}
	return nil
}

// host is the platform that native itself runs on, as GOOS-GOARCH.
func host() string { return runtime.GOOS + "-" + runtime.GOARCH }

// A libraries names the two libraries for one machine and where each comes from.
type libraries struct {
	ort, tokenizers source
}

// A source is a library at a place that the user named, or a pinned one in the store.
type source struct {
	path string  // file of a shared library (package ort takes its folder as well), folder of a static one
	pin  *recipe // nil when the user named the path in variable
	from string  // environment variable that named the path
}

// choose decides where each library comes from. It reads the environment and the user's own paths, and fetches nothing.
func choose(st store, platform string, cuda bool) (libraries, error) {
	ort, errORT := chooseORT(st, platform, cuda)
	tok, errTok := chooseTokenizers(st, platform)
	return libraries{ort, tok}, errors.Join(errORT, errTok)
}

func chooseORT(st store, platform string, cuda bool) (source, error) {
	const variable = "QWENRT_ORT_LIB"
	// A path inside the store was set by an earlier env: the pins of this version decide, not that one's.
	if path := os.Getenv(variable); path != "" && !st.contains(path) {
		if _, err := os.Stat(path); err != nil {
			return source{}, fmt.Errorf("%s names %q, which does not exist: unset it, or set it to an ONNX Runtime library", variable, path)
		}
		path, err := filepath.Abs(path)
		return source{path: path, from: variable}, err
	}
	pin, ok := onnxRuntimeCPU[platform]
	if cuda {
		pin, ok = onnxRuntimeCUDA[platform]
	}
	if !ok {
		return source{}, fmt.Errorf("no pinned ONNX Runtime (CUDA: %t) for %s: set %s to an existing library", cuda, platform, variable)
	}
	rec := pin.recipe(platform)
	return source{path: filepath.Join(st.dir(rec), filepath.Base(pin.library)), pin: &rec}, nil
}

func chooseTokenizers(st store, platform string) (source, error) {
	const variable = "QWENRT_TOKENIZERS_LIB"
	if dir := os.Getenv(variable); dir != "" {
		if info, err := os.Stat(filepath.Join(dir, tokenizersLibrary)); err != nil || info.IsDir() {
			return source{}, fmt.Errorf("%s names %q, which holds no %s: unset it, or set it to the folder of that library", variable, dir, tokenizersLibrary)
		}
		dir, err := filepath.Abs(dir)
		return source{path: dir, from: variable}, err
	}
	rec, err := tokenizersRecipe(platform)
	if err != nil {
		return source{}, fmt.Errorf("%w: set %s to a folder that holds %s", err, variable, tokenizersLibrary)
	}
	return source{path: st.dir(rec), pin: &rec}, nil
}

func (l libraries) each() []source { return []source{l.ort, l.tokenizers} }

// install fetches what is pinned and not yet in the store.
func (l libraries) install(ctx context.Context, st store, log steps) error {
	for _, src := range l.each() {
		if src.pin == nil {
			continue
		}
		if err := st.install(ctx, *src.pin, log); err != nil {
			return fmt.Errorf("%s %s: %w", src.pin.name, src.pin.version, err)
		}
	}
	return nil
}

// status prints one line for each library. The error says that some are unusable.
func (l libraries) status(st store, w io.Writer) error {
	bad := false
	for _, src := range l.each() {
		if src.pin == nil {
			fmt.Fprintf(w, "%-30s %s\n", src.from, src.path)
			continue
		}
		state := "ok"
		if err := st.verify(*src.pin); err != nil {
			state, bad = err.Error(), true
		}
		fmt.Fprintf(w, "%-30s %s: %s\n", src.pin.name+" "+src.pin.version, src.path, state)
	}
	if bad {
		return errors.New("not everything is installed: run native install")
	}
	return nil
}
