package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/quantize"
	"github.com/qwenrt/qwenrt/quantize/calib"
	"github.com/qwenrt/qwenrt/runner/accelerate"
)

// boolFlag is a flag that is off unless it is there.
func boolFlag(name, usage string) cli.Flag {
	return &cli.BoolFlag{Name: name, Usage: usage, DisableDefaultText: true}
}

func outputFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "model folder to write"},
		boolFlag("force", "replace a model folder that is there"),
	}
}

func exportFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "dtype", Usage: "type of weights, activations and KV cache: fp32, fp16 or bf16", Value: string(accelerate.DefaultDType)},
	}
}

func optimizeFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "target", Usage: "execution provider: cpu, cuda or coreml", Value: string(accelerate.DefaultTarget)},
	}
}

// quantizeFlags take one of the given precisions.
func quantizeFlags(precisions []accelerate.Precision) []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "precision", Usage: "of the weights: " + words(precisions), Value: string(accelerate.DefaultPrecision)},
		&cli.StringFlag{Name: "algo", Usage: "how weights are rounded: " + words(quantize.Methods()), Value: string(accelerate.DefaultMethod)},
		&cli.StringFlag{Name: "scale", Usage: "of rtn: max, which spans a block, or mse, with the smallest squared error", Value: string(accelerate.DefaultScale)},
		&cli.IntFlag{Name: "block-size", Usage: "weights that share a scale: 16, 32, 64, 128 or 256", DefaultText: fmt.Sprintf("%d; %d beside integers", accelerate.DefaultBlockSize, accelerate.IntegerBlockSize)},
		&cli.BoolFlag{Name: "symmetric", Usage: "no zero points; --symmetric=false for those", Value: accelerate.DefaultSymmetric},
		&cli.StringFlag{Name: "smoothquant", Usage: "even out activation channels: auto (on calibration text), weights (where those show outliers), off, or an `ALPHA` from 0 to 1", DefaultText: "auto in integers, weights in blocks"},
		&cli.Float64Flag{Name: "least-snr", Usage: "products that are expected to have less than so many `DECIBELS` of signal to noise in integers take blocks of 8 bits; 0 is no limit", Value: accelerate.DefaultLeastSNR},
		&cli.StringFlag{Name: "range", Usage: "how static-int8 finds ranges of activations: " + words(quantize.RangeMethods()), Value: string(quantize.RangeMinMax)},
		boolFlag("symmetric-range", "centre the ranges of static-int8 on 0"),
		&cli.StringFlag{Name: "int8-weights", Usage: "levels of weights in dynamic-int8 and static-int8: " + words(quantize.Int8Ranges()), Value: string(quantize.SignedInt8)},
		boolFlag("half-scales", "store scales in fp16: smaller, and widened while the model is loaded"),
		&cli.IntFlag{Name: "accuracy-level", Usage: "type of the products: 1 fp32, 2 fp16, 3 bf16, 4 int8", Value: accelerate.DefaultAccuracy},
		&cli.StringSliceFlag{Name: "rule", Usage: "what to do with some weights, as `GLOB=VALUE`: keep, or int8, b64, sym, asym, gptq, level1 ... joined by colons; later ones count"},
		&cli.Float64Flag{Name: "target-bits", Usage: "mean `BITS` a weight, spent where they change predictions most", DefaultText: "off"},
		&cli.StringFlag{Name: "calibration", Usage: "text `FILE` for gptq, awq, smoothquant, target bits and KV caches: plain, or lines of JSON", DefaultText: "built in"},
		&cli.IntFlag{Name: "samples", Usage: "calibration samples", DefaultText: fmt.Sprintf("%d; %d for smoothquant, ranges and KV caches", calib.DefaultSamples, calib.SmoothSamples)},
		&cli.IntFlag{Name: "seq-len", Usage: "tokens in a calibration sample", Value: calib.DefaultLength},
		&cli.Uint64Flag{Name: "seed", Usage: "of the places where calibration samples begin"},
		&cli.StringFlag{Name: "statistics", Usage: "`FILE` that keeps what awq and smoothquant observe: what is there is read, what is not is added", DefaultText: "none"},
		&cli.Float64Flag{Name: "damping", Usage: "of gptq, as a part of the mean second moment of a product's inputs", Value: quantize.DefaultDamping},
		boolFlag("in-order", "let gptq round inputs as they are stored, not the largest first"),
		&cli.StringFlag{Name: "kv-scales", Usage: "of a quantised KV cache: channel, or tensor, one for all keys of a layer", Value: string(accelerate.DefaultKVScales)},
		boolFlag("report", "print what became of each weight"),
	}
}

// words joins values for a usage text.
func words[T ~string](all []T) string {
	list := make([]string, len(all))
	for i, v := range all {
		list[i] = string(v)
	}
	return strings.Join(list, ", ")
}

// quantizeConfig is overConfig for the flags of quantizeFlags.
func quantizeConfig(c *cli.Context, conf *accelerate.Config) (faults []string) {
	fault := func(err error) {
		if err != nil {
			faults = append(faults, faultText(err))
		}
	}
	var err error
	if c.IsSet("algo") {
		conf.Method, err = quantize.ParseMethod(c.String("algo"))
		fault(err)
	}
	over(c, "precision", (*string)(&conf.Precision), c.String)
	if c.IsSet("int8-weights") {
		conf.Integers.Weights, err = quantize.ParseInt8Weights(c.String("int8-weights"))
		fault(err)
	}
	if c.IsSet("range") {
		conf.Integers.Range, err = quantize.ParseRangeMethod(c.String("range"))
		fault(err)
	}
	if c.IsSet("least-snr") {
		conf.Integers.LeastSNR = new(c.Float64("least-snr"))
	}
	over(c, "symmetric-range", &conf.Integers.SymmetricRange, c.Bool)
	over(c, "smoothquant", (*string)(&conf.SmoothQuant), c.String)
	if c.IsSet("scale") {
		conf.Scale, err = quantize.ParseScale(c.String("scale"))
		fault(err)
	}
	if c.IsSet("rule") {
		conf.Rules = nil // those of a configuration file give way
	}
	for _, s := range c.StringSlice("rule") {
		r, err := quantize.ParseRule(s)
		fault(err)
		conf.Rules = append(conf.Rules, r)
	}
	// 0 asks for the default in a Config; typed, it is a mistake.
	for _, name := range []string{"block-size", "accuracy-level", "target-bits", "samples", "seq-len", "damping"} {
		if v := c.Value(name); c.IsSet(name) && (v == 0 || v == 0.0) {
			faults = append(faults, fmt.Sprintf("--%s is 0", name))
		}
	}
	if c.IsSet("block-size") {
		conf.BlockSize = c.Int("block-size")
	}
	if c.IsSet("symmetric") {
		conf.Symmetric = new(c.Bool("symmetric"))
	}
	if c.IsSet("accuracy-level") {
		conf.AccuracyLevel = c.Int("accuracy-level")
	}
	over(c, "half-scales", &conf.HalfScales, c.Bool)
	over(c, "kv-scales", (*string)(&conf.KVScales), c.String)
	over(c, "target-bits", &conf.TargetBits, c.Float64)
	k := &conf.Calibration
	over(c, "calibration", &k.File, c.String)
	over(c, "samples", &k.Samples, c.Int)
	over(c, "seq-len", &k.Length, c.Int)
	if c.Value("samples") != nil { // elsewhere the seed is that of something else
		over(c, "seed", &k.Seed, c.Uint64)
	}
	over(c, "statistics", &k.Statistics, c.String)
	over(c, "damping", &k.GPTQ.Damping, c.Float64)
	over(c, "in-order", &k.GPTQ.InOrder, c.Bool)
	return faults
}

func (p *program) buildCommand() *cli.Command {
	return &cli.Command{
		Name:      "build",
		Usage:     "make a checkpoint into a model folder, in one step",
		ArgsUsage: "HF_DIR",
		UsageText: "qwenrt build HF_DIR -o OUT [options]",
		Description: "The same as export, optimize and quantize in a row, without folders in between.\n" + checkpointHelp + "\n\n" +
			"Example: qwenrt build Qwen3-0.6B -o qwen3-int4",
		Flags: slices.Concat(outputFlags(), exportFlags(), optimizeFlags(), quantizeFlags(accelerate.Precisions()), configFlags(), graphFlags(), hubFlags(), []cli.Flag{
			&cli.StringSliceFlag{Name: "disable", Usage: "passes of the optimiser to leave out, as `NAME,...`"},
			boolFlag("lenient", "go on where the target has no kernel, and say so"),
		}),
		Action: func(c *cli.Context) error {
			return p.fromCheckpoint(c, accelerate.Build, "qwenrt run %s -p 'What is a harbor?'")
		},
	}
}

type (
	checkpointWork = func(context.Context, accelerate.Source, accelerate.Output, accelerate.Config, accelerate.Events) (*accelerate.Report, error)
	folderWork     = func(context.Context, string, accelerate.Output, accelerate.Config, accelerate.Events) (*accelerate.Report, error)
)

// fromCheckpoint makes a model folder out of a checkpoint. next is the command to type after it.
func (p *program) fromCheckpoint(c *cli.Context, work checkpointWork, next string) error {
	return p.make(c, next, func(arg string, out accelerate.Output, conf accelerate.Config, e accelerate.Events) (*accelerate.Report, error) {
		source, err := p.checkpoint(c, arg)
		if err != nil {
			return nil, err
		}
		return work(c.Context, source, out, conf, e)
	})
}

// fromFolder makes a model folder out of another.
func (p *program) fromFolder(c *cli.Context, work folderWork, next string) error {
	return p.make(c, next, func(arg string, out accelerate.Output, conf accelerate.Config, e accelerate.Events) (*accelerate.Report, error) {
		return work(c.Context, arg, out, conf, e)
	})
}

type makeFunc = func(arg string, out accelerate.Output, conf accelerate.Config, e accelerate.Events) (*accelerate.Report, error)

func (p *program) make(c *cli.Context, next string, work makeFunc) error {
	arg, err := argument(c)
	if err != nil {
		return err
	}
	conf, err := config(c)
	if err != nil {
		return err
	}
	out := accelerate.Output{Dir: c.String("output"), Replace: c.Bool("force")}
	if out.Dir == "" {
		return commandUsage(c, "missing -o OUT")
	}
	progress := newProgress(p.stderr)
	defer progress.done()
	report, err := work(arg, out, conf, progress.events())
	if err != nil {
		return err
	}
	progress.done()
	if c.Bool("report") && report.Quantization != nil {
		if err := writeQuantization(p.stdout, report.Quantization); err != nil {
			return err
		}
	}
	text := summary(report) + "\n"
	text += integers(report) + smoothed(report.Smoothing)
	if report.Missing != "" {
		text += "no kernel: " + report.Missing + "\n"
	}
	_, err = fmt.Fprintf(p.stdout, "%snext: %s\n", text, fmt.Sprintf(next, shellWord(out.Dir)))
	return err
}

// smoothed is a line about activations that were evened out.
func smoothed(all []quantize.Smoothing) string {
	count, before, after := 0, math.Inf(1), math.Inf(1)
	for _, s := range all {
		if s.Into != "" {
			count, before, after = count+1, min(before, s.Before), min(after, s.After)
		}
	}
	if count == 0 {
		return ""
	}
	return fmt.Sprintf("smoothed: %d inputs of products; the worst is expected to have %.1f dB of signal to noise (before: %.1f)\n", count, after, before)
}

// integers says which products are computed in integers, and which are not though that was asked for.
func integers(r *accelerate.Report) string {
	if r.Quantization == nil {
		return ""
	}
	var text strings.Builder
	count := 0
	for _, t := range r.Quantization.Tensors {
		switch {
		case t.Reason != "":
			fmt.Fprintf(&text, "not in integers: %s (%s)\n", t.Tensor, t.Reason)
		case t.Method == quantize.Method(quantize.DynamicInt8), t.Method == quantize.Method(quantize.StaticInt8):
			count++
		}
	}
	if count > 0 {
		fmt.Fprintf(&text, "in integers: %d products\n", count)
	}
	return text.String()
}

// summary is a line about a model folder that has been made.
func summary(r *accelerate.Report) string {
	nodes := fmt.Sprintf("%d nodes", r.NodesAfter)
	if r.NodesBefore != r.NodesAfter {
		nodes = fmt.Sprintf("%d → %d nodes", r.NodesBefore, r.NodesAfter)
	}
	parts := []string{nodes, bytesText(r.Bytes)}
	if r.BitsPerWeight > 0 {
		parts = append(parts, fmt.Sprintf("%.2f bits a weight", r.BitsPerWeight))
	}
	parts = append(parts, fmt.Sprintf("%.1f s", r.Elapsed.Seconds()))
	return r.Dir + ": " + strings.Join(parts, ", ")
}

// shellWord quotes a path that a shell would take apart.
func shellWord(s string) string {
	if strings.ContainsAny(s, " \t\n'\"\\$`!*?[](){}<>|&;~#") {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}
