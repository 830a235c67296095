package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/urfave/cli/v2"

	"github.com/qwenrt/qwenrt/quantize"
	"github.com/qwenrt/qwenrt/runner/accelerate"
)

// TestConfig holds that each flag which is about the configuration sets what it is about, and nothing else.
func TestConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "qwenrt.yaml")
	require.NoError(t, os.WriteFile(file, []byte("threads: 3\nrules: ['*=int8']\nprovider_options: {a: b}\ndevice: Mine\n"), 0o666))
	filed := accelerate.Config{Threads: 3, Device: "Mine", ProviderOptions: map[string]string{"a": "b"}, Rules: []quantize.Rule{{Match: "*", Precision: quantize.Int8}}}
	with := func(c accelerate.Config, set func(*accelerate.Config)) accelerate.Config {
		set(&c)
		return c
	}
	p := &program{}
	runs, builds, optimizes := p.runCommand, p.buildCommand, p.optimizeCommand // anew in each row: flags keep their values
	tried := map[string]bool{}
	for _, c := range []struct {
		command func() *cli.Command
		args    []string // the flag that is tried is the first
		want    accelerate.Config
	}{
		{runs, nil, accelerate.Config{}},
		{runs, []string{"--config", file}, filed},
		{runs, []string{"--preset", "low-memory"}, accelerate.Config{
			Precision: accelerate.Int4, Device: accelerate.CPU, Attention: accelerate.MemoryEfficient, PrefillChunk: 64, PrepackWeights: true,
		}},
		{runs, []string{"--set", "spin=off", "--set", "rules=['a=int8']"}, accelerate.Config{Spin: accelerate.SpinOff, Rules: []quantize.Rule{{Match: "a", Precision: quantize.Int8}}}},
		{runs, []string{"--precision", "int8"}, accelerate.Config{Precision: accelerate.Int8}},
		{runs, []string{"--block-size", "64"}, accelerate.Config{BlockSize: 64}},
		{runs, []string{"--dtype", "fp16"}, accelerate.Config{DType: accelerate.FP16}},
		{runs, []string{"--attention", "plain"}, accelerate.Config{Attention: accelerate.Plain}},
		{runs, []string{"--fused-kernels=false"}, accelerate.Config{FusedKernels: new(false)}},
		{runs, []string{"--kv", "int8"}, accelerate.Config{KV: accelerate.KVInt8}},
		{runs, []string{"--device", "cuda"}, accelerate.Config{Device: accelerate.CUDA}},
		{runs, []string{"--device-id", "1"}, accelerate.Config{DeviceID: 1}},
		{runs, []string{"--provider", "Mine"}, accelerate.Config{Device: "Mine"}},
		{runs, []string{"--provider", "Mine=lib/mine.so"}, accelerate.Config{Device: "Mine", ProviderLibrary: "lib/mine.so"}},
		{runs, []string{"--provider-option", "a=b=c", "--provider-option", "d=", "--device", "Mine"}, accelerate.Config{Device: "Mine", ProviderOptions: map[string]string{"a": "b=c", "d": ""}}},
		{runs, []string{"--provider-option", "c=d", "--config", file}, with(filed, func(c *accelerate.Config) { c.ProviderOptions = map[string]string{"a": "b", "c": "d"} })},
		{runs, []string{"--compile", "reduce_overhead"}, accelerate.Config{Compile: accelerate.ReduceOverhead}},
		{runs, []string{"--prepack-weights"}, accelerate.Config{PrepackWeights: true}},
		{runs, []string{"--max-context", "99"}, accelerate.Config{MaxContext: 99}},
		{runs, []string{"--strict"}, accelerate.Config{Strict: true}},
		{runs, []string{"--threads", "2", "--config", file}, with(filed, func(c *accelerate.Config) { c.Threads = 2 })},
		{runs, []string{"--prefill-chunk", "8"}, accelerate.Config{PrefillChunk: 8}},
		{runs, []string{"--slots", "4"}, accelerate.Config{Slots: 4}},
		{p.benchCommand, []string{"-t", "2,1", "--config", file}, filed}, // a list is bench's own
		{builds, []string{"--target", "cuda", "--dtype", "fp16"}, accelerate.Config{Target: "cuda", DType: accelerate.FP16}},
		{builds, []string{"--algo", "awq_gptq"}, accelerate.Config{Method: quantize.AWQGPTQ}},
		{builds, []string{"--scale", "MAX"}, accelerate.Config{Scale: quantize.ScaleMax}},
		{builds, []string{"--symmetric=false"}, accelerate.Config{Symmetric: new(false)}},
		{builds, []string{"--smoothquant", "off"}, accelerate.Config{SmoothQuant: accelerate.SmoothOff}},
		{builds, []string{"--least-snr", "0", "--precision", "dynamic_int8"}, accelerate.Config{Precision: "dynamic_int8", Integers: accelerate.Integers{LeastSNR: new(0.0)}}},
		{builds, []string{"--range", "average", "--precision", "static-int8"}, accelerate.Config{Precision: accelerate.StaticInt8, Integers: accelerate.Integers{Range: quantize.RangeAverage}}},
		{builds, []string{"--symmetric-range", "--precision", "static-int8"}, accelerate.Config{Precision: accelerate.StaticInt8, Integers: accelerate.Integers{SymmetricRange: true}}},
		{builds, []string{"--int8-weights", "s7", "--precision", "dynamic-int8"}, accelerate.Config{Precision: accelerate.DynamicInt8, Integers: accelerate.Integers{Weights: quantize.ReducedInt8}}},
		{builds, []string{"--half-scales"}, accelerate.Config{HalfScales: true}},
		{builds, []string{"--accuracy-level", "1"}, accelerate.Config{AccuracyLevel: 1}},
		{builds, []string{"--rule", "a=int8", "--rule", "b=keep", "--config", file}, with(filed, func(c *accelerate.Config) {
			c.Rules = []quantize.Rule{{Match: "a", Precision: quantize.Int8}, {Match: "b", Keep: true}}
		})},
		{builds, []string{"--target-bits", "4.5"}, accelerate.Config{TargetBits: 4.5}},
		{builds, []string{"--calibration", "text"}, accelerate.Config{Calibration: accelerate.Calibration{File: "text"}}},
		{builds, []string{"--samples", "7"}, accelerate.Config{Calibration: accelerate.Calibration{Samples: 7}}},
		{builds, []string{"--seq-len", "8"}, accelerate.Config{Calibration: accelerate.Calibration{Length: 8}}},
		{builds, []string{"--seed", "9"}, accelerate.Config{Calibration: accelerate.Calibration{Seed: 9}}},
		{builds, []string{"--statistics", "s", "--algo", "awq"}, accelerate.Config{Method: quantize.AWQ, Calibration: accelerate.Calibration{Statistics: "s"}}},
		{builds, []string{"--damping", "0.1", "--algo", "gptq"}, accelerate.Config{Method: quantize.GPTQ, Calibration: accelerate.Calibration{GPTQ: quantize.GPTQOptions{Damping: 0.1}}}},
		{builds, []string{"--in-order", "--algo", "gptq"}, accelerate.Config{Method: quantize.GPTQ, Calibration: accelerate.Calibration{GPTQ: quantize.GPTQOptions{InOrder: true}}}},
		{builds, []string{"--kv-scales", "tensor", "--kv", "int4"}, accelerate.Config{KV: accelerate.KVInt4, KVScales: accelerate.TensorScales}},
		{builds, []string{"--disable", "attention,silu"}, accelerate.Config{Disable: []string{"attention", "silu"}}},
		{builds, []string{"--lenient"}, accelerate.Config{Lenient: true}},
		{optimizes, []string{"--passes", "attention"}, accelerate.Config{Passes: []string{"attention"}}},
		{optimizes, []string{"--keep-fp32", "Softmax", "--dtype", "fp16"}, accelerate.Config{DType: accelerate.FP16, KeepFloat32: []string{"Softmax"}}},
		{optimizes, []string{"--narrow-logits", "--dtype", "fp16"}, accelerate.Config{DType: accelerate.FP16, NarrowLogits: true}},
		{optimizes, []string{"--sequence", "4", "--total", "8", "--target", "coreml"}, accelerate.Config{Target: "coreml", Sequence: 4, Total: 8}},
		{optimizes, []string{"--total", "8", "--sequence", "4", "--target", "coreml"}, accelerate.Config{Target: "coreml", Sequence: 4, Total: 8}},
	} {
		got, err := configOf(t, c.command(), c.args...)
		require.NoError(t, err, c.args)
		require.Equal(t, c.want, got, c.args)
		if len(c.args) > 0 {
			name, _, _ := strings.Cut(strings.TrimLeft(c.args[0], "-"), "=")
			tried[name] = true
		}
	}
	all := slices.Concat(runFlags(), quantizeFlags(accelerate.Precisions()), exportFlags(), optimizeFlags())
	for _, f := range all {
		if name := f.Names()[0]; name != "report" { // which is about the output
			require.True(t, tried[name], "--%s is in no row", name)
		}
	}
}

// configOf is what a command makes of flags.
func configOf(t *testing.T, command *cli.Command, args ...string) (conf accelerate.Config, err error) {
	t.Helper()
	app := &cli.App{Commands: []*cli.Command{{
		Name: command.Name, Flags: command.Flags,
		Action: func(c *cli.Context) error {
			conf, err = config(c)
			return nil
		},
	}}}
	require.NoError(t, app.Run(append([]string{"qwenrt", command.Name}, args...)), args)
	return conf, err
}
