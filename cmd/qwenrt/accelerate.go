package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/runner/accelerate"
)

// configFlags take a whole configuration, on which the other flags are put.
func configFlags() []cli.Flag {
	var presets []string
	for _, p := range accelerate.Presets() {
		presets = append(presets, p.Name)
	}
	return []cli.Flag{
		&cli.StringFlag{Name: "config", Usage: "configuration `FILE`, YAML or JSON; flags win over it", DefaultText: "none"},
		&cli.StringFlag{Name: "preset", Usage: "configuration for a purpose: " + strings.Join(presets, ", ") + "; file and flags win over it", DefaultText: "none"},
		&cli.GenericFlag{Name: "set", Usage: "any option of a configuration file, as `KEY=VALUE`: spin=off, session_entries.KEY=VALUE; wins over other flags, may be repeated", Value: &assignments{}},
	}
}

// graphFlags say what the graph is made of, beside precision.
func graphFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "attention", Usage: "flash, memory_efficient or plain", Value: string(accelerate.DefaultAttention)},
		&cli.BoolFlag{Name: "fused-kernels", Usage: "operators that do the work of several; --fused-kernels=false for ONNX's own", Value: true},
		kvFlag(),
	}
}

func kvFlag() cli.Flag {
	return &cli.StringFlag{Name: "kv", Usage: "type of the KV cache: fp32, fp16, bf16, int8 or int4", DefaultText: "that of the activations"}
}

// sessionFlags say how a model is run.
func sessionFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "device", Usage: "auto, cpu, cuda, coreml, or an execution provider's name", Value: string(accelerate.DefaultDevice)},
		&cli.IntFlag{Name: "device-id", Usage: "which of several devices"},
		&cli.StringFlag{Name: "provider", Usage: "execution provider to run on, as `NAME`, or NAME=PATH for a plug-in's library", DefaultText: "see --device"},
		&cli.StringSliceFlag{Name: "provider-option", Usage: "`KEY=VALUE` for the execution provider, in its own words; may be repeated"},
		&cli.StringFlag{Name: "compile", Usage: "what is done ahead: off, default, reduce_overhead or max_autotune", Value: string(accelerate.DefaultCompile)},
		boolFlag("prepack-weights", "keep weights on disk as kernels want them, and map them: twice the disk, less memory"),
		&cli.IntFlag{Name: "max-context", Usage: "tokens of prompt and answer together", DefaultText: "what the model allows"},
		boolFlag("strict", "make an error of what cannot be applied"),
	}
}

// runFlags are for commands that open a model, and make it where need be.
func runFlags() []cli.Flag {
	made := []cli.Flag{
		&cli.StringFlag{Name: "precision", Usage: "of the weights, where a model is made from a checkpoint: " + words(accelerate.Precisions()), Value: string(accelerate.DefaultPrecision)},
		&cli.IntFlag{Name: "block-size", Usage: "weights that share a scale: 16, 32, 64, 128 or 256", DefaultText: fmt.Sprint(accelerate.DefaultBlockSize)},
		&cli.StringFlag{Name: "dtype", Usage: "type of activations: fp32, fp16 or bf16", DefaultText: "the device's best"},
	}
	return append(append(append(configFlags(), made...), graphFlags()...), sessionFlags()...)
}

// baseConfig is what --config and --preset say.
func baseConfig(c *cli.Context) (conf accelerate.Config, err error) {
	for _, name := range []string{"config", "preset"} {
		if c.IsSet(name) && c.String(name) == "" {
			return conf, commandUsage(c, "--%s is empty", name)
		}
	}
	if path := c.String("config"); path != "" {
		if conf, err = accelerate.ReadConfig(path); err != nil {
			return conf, err
		}
	}
	if name := c.String("preset"); name != "" {
		if c.IsSet("config") {
			return conf, commandUsage(c, "--preset or --config, not both; a file may name its preset")
		}
		p, err := accelerate.ParsePreset(name)
		if err != nil {
			return conf, commandUsage(c, "%s", strings.TrimPrefix(err.Error(), "accelerate: "))
		}
		p.Apply(&conf)
	}
	return conf, nil
}

// config puts the flags of a command on what --config and --preset say.
func config(c *cli.Context) (accelerate.Config, error) {
	conf, err := baseConfig(c)
	if err != nil {
		return conf, err
	}
	if err := overConfig(c, &conf); err != nil {
		return conf, err
	}
	if err := quantizeConfig(c, &conf); err != nil {
		return conf, err
	}
	if err := conf.Validate(); err != nil {
		return conf, commandUsage(c, "%s", strings.TrimPrefix(err.Error(), "accelerate: "))
	}
	return conf, nil
}

// overConfig puts those flags on conf that were given, of the ones that the command has.
func overConfig(c *cli.Context, conf *accelerate.Config) error {
	for _, name := range []string{"precision", "algo", "scale", "smoothquant", "range", "int8-weights", "dtype", "target", "calibration", "statistics", "attention", "kv", "kv-scales", "device", "compile", "provider"} {
		if c.IsSet(name) && c.String(name) == "" {
			return commandUsage(c, "--%s is empty", name)
		}
	}
	for _, name := range []string{"threads", "prefill-chunk", "max-context"} {
		// A benchmark's --threads is a list, which it reads itself.
		if v, ok := c.Value(name).(int); ok && c.IsSet(name) && v < 1 {
			return commandUsage(c, "--%s is %d: want 1 or more", name, v)
		}
	}
	over(c, "dtype", (*string)(&conf.DType), c.String)
	over(c, "target", (*string)(&conf.Target), c.String)
	over(c, "passes", &conf.Passes, c.StringSlice)
	over(c, "disable", &conf.Disable, c.StringSlice)
	over(c, "keep-fp32", &conf.KeepFloat32, c.StringSlice)
	over(c, "narrow-logits", &conf.NarrowLogits, c.Bool)
	over(c, "lenient", &conf.Lenient, c.Bool)
	over(c, "sequence", &conf.Sequence, c.Int64)
	over(c, "total", &conf.Total, c.Int64)
	over(c, "attention", (*string)(&conf.Attention), c.String)
	over(c, "kv", (*string)(&conf.KV), c.String)
	over(c, "device", (*string)(&conf.Device), c.String)
	over(c, "device-id", &conf.DeviceID, c.Int)
	over(c, "compile", (*string)(&conf.Compile), c.String)
	over(c, "prepack-weights", &conf.PrepackWeights, c.Bool)
	over(c, "threads", &conf.Threads, c.Int)
	over(c, "prefill-chunk", &conf.PrefillChunk, c.Int)
	over(c, "max-context", &conf.MaxContext, c.Int)
	over(c, "slots", &conf.Slots, c.Int)
	over(c, "strict", &conf.Strict, c.Bool)
	if c.IsSet("fused-kernels") {
		conf.FusedKernels = new(c.Bool("fused-kernels"))
	}
	if err := overProvider(c, conf); err != nil {
		return err
	}
	set, _ := c.Generic("set").(*assignments) // not all commands have it
	if set == nil {
		return nil
	}
	for _, a := range *set {
		key, value, ok := strings.Cut(a, "=")
		if !ok || key == "" {
			return commandUsage(c, "--set %q: want KEY=VALUE", a)
		}
		if err := conf.Set(key, value); err != nil {
			return commandUsage(c, "--set %s: %s", a, strings.TrimPrefix(err.Error(), "accelerate: "))
		}
	}
	return nil
}

// assignments are the values of a flag that is repeated, and that may have commas in it.
type assignments []string

func (a *assignments) Set(value string) error {
	*a = append(*a, value)
	return nil
}

func (a *assignments) String() string { return strings.Join(*a, " ") }

// over sets a field to the value of a flag that was given.
func over[T any](c *cli.Context, name string, field *T, value func(string) T) {
	if c.IsSet(name) {
		*field = value(name)
	}
}

func overProvider(c *cli.Context, conf *accelerate.Config) error {
	if c.IsSet("provider") {
		if c.IsSet("device") {
			return commandUsage(c, "--device or --provider, not both")
		}
		name, path, _ := strings.Cut(c.String("provider"), "=")
		conf.Device, conf.ProviderLibrary = accelerate.Device(name), path
	}
	for _, option := range c.StringSlice("provider-option") {
		key, value, ok := strings.Cut(option, "=")
		if !ok || key == "" {
			return commandUsage(c, "--provider-option %q: want KEY=VALUE", option)
		}
		if conf.ProviderOptions == nil {
			conf.ProviderOptions = map[string]string{}
		}
		conf.ProviderOptions[key] = value
	}
	return nil
}
