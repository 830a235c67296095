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
		&cli.StringFlag{Name: "device", Usage: "auto, cpu, cuda, coreml (or mps), or an execution provider's name", Value: string(accelerate.DefaultDevice)},
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

// config puts the flags of a command on what --config and --preset say. The error lists all that is wrong with any of them.
func config(c *cli.Context) (accelerate.Config, error) {
	return configOver(c, func(*accelerate.Config) {})
}

// configOver is config with what a command wants where file and flags say nothing.
func configOver(c *cli.Context, fill func(*accelerate.Config)) (accelerate.Config, error) {
	conf, faults := baseConfig(c)
	faults = append(faults, overConfig(c, &conf)...)
	faults = append(faults, quantizeConfig(c, &conf)...)
	fill(&conf)
	if err := conf.Validate(); err != nil {
		faults = append(faults, faultText(err))
	}
	if len(faults) > 0 {
		return conf, commandUsage(c, "%s", strings.Join(faults, "; "))
	}
	return conf, nil
}

// faultText is an error as a part of a list, less the package that it is of.
func faultText(err error) string {
	return strings.TrimPrefix(strings.TrimPrefix(err.Error(), "quantize: "), "accelerate: ")
}

// baseConfig is what --config and --preset say, and what is wrong with that.
func baseConfig(c *cli.Context) (conf accelerate.Config, faults []string) {
	path, name := c.String("config"), c.String("preset")
	for _, flag := range []string{"config", "preset"} {
		if c.IsSet(flag) && c.String(flag) == "" {
			faults = append(faults, fmt.Sprintf("--%s is empty", flag))
		}
	}
	if path != "" && name != "" {
		faults = append(faults, "--preset or --config, not both; a file may name its preset")
	}
	if path != "" {
		var err error
		if conf, err = accelerate.ReadConfig(path); err != nil {
			faults = append(faults, faultText(err))
		}
	}
	if name != "" {
		p, err := accelerate.ParsePreset(name)
		if err != nil {
			return conf, append(faults, faultText(err))
		}
		p.Apply(&conf)
	}
	return conf, faults
}

// overConfig puts those flags on conf that were given, of the ones that the command has, and lists what is wrong with them.
func overConfig(c *cli.Context, conf *accelerate.Config) (faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	for _, name := range []string{"precision", "algo", "scale", "smoothquant", "range", "int8-weights", "dtype", "target", "calibration", "statistics", "attention", "kv", "kv-scales", "device", "compile", "provider"} {
		if c.IsSet(name) && c.String(name) == "" {
			fault("--%s is empty", name)
		}
	}
	for _, n := range []struct {
		name  string
		field *int
	}{{"threads", &conf.Threads}, {"prefill-chunk", &conf.PrefillChunk}, {"max-context", &conf.MaxContext}, {"slots", &conf.Slots}} {
		switch v, ok := c.Value(n.name).(int); {
		case !ok || !c.IsSet(n.name): // a benchmark's --threads is a list, which it reads itself
		case v < 1:
			fault("--%s is %d: want 1 or more", n.name, v)
		default:
			*n.field = v
		}
	}
	over(c, "prefix-cache", &conf.PrefixCache, c.Int64)
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
	over(c, "strict", &conf.Strict, c.Bool)
	if c.IsSet("fused-kernels") {
		conf.FusedKernels = new(c.Bool("fused-kernels"))
	}
	faults = append(faults, overProvider(c, conf)...)
	set, _ := c.Generic("set").(*assignments) // not all commands have it
	if set == nil {
		return faults
	}
	for _, a := range *set {
		key, value, ok := strings.Cut(a, "=")
		if !ok || key == "" {
			fault("--set %q: want KEY=VALUE", a)
		} else if err := conf.Set(key, value); err != nil {
			fault("--set %s: %s", a, faultText(err))
		}
	}
	return faults
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

// overProvider is overConfig for the flags of a provider.
func overProvider(c *cli.Context, conf *accelerate.Config) (faults []string) {
	if provider := c.String("provider"); provider != "" {
		if c.IsSet("device") {
			faults = append(faults, "--device or --provider, not both")
		}
		name, path, library := strings.Cut(provider, "=")
		if name == "" || library && path == "" {
			faults = append(faults, fmt.Sprintf("--provider %q: want NAME, or NAME=PATH for a plug-in's library", provider))
		}
		conf.Device, conf.ProviderLibrary = accelerate.Device(name), path
	}
	for _, option := range c.StringSlice("provider-option") {
		key, value, ok := strings.Cut(option, "=")
		if !ok || key == "" {
			faults = append(faults, fmt.Sprintf("--provider-option %q: want KEY=VALUE", option))
			continue
		}
		if conf.ProviderOptions == nil {
			conf.ProviderOptions = map[string]string{}
		}
		conf.ProviderOptions[key] = value
	}
	return faults
}
