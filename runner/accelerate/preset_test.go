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
		{"a slip of the pen, with its place", "device: cpu\nthread: 3\n", accelerate.Config{}, `[2:1] there is no option "thread"`},
		{"another type", "threads: many\n", accelerate.Config{}, `[1:10] threads "many": want a whole number`},
		{"no such preset", "preset: fast\n", accelerate.Config{}, `preset "fast"`},
		{"all faults, with their places", "preset: fast\nthread: 1\nprefill_chunk: 1.5\ncalibration:\n  sample: 2\n  seed: -1\ncompiles: off\n", accelerate.Config{},
			`[1:9] preset: preset "fast": want development, cpu-production, gpu-production, apple or low-memory; [2:1] there is no option "thread"; ` +
				`[3:16] prefill_chunk "1.5": want a whole number; [5:3] there is no option "calibration.sample"; ` +
				`[6:9] calibration.seed "-1": want a whole number, 0 or more; [7:1] there is no option "compiles"`},
		{"all faults in JSON", `{"threads": "2", "strict": 1, "rules": [{}, "x"], "passes": "a", "session_entries": {"a": []}, "kv": {}, "integers": 3}`, accelerate.Config{},
			`[1:13] threads "2": want a whole number; [1:28] strict "1": want true or false; [1:41] rules: want text; [1:45] rules: rule "x": want GLOB=VALUE, such as ` +
				`'model.layers.0.*=int8'; [1:61] passes "a": want a list; [1:91] session_entries.a: want text; [1:102] kv: want text; [1:118] integers "3": want options, each as NAME: VALUE`},
		{"numbers", "threads: 0x10\ntarget_bits: 5\ncalibration: {seed: 18446744073709551615, gptq: {damping: 1e-3}}\nprovider_library: 1.50\n", accelerate.Config{
			Threads: 16, TargetBits: 5, ProviderLibrary: "1.50",
			Calibration: accelerate.Calibration{Seed: 1<<64 - 1, GPTQ: quantize.GPTQOptions{Damping: 1e-3}},
		}, ""},
		{"too many digits", "threads: 99999999999999999999\nqueue: 9223372036854775808\n", accelerate.Config{}, `[1:10] threads "99999999999999999999": want a whole number; [2:8] queue`},
		{"a quoted number", "least: 1\nintegers: {least_snr: '3'}\n", accelerate.Config{}, `least_snr "3": want a number`},
		{"the default, of a preset's too", "preset: low-memory\nprefill_chunk:\nprepack_weights: null\ndevice: cpu\nattention: ~\n", accelerate.Config{Precision: accelerate.Int4, Device: accelerate.CPU}, ""},
		{"a list", "- threads\n", accelerate.Config{}, "[1:1] want options"},
		{"two documents", "threads: 1\n---\nthreads: 2\n", accelerate.Config{}, "2 documents: want one"},
		{"no YAML", "a: [", accelerate.Config{}, "[1:"},
		{"a bad rule", "rules: ['x']\n", accelerate.Config{}, "GLOB=VALUE"},
		{"twice", "threads: 1\nthreads: 2\n", accelerate.Config{}, "[2:1] threads is there twice"},
		{"an entry twice", "session_entries: {a: 1, a: 2}\n", accelerate.Config{}, "session_entries.a is there twice"},
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
	c, err := accelerate.ParseConfig([]byte("preset: low-memory\nthread: 2\nthreads: 3\nblock_size: many\nqueue: -1\n"))
	require.Error(t, err)
	require.Equal(t, accelerate.MemoryEfficient, c.Attention, "what is right is read")
	require.Equal(t, 3, c.Threads)
	require.ErrorContains(t, c.Validate(), "queue is -1", "so that the rest can be checked")
	_, err = accelerate.ReadConfig(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// FuzzParseConfig holds that any text gives a configuration or an error of one line.
func FuzzParseConfig(f *testing.F) {
	for _, text := range []string{
		"", "device: cpu\nthreads: 3\nrules: ['*head*=int8:b64']\n", `{"calibration": {"gptq": {"damping": 0.5}}, "provider_options": {"a": "b"}}`,
		"preset: apple\nprovider_options:\n  a: |\n    b\n", "threads: 1\nthreads: 2", "? a\n: b", "<<: *x", "a: &x [*x]", "- 1", "kv: !!str 8", "a: [", "integers: {least_snr: .nan}",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := accelerate.ParseConfig(text)
		if err != nil {
			require.NotContains(t, err.Error(), "\n")
			return
		}
		_ = c.Validate()
	})
}
