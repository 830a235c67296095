// Command quality measures what quantisation costs: it quantises checkpoints in many ways, and compares the predictions of each
// with those of the fp32 model.
//
//	go run ./scripts/quality [-qwenrt bin/qwenrt] [-text FILE] [-work DIR] [-only GLOB] CHECKPOINT...
//
// It prints a Markdown table, with a line for each way and three columns for each checkpoint: bits a weight, mean KL
// divergence, and share of positions with the same most likely token. Bits count scales, zero points and the weights that
// stay in fp32, and leave graph and rotary tables out. What has been measured is kept in the work folder and not
// measured again: remove it after a change of the code.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"strings"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "quality:", err)
		os.Exit(1)
	}
}

// way is a way to quantise: flags of qwenrt build.
type way string

func (w way) name() string {
	return strings.NewReplacer(" ", "_", "=", "-", "*", "", "/", "-", "'", "").Replace(strings.ReplaceAll(string(w), "--", ""))
}

// ways are those of the table, in its order.
func ways() []way {
	var all []way
	add := func(format string, args ...any) { all = append(all, way(fmt.Sprintf(format, args...))) }
	for _, block := range []int{32, 128} {
		for _, symmetric := range []bool{true, false} {
			for _, method := range []string{"rtn --scale max", "rtn --scale mse", "hqq", "gptq", "awq", "awq+gptq"} {
				add("--block-size %d --symmetric=%v --algo %s", block, symmetric, method)
			}
		}
	}
	add("--precision int8 --block-size 32")
	add("--precision int8 --block-size 128")
	for _, bits := range []string{"4.6", "4.95", "5.17"} {
		for _, method := range []string{"rtn", "gptq", "awq+gptq"} {
			add("--target-bits %s --algo %s", bits, method)
		}
		add("--target-bits %s --half-scales --algo gptq", bits)
	}
	for _, integers := range []string{"dynamic-int8", "static-int8"} {
		for _, more := range []string{"", " --smoothquant weights", " --smoothquant off --least-snr 18", " --smoothquant off"} {
			add("--precision %s%s", integers, more)
		}
	}
	for _, more := range []string{"--range average", "--range percentile", "--range mse", "--range entropy", "--symmetric-range"} {
		add("--precision static-int8 %s", more)
	}
	return all
}

// result is what is kept of a way.
type result struct {
	Bits float64 `json:"bits"`
	KLD  float64 `json:"kld"`
	Top1 float64 `json:"top1"`
}

// bench is where the work is done.
type bench struct{ binary, text, work string }

func run(ctx context.Context) error {
	var b bench
	flag.StringVar(&b.binary, "qwenrt", "bin/qwenrt", "the `program` to measure")
	flag.StringVar(&b.text, "text", "models/testdata/reference/eval.txt", "`file` with the text to predict")
	flag.StringVar(&b.work, "work", "build/quality", "`folder` for what is built and measured")
	only := flag.String("only", "*", "`glob` for the ways to take")
	flag.Parse()
	if flag.NArg() == 0 {
		return errors.New("usage: quality [options] CHECKPOINT [CHECKPOINT]")
	}
	fmt.Print("|")
	for _, checkpoint := range flag.Args() {
		fmt.Printf(" | %s: bits | KLD | top-1", filepath.Base(checkpoint))
	}
	fmt.Printf(" |\n| ---%s |\n", strings.Repeat(" | ---: | ---: | ---:", flag.NArg()))
	for _, w := range ways() {
		if ok, err := path.Match(*only, string(w)); err != nil {
			return err
		} else if !ok {
			continue
		}
		line := fmt.Sprintf("| `%s`", w)
		for _, checkpoint := range flag.Args() {
			r, err := b.measure(ctx, checkpoint, w)
			if err != nil {
				return fmt.Errorf("%s: %w", w, err)
			}
			line += fmt.Sprintf(" | %.2f | %.5f | %.1f %%", r.Bits, r.KLD, 100*r.Top1)
		}
		fmt.Println(line + " |")
	}
	return nil
}

func (b bench) measure(ctx context.Context, checkpoint string, w way) (r result, err error) {
	dir := filepath.Join(b.work, filepath.Base(checkpoint))
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return r, err
	}
	kept := filepath.Join(dir, w.name()+".json")
	if data, err := os.ReadFile(kept); err == nil {
		return r, json.Unmarshal(data, &r)
	}
	reference, err := b.reference(ctx, checkpoint, dir)
	if err != nil {
		return r, err
	}
	model := filepath.Join(dir, "model")
	args := append([]string{"build", checkpoint, "-o", model, "--force"}, strings.Fields(string(w))...)
	if _, err := b.call(ctx, args...); err != nil {
		return r, err
	}
	if r, err = b.evaluate(ctx, model, reference); err != nil {
		return r, err
	}
	data, err := json.Marshal(r)
	if err != nil {
		return r, err
	}
	return r, os.WriteFile(kept, data, 0o666)
}

// reference is a file with the log-probabilities of the fp32 model.
func (b bench) reference(ctx context.Context, checkpoint, dir string) (string, error) {
	path := filepath.Join(dir, "reference.logits")
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	model := filepath.Join(dir, "model")
	if _, err := b.call(ctx, "build", checkpoint, "-o", model, "--force", "--precision", "none"); err != nil {
		return "", err
	}
	_, err := b.call(ctx, "eval", model, "--text", b.text, "--save-logits", path)
	return path, err
}

func (b bench) evaluate(ctx context.Context, model, reference string) (r result, err error) {
	out, err := b.call(ctx, "eval", model, "--reference-logits", reference, "-o", "json")
	if err != nil {
		return r, err
	}
	var measured struct {
		Divergence struct {
			KLD  struct{ Mean float64 }
			Top1 float64
		}
	}
	if err := json.Unmarshal(out, &measured); err != nil {
		return r, err
	}
	data, err := os.ReadFile(filepath.Join(model, "qwenrt.json"))
	if err != nil {
		return r, err
	}
	var manifest struct {
		Weights struct {
			Bits float64 `json:"bits_per_weight"`
		}
	}
	if err := json.Unmarshal(data, &manifest); err != nil {
		return r, err
	}
	return result{manifest.Weights.Bits, measured.Divergence.KLD.Mean, measured.Divergence.Top1}, nil
}

func (b bench) call(ctx context.Context, args ...string) ([]byte, error) {
	c := exec.CommandContext(ctx, b.binary, args...)
	var errs strings.Builder
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", b.binary, strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out, nil
}
