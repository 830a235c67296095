package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/models/tiny"
)

// small is a checkpoint of random weights with one file of weights, sharded one with three.
const (
	small   = "../../models/testdata/checkpoints/untied-f32"
	sharded = "../../models/testdata/checkpoints/sharded-bf16"
)

// TestBadCheckpoint holds that a bad checkpoint gives exit code 1, one line, and no folder.
func TestBadCheckpoint(t *testing.T) {
	config := func(members map[string]any) func(*testing.T, string) {
		return func(t *testing.T, dir string) { editConfig(t, dir, members) }
	}
	header := func(edit func(string) string) func(*testing.T, string) {
		return func(t *testing.T, dir string) { editHeader(t, dir, edit) }
	}
	replace := func(old, new string) func(*testing.T, string) {
		return header(func(h string) string {
			require.Contains(t, h, old)
			return strings.Replace(h, old, new, 1)
		})
	}
	for _, c := range []struct {
		why, from string
		spoil     func(*testing.T, string)
		want      string
	}{
		{"no configuration", small, remove("config.json"), "config.json"},
		{"no weights", small, remove("model.safetensors"), "model.safetensors"},
		{"a shard is missing", sharded, remove("model-00002-of-00003.safetensors"), "model-00002-of-00003.safetensors"},
		{"truncated weights", small, truncate("model.safetensors", 100_000), "model.safetensors"},
		{"truncated header", small, truncate("model.safetensors", 100), "model.safetensors"},
		{"an empty file", small, truncate("model.safetensors", 0), "model.safetensors"},
		{"configuration that is no JSON", small, truncate("config.json", 10), "config.json"},
		{"another architecture", small, config(map[string]any{"architectures": []string{"LlamaForCausalLM"}, "model_type": "llama"}), "LlamaForCausalLM"},
		{"mixture of experts", small, config(map[string]any{"architectures": []string{"Qwen3MoeForCausalLM"}, "model_type": "qwen3_moe"}), "Qwen3MoeForCausalLM"},
		{"FP8", small, config(map[string]any{"quantization_config": map[string]any{"quant_method": "fp8"}}), "quantised"},
		{"shapes that contradict config.json", small, config(map[string]any{"intermediate_size": 128}), "mlp.gate_proj.weight"},
		{"more layers than the file has", small, config(map[string]any{"num_hidden_layers": 3}), "model.layers.2."},
		{"fewer layers than the file has", small, config(map[string]any{"num_hidden_layers": 1}), "num_hidden_layers"},
		{"offsets past the end", small, replace(`"data_offsets":[0,`, `"data_offsets":[0,9`), "past the end"},
		{"a type that weights do not have", small, replace(`"dtype":"F32"`, `"dtype":"I32"`), "want F32, F16 or BF16"},
		{"a type that does not exist", small, replace(`"dtype":"F32"`, `"dtype":"F12"`), "F12"},
		{"a type of another size", small, replace(`"dtype":"F32"`, `"dtype":"F16"`), "model.safetensors"},
		{"a negative size", small, replace(`"shape":[64]`, `"shape":[-64]`), "-64"},
		{"a huge size", small, replace(`"shape":[64]`, `"shape":[9223372036854775807,9]`), "too large"},
		{"two tensors of one name", small, header(duplicate), "twice"},
		{"two tensors in one place", small, header(overlap), "overlap"},
	} {
		t.Run(c.why, func(t *testing.T) {
			dir := t.TempDir()
			from := filepath.Join(dir, "checkpoint")
			require.NoError(t, os.CopyFS(from, os.DirFS(c.from)))
			c.spoil(t, from)
			for _, args := range [][]string{
				{"export", from, "-o", filepath.Join(dir, "new", "out")}, {"build", from, "-o", filepath.Join(dir, "out")}, {"run", from, "-p", "x"},
			} {
				r := qwenrt(t, args...)
				require.Equal(t, exitError, r.code, r.stderr)
				require.Empty(t, r.stdout)
				line := r.stderr[strings.LastIndex(strings.TrimSuffix(r.stderr, "\n"), "\n")+1:] // behind progress
				requireLine(t, line, c.want)
				require.Equal(t, []string{"checkpoint"}, names(t, dir), "nothing is left behind")
			}
		})
	}
}

func remove(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) { require.NoError(t, os.Remove(filepath.Join(dir, name))) }
}

func truncate(name string, size int64) func(*testing.T, string) {
	return func(t *testing.T, dir string) { require.NoError(t, os.Truncate(filepath.Join(dir, name), size)) }
}

func editConfig(t *testing.T, dir string, members map[string]any) {
	t.Helper()
	path := filepath.Join(dir, "config.json")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	config := map[string]any{}
	require.NoError(t, json.Unmarshal(text, &config))
	for name, value := range members {
		config[name] = value
	}
	text, err = json.Marshal(config)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, text, 0o666))
}

// editHeader changes the JSON at the head of model.safetensors: its length in 8 bytes, little endian,
// then the text.
func editHeader(t *testing.T, dir string, edit func(string) string) {
	t.Helper()
	path := filepath.Join(dir, "model.safetensors")
	file, err := os.ReadFile(path)
	require.NoError(t, err)
	n := binary.LittleEndian.Uint64(file)
	header := edit(string(file[8 : 8+n]))
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	out = append(append(out, header...), file[8+n:]...)
	require.NoError(t, os.WriteFile(path, out, 0o666))
}

const extraTensor = `{"model.norm.weight":{"dtype":"F32","shape":[64],"data_offsets":[0,256]},`

func duplicate(header string) string { return extraTensor + strings.TrimLeft(header, " {") }

func overlap(header string) string {
	return strings.Replace(extraTensor, "model.norm", "other", 1) + strings.TrimLeft(header, " {")
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func TestOutputFolder(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	build := func(args ...string) result {
		return qwenrt(t, append([]string{"build", small, "-o", out}, args...)...)
	}
	require.Equal(t, exitOK, build().code)
	before, err := os.ReadFile(filepath.Join(out, "qwenrt.json"))
	require.NoError(t, err)

	r := build("--block-size", "16")
	require.Equal(t, exitError, r.code)
	requireLine(t, r.stderr, "--force")
	after, err := os.ReadFile(filepath.Join(out, "qwenrt.json"))
	require.NoError(t, err)
	require.Equal(t, before, after, "it is not touched")

	require.Equal(t, exitOK, build("--block-size", "16", "--force").code)
	after, err = os.ReadFile(filepath.Join(out, "qwenrt.json"))
	require.NoError(t, err)
	require.NotEqual(t, before, after)

	require.NoError(t, os.WriteFile(filepath.Join(out, "thesis.txt"), nil, 0o666))
	r = build("--force")
	require.Equal(t, exitError, r.code)
	requireLine(t, r.stderr, "thesis.txt")
	require.Equal(t, []string{"out"}, names(t, dir))

	r = qwenrt(t, "quantize", out, "-o", filepath.Join(dir, "twice"))
	require.Equal(t, exitError, r.code)
	require.Contains(t, r.stderr, "already quantised")
	require.Equal(t, []string{"out"}, names(t, dir))
}

func TestBuildInterrupted(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	stderr := &cancelling{cancel: cancel} // progress comes before the weights are written
	code := run(ctx, []string{"build", tiny.Name, "-o", filepath.Join(dir, "out")}, strings.NewReader(""), &bytes.Buffer{}, stderr)
	require.Equal(t, exitInterrupted, code)
	require.True(t, strings.HasSuffix(stderr.String(), "qwenrt: interrupted\n"), stderr)
	require.Empty(t, names(t, dir))
}

func TestSymmetric(t *testing.T) {
	for _, c := range []struct {
		flag string
		want bool
	}{{"--symmetric", true}, {"--symmetric=true", true}, {"--symmetric=false", false}} {
		out := filepath.Join(t.TempDir(), "out")
		require.Equal(t, exitOK, qwenrt(t, "build", small, "-o", out, c.flag).code)
		text, err := os.ReadFile(filepath.Join(out, "qwenrt.json"))
		require.NoError(t, err)
		require.Equal(t, c.want, strings.Contains(string(text), `"symmetric": true`), c.flag)
	}
}
