// Command randomqwen writes a checkpoint with the shape of a Qwen3 model and random weights: enough to
// measure how fast a model builds and runs where its trained weights cannot be had. Run it from the root
// of the repository:
//
//	go run ./scripts/randomqwen -size 0.6B -o qwen3-0.6b-random
//
// Weights are bf16, normal with a standard deviation of 0.02 (norm weights: 1 with 0.1), and depend only
// on -seed and the tensor's name. The tokenizer is that of models/tiny, its special tokens moved to the
// ids that Qwen3 has and the ids between filled with made-up words, so that text can be sent through. With
// -sparse the weight files have their length but no data: they take no space and read as zeros, which is
// enough to look at shapes.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "randomqwen:", err)
		}
		os.Exit(1)
	}
}

func run(args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("randomqwen", flag.ContinueOnError)
	flags.SetOutput(stderr)
	size := flags.String("size", "0.6B", "which Qwen3: "+strings.Join(sizeNames(), ", "))
	out := flags.String("o", "", "folder to write (required)")
	seed := flags.Uint64("seed", 0, "random seed")
	sparse := flags.Bool("sparse", false, "files of the right length without data")
	tokenizer := flags.String("tokenizer", filepath.Join("models", "tiny", "qwen3-tiny"),
		"folder with the tokenizer.json and tokenizer_config.json to start from")
	if err := flags.Parse(args); err != nil {
		return err
	}
	shape, ok := sizes[*size]
	switch {
	case flags.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case !ok:
		return fmt.Errorf("-size %q: choose one of %s", *size, strings.Join(sizeNames(), ", "))
	case *out == "":
		return errors.New("-o is missing: give the folder to write")
	}
	if err := os.MkdirAll(*out, 0o777); err != nil {
		return err
	}
	if err := writeConfigs(*out, shape); err != nil {
		return err
	}
	if err := writeTokenizer(*tokenizer, *out, shape); err != nil {
		return err
	}
	if err := writeWeights(*out, shape, *seed, *sparse); err != nil {
		return err
	}
	_, err := fmt.Fprintf(stdout, "%s: Qwen3-%s shape, %.2f billion weights\n", *out, *size, float64(shape.parameters())/1e9)
	return err
}
