package accelerate_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/quantize"
	"github.com/qwenrt/qwenrt/runner/accelerate"
)

func TestNew(t *testing.T) {
	c, err := accelerate.New()
	require.NoError(t, err)
	require.Equal(t, accelerate.Config{Precision: accelerate.None, Attention: accelerate.Flash}, c)
	c, err = accelerate.New(accelerate.WithPrecision(accelerate.Int4), accelerate.WithThreads(3), accelerate.With(func(c *accelerate.Config) { c.BlockSize = 64 }))
	require.NoError(t, err)
	require.Equal(t, accelerate.Config{Precision: accelerate.Int4, Attention: accelerate.Flash, Threads: 3, BlockSize: 64}, c)
	_, err = accelerate.New(accelerate.WithPrecision("int3"), accelerate.WithThreads(-1), accelerate.WithCompile("most"), accelerate.WithKV("fp8"), accelerate.WithAttention("none"))
	for _, fault := range []string{`precision "int3"`, "threads is -1", `compile "most"`, `kv "fp8"`, `attention "none"`} {
		require.ErrorContains(t, err, fault, "all faults at once")
	}
}

func TestPresets(t *testing.T) {
	for _, p := range accelerate.Presets() {
		_, err := accelerate.New(p.Apply)
		require.NoError(t, err, p.Name)
		found, err := accelerate.ParsePreset(p.Name)
		require.NoError(t, err)
		require.Equal(t, p.Doc, found.Doc)
	}
	_, err := accelerate.ParsePreset("fastest")
	require.ErrorContains(t, err, "development, cpu-production")
}

func TestReadConfig(t *testing.T) {
	for _, c := range []struct {
		why, text string
		want      accelerate.Config
		fault     string
	}{
		{"nothing", "", accelerate.Config{}, ""},
		{"YAML", "device: cpu\nprecision: dynamic_int8\nthreads: 3\nfused_kernels: false\nrules:\n  - '*head*=int8:b64'\n", accelerate.Config{
			Device: accelerate.CPU, Precision: "dynamic_int8", Threads: 3, FusedKernels: new(false),
			Rules: []quantize.Rule{{Match: "*head*", Precision: quantize.Int8, BlockSize: 64}},
		}, ""},
		{"JSON", `{"precision": "int4", "algorithm": "gptq", "calibration": {"samples": 8, "gptq": {"in_order": true}}, "provider_options": {"a": "b"}}`, accelerate.Config{
			Precision: accelerate.Int4, Method: quantize.GPTQ, ProviderOptions: map[string]string{"a": "b"},
			Calibration: accelerate.Calibration{Samples: 8, GPTQ: quantize.GPTQOptions{InOrder: true}},
		}, ""},
		{"a preset, and more", "preset: low-memory\nprefill_chunk: 32\n", accelerate.Config{
			Precision: accelerate.Int4, Device: accelerate.CPU, Attention: accelerate.MemoryEfficient, PrefillChunk: 32, PrepackWeights: true,
		}, ""},
		{"a slip of the pen, with its place", "device: cpu\nthread: 3\n", accelerate.Config{}, `[2:1] unknown field "thread"`},
		{"another type", "threads: many\n", accelerate.Config{}, "[1:10]"},
		{"no such preset", "preset: fast\n", accelerate.Config{}, `preset "fast"`},
		{"no YAML", "a: [", accelerate.Config{}, "[1:"},
		{"a bad rule", "rules: ['x']\n", accelerate.Config{}, "GLOB=VALUE"},
		{"twice", "threads: 1\nthreads: 2\n", accelerate.Config{}, `"threads" already defined`},
	} {
		path := filepath.Join(t.TempDir(), "qwenrt.yaml")
		require.NoError(t, os.WriteFile(path, []byte(c.text), 0o666))
		got, err := accelerate.ReadConfig(path)
		if c.fault != "" {
			require.ErrorContains(t, err, c.fault, c.why)
			require.ErrorContains(t, err, path, c.why)
			require.NotContains(t, err.Error(), "\n", c.why)
			continue
		}
		require.NoError(t, err, c.why)
		require.Equal(t, c.want, got, c.why)
	}
	_, err := accelerate.ReadConfig(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
}
