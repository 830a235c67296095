package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/models/folder"
)

// Flags reach what is built: each is looked for in the manifest of a small model.
func TestQuantizeFlags(t *testing.T) {
	dir := t.TempDir()
	fused, out := filepath.Join(dir, "fused"), filepath.Join(dir, "out")
	require.Equal(t, exitOK, qwenrt(t, "build", small, "-o", fused, "--precision", "none").code)
	for _, c := range []struct {
		why   string
		flags []string
		want  func(q folder.QuantizedTensor) bool
	}{
		{"defaults", nil, func(q folder.QuantizedTensor) bool {
			return q.Method == "rtn" && q.Scale == "mse" && q.Bits == 4 && q.BlockSize == 32 && q.Symmetric && (q.AccuracyLevel == 4 || q.AccuracyLevel == 0) && q.SNR > 10
		}},
		{"underscores and capitals", []string{"--algo", "RTN", "--scale", "MAX", "--accuracy-level", "1"}, func(q folder.QuantizedTensor) bool {
			return q.Method == "rtn" && q.Scale == "max" && q.AccuracyLevel <= 1
		}},
		{"hqq", []string{"--algo", "hqq", "--symmetric=false", "--block-size", "16"}, func(q folder.QuantizedTensor) bool {
			return q.Method == "hqq" && q.Scale == "" && !q.Symmetric && q.BlockSize == 16
		}},
		{"the later rule counts", []string{"--rule", "*=int8", "--rule", "*=int4:b64:asym"}, func(q folder.QuantizedTensor) bool {
			return q.Bits == 4 && q.BlockSize == 64 && !q.Symmetric
		}},
		{"products in integers", []string{"--precision", "Dynamic_INT8", "--int8-weights", "S7", "--smoothquant", "off"}, func(q folder.QuantizedTensor) bool {
			if strings.HasPrefix(q.Name, "model.layers.") {
				return q.Method == "dynamic-int8" && q.BlockSize == 0
			}
			return q.Method == "rtn" && q.Bits == 8 && q.BlockSize == 128 // embedding and head
		}},
		{"all but some products in integers", []string{"--precision", "dynamic-int8", "--smoothquant", "off", "--rule", "*.layers.*=int8", "--rule", "*.1.*=dynamic-int8"}, func(q folder.QuantizedTensor) bool {
			return (q.Method == "dynamic-int8") == strings.Contains(q.Name, ".1.") && q.Bits == 8
		}},
	} {
		r := qwenrt(t, append([]string{"quantize", fused, "-o", out, "--force", "--report"}, c.flags...)...)
		require.Equal(t, exitOK, r.code, r.stderr)
		m, err := folder.ReadManifest(out)
		require.NoError(t, err)
		require.NotEmpty(t, m.Quantization)
		for _, q := range m.Quantization {
			require.True(t, c.want(q), "%s: %+v", c.why, q)
			require.Contains(t, r.stdout, q.Name, "the report")
		}
		require.Contains(t, r.stdout, "bits a weight")
	}
}

func TestKVFlags(t *testing.T) {
	dir := t.TempDir()
	fused, out := filepath.Join(dir, "fused"), filepath.Join(dir, "out")
	require.Equal(t, exitOK, qwenrt(t, "build", "qwen3-tiny", "-o", fused, "--precision", "none").code)
	text := filepath.Join(dir, "text")
	require.NoError(t, os.WriteFile(text, []byte(strings.Repeat("A harbor is a sheltered port. ", 20)), 0o666))
	for _, c := range []struct {
		command, in string
		flags       []string
		want        folder.KVCache
		weights     bool // are quantised too
	}{
		{"quantize", fused, []string{"--precision", "none", "--kv", "int8"}, folder.KVCache{DType: "int8", Bits: 8, Scales: "channel"}, false},
		{"quantize", fused, []string{"--kv", "int4"}, folder.KVCache{DType: "uint8", Bits: 4, Scales: "channel"}, true},
		{"build", "qwen3-tiny", []string{"--precision", "none", "--kv", "int8", "--kv-scales", "tensor"}, folder.KVCache{DType: "int8", Bits: 8, Scales: "tensor"}, false},
		{"build", "qwen3-tiny", []string{"--kv", "fp32"}, folder.KVCache{DType: "float32"}, true},
	} {
		r := qwenrt(t, append([]string{c.command, c.in, "-o", out, "--force", "--calibration", text, "--seq-len", "16"}, c.flags...)...)
		require.Equal(t, exitOK, r.code, r.stderr)
		m, err := folder.ReadManifest(out)
		require.NoError(t, err)
		require.Equal(t, c.want, m.KVCache, c.flags)
		require.Equal(t, c.weights, len(m.Quantization) > 0, c.flags)
	}
}

// Static INT8 from flags to report, on the model that has a tokenizer.
func TestQuantizeStatic(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	r := qwenrt(t, "build", "qwen3-tiny", "-o", out, "--report", "--precision", "static_int8", "--range", "MSE", "--symmetric-range",
		"--least-snr", "0", "--samples", "2", "--seq-len", "32", "--rule", "*.down_proj.*=int8")
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Contains(t, r.stdout, "in integers: 24 products")
	require.Contains(t, r.stdout, "smoothed: ")
	m, err := folder.ReadManifest(out)
	require.NoError(t, err)
	for _, q := range m.Quantization {
		integers := strings.HasPrefix(q.Name, "model.layers.") && !strings.Contains(q.Name, "down_proj")
		require.Equal(t, integers, q.Method == "static-int8", q.Name)
		require.Equal(t, integers, q.ProductSNR > 0, q.Name)
	}
	options := m.Steps[len(m.Steps)-1].Options
	require.Equal(t, "mse", options["range"])
	require.Equal(t, "true", options["symmetric_range"])
	require.Equal(t, "auto", options["smoothquant"])
	require.Equal(t, "0", options["least_snr_db"])
}

func TestQuantizeFlagFaults(t *testing.T) {
	for _, c := range []struct {
		flags []string
		text  string
	}{
		{[]string{"--algo", "best"}, `method "best": it must be rtn, hqq`},
		{[]string{"--scale", "min"}, `scale "min": it must be max or mse`},
		{[]string{"--rule", "model"}, "want GLOB=VALUE"},
		{[]string{"--rule", "*=int5"}, `"int5": want keep, int4`},
		{[]string{"--accuracy-level", "5"}, "accuracy level 5: it must be 1 to 4"},
		{[]string{"--accuracy-level", "0"}, "--accuracy-level is 0"},
		{[]string{"--target-bits", "0"}, "--target-bits is 0"},
		{[]string{"--target-bits", "4.6", "--block-size", "32"}, "target bits choose precision and block size"},
		{[]string{"--block-size", "48"}, "block size 48"},
		{[]string{"--precision", "int16"}, `precision "int16": want none, fp16, bf16, int4, int8, dynamic-int8 or static-int8`},
		{[]string{"--int8-weights", "s9"}, `int8 weights "s9": it must be s8, s7 or u8`},
		{[]string{"--smoothquant", "2"}, `smoothquant "2": want auto, weights, off, or an alpha from 0 to 1`},
		{[]string{"--range", "mse"}, "precision int4 computes no products in integers"},
		{[]string{"--precision", "static-int8", "--range", "best"}, `range "best": it must be minmax, average`},
		{[]string{"--rule", "*=static-int8"}, "ranges of activations are found for a model in static-int8 alone"},
		{[]string{"--rule", "*=dynamic-int8:b32"}, "dynamic-int8 has no blocks"},
		{[]string{"--algo", ""}, "--algo is empty"},
		{[]string{"--kv", "int2"}, `kv "int2": want fp32, fp16, bf16, int8 or int4`},
		{[]string{"--kv", ""}, "--kv is empty"},
		{[]string{"--kv-scales", "tensor"}, "no quantised KV cache"},
		{[]string{"--samples", "-1"}, "-1 calibration samples"},
	} {
		r := qwenrt(t, append([]string{"build", small, "-o", filepath.Join(t.TempDir(), "out")}, c.flags...)...)
		require.Equal(t, exitUsage, r.code, "%v: %s", c.flags, r.stderr)
		require.Contains(t, r.stderr, c.text)
	}
}

// What only the model can tell is an error too, and leaves nothing behind.
func TestRuleThatMatchesNothing(t *testing.T) {
	dir := t.TempDir()
	r := qwenrt(t, "build", small, "-o", filepath.Join(dir, "out"), "--rule", "lm_haed*=int8")
	require.Equal(t, exitError, r.code)
	require.Contains(t, r.stderr, `rule "lm_haed*=int8" matches no weight`)
	require.Empty(t, names(t, dir))
}
