package runner_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/sample"
)

func TestInfo(t *testing.T) {
	m := toy{layers: 3, heads: 4, kvHeads: 2, headDim: 16, vocab: 40, kv: ir.Float16}
	m.files = map[string]string{
		"config.json":            `{"max_position_embeddings": 300, "eos_token_id": 3}`,
		"generation_config.json": `{"do_sample": true, "temperature": 0.5, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.1, "eos_token_id": [5, 3]}`,
	}
	dir := m.folder(t)
	got := open(t, dir, runner.Options{Threads: 1}).Info()
	require.EqualValues(t, 2*3*2*16*2*7, got.KVBytes(7))
	require.Equal(t, dir, got.Dir)
	require.Equal(t, 3, got.Layers)
	require.Equal(t, 2, got.KVHeads)
	require.Equal(t, 16, got.HeadDim)
	require.Equal(t, 40, got.Vocabulary)
	require.Equal(t, 300, got.ContextLength)
	require.Equal(t, "float16", got.KVType)
	require.True(t, got.SharedKV)
	require.True(t, got.LastLogits)
	require.Equal(t, 1, got.Threads)
	require.Equal(t, ort.Version(), got.ORTVersion)
	require.Equal(t, []int32{5, 3}, got.StopTokens, "of all files, each once")
	require.Equal(t, sample.Params{Temperature: 0.5, TopK: 50, TopP: 0.9, MinP: 0.1, RepetitionPenalty: 1.1}, got.Sampling,
		"transformers' default for top_k, which the file leaves out")
}

func TestSharedCacheIsFound(t *testing.T) {
	require.True(t, toy{}.open(t, runner.Options{}).Info().SharedKV)
	require.False(t, toy{unshared: true}.open(t, runner.Options{}).Info().SharedKV)
}

func TestSampling(t *testing.T) {
	for _, c := range []struct {
		why, file string
		want      sample.Params
	}{
		{"greedy without a word on it", `{}`, sample.Params{}},
		{"greedy has no use for the rest", `{"temperature": 0.6, "top_k": 20}`, sample.Params{}},
		{"but the penalty acts", `{"repetition_penalty": 1.05}`, sample.Params{RepetitionPenalty: 1.05}},
		{"null is as good as nothing", `{"do_sample": true, "top_k": null, "temperature": null}`, sample.Params{Temperature: 1, TopK: 50, TopP: 1}},
	} {
		r := toy{files: map[string]string{"generation_config.json": c.file}}.open(t, runner.Options{})
		require.Equal(t, c.want, r.Info().Sampling, c.why)
	}
}

func TestStopTokens(t *testing.T) {
	for _, c := range []struct {
		why   string
		files map[string]string
		want  []int32
	}{
		{"none", map[string]string{}, nil},
		{"a number", map[string]string{"config.json": `{"eos_token_id": 4}`}, []int32{4}},
		{"a list", map[string]string{"generation_config.json": `{"eos_token_id": [4, 2]}`}, []int32{4, 2}},
		{"null", map[string]string{"config.json": `{"eos_token_id": null}`}, nil},
		{"onnxruntime-genai's", map[string]string{"genai_config.json": `{"model": {"eos_token_id": [9]}}`}, []int32{9}},
	} {
		r := toy{files: c.files}.open(t, runner.Options{})
		require.Equal(t, c.want, r.Info().StopTokens, c.why)
	}
}

func TestContextLength(t *testing.T) {
	for _, c := range []struct {
		why     string
		model   toy
		options runner.Options
		want    int
	}{
		{"of the configuration", toy{files: map[string]string{"config.json": `{"max_position_embeddings": 77}`}}, runner.Options{}, 77},
		{"of onnxruntime-genai's, where yarn stretches it",
			toy{files: map[string]string{"config.json": `{"max_position_embeddings": 77}`, "genai_config.json": `{"model": {"context_length": 99}}`}},
			runner.Options{}, 99},
		{"no more than the rotary tables have", toy{rotary: 50, headDim: 16}, runner.Options{}, 50},
		{"no file tells", toy{files: map[string]string{"config.json": `{}`}}, runner.Options{}, 4096},
		{"a file tells nonsense", toy{files: map[string]string{"config.json": `{"max_position_embeddings": -5}`}}, runner.Options{}, 4096},
		{"less is wanted", toy{}, runner.Options{MaxContext: 30}, 30},
		{"more is wanted than there is", toy{}, runner.Options{MaxContext: 1 << 40}, toyContext},
		{"larger chunks than the context", toy{}, runner.Options{PrefillChunk: 1 << 40}, toyContext},
	} {
		r := c.model.open(t, c.options)
		require.Equal(t, c.want, r.Info().ContextLength, c.why)
		_, err := sequence(t, r).Prefill(t.Context(), c.model.prompt(20))
		require.NoError(t, err, c.why)
	}
}

func TestModelFile(t *testing.T) {
	dir := toy{}.folder(t)
	file := filepath.Join(dir, "model.onnx")
	require.Equal(t, dir, open(t, file, runner.Options{}).Info().Dir, "a file stands for its folder")

	require.NoError(t, os.WriteFile(filepath.Join(dir, "encoder.onnx"), nil, 0o666))
	open(t, dir, runner.Options{}) // model.onnx comes first

	require.NoError(t, os.Rename(file, filepath.Join(dir, "decoder.onnx")))
	_, err := runner.Open(t.Context(), dir, runner.Options{})
	requireError(t, err, runner.ErrNotModel, "name one of them")
	require.NoError(t, os.Remove(filepath.Join(dir, "encoder.onnx")))
	open(t, dir, runner.Options{}) // the only one
}

func TestOpenErrors(t *testing.T) {
	write := func(name, text string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666))
		}
	}
	for _, c := range []struct {
		why    string
		damage func(t *testing.T, dir string)
		kind   error // nil: none of its own
		says   string
	}{
		{"no such folder", func(t *testing.T, dir string) { require.NoError(t, os.RemoveAll(dir)) }, fs.ErrNotExist, "no such file"},
		{"a folder of something else", func(t *testing.T, dir string) { require.NoError(t, os.Remove(filepath.Join(dir, "model.onnx"))) },
			runner.ErrNotModel, "has no .onnx file"},
		{"text for a graph", write("model.onnx", "<html>not found</html>"), ir.ErrMalformed, "model.onnx"},
		{"an empty graph", write("model.onnx", ""), nil, "model.onnx"},
		{"half a graph", func(t *testing.T, dir string) { require.NoError(t, os.Truncate(filepath.Join(dir, "model.onnx"), 300)) },
			ir.ErrMalformed, "model.onnx"},
		{"half of the weights", func(t *testing.T, dir string) {
			require.NoError(t, os.Truncate(filepath.Join(dir, "model.onnx.data"), 64))
		},
			nil, "model.onnx.data"},
		{"no weights", func(t *testing.T, dir string) { require.NoError(t, os.Remove(filepath.Join(dir, "model.onnx.data"))) },
			nil, "model.onnx.data"},
		{"a configuration that is cut off", write("config.json", `{"max_position`), nil, "config.json: unexpected end of JSON input"},
		{"a word for a number", write("config.json", `{"max_position_embeddings": "many"}`), nil, "config.json"},
		{"a number too large", write("genai_config.json", `{"model": {"context_length": 99999999999999999999}}`), nil, "genai_config.json"},
		{"tokens that are words", write("generation_config.json", `{"eos_token_id": ["<|im_end|>"]}`), nil, "generation_config.json"},
		{"a token beyond 32 bits", write("config.json", `{"eos_token_id": 4294967296}`), nil, "config.json"},
		{"no temperature there is", write("generation_config.json", `{"do_sample": true, "temperature": -1}`),
			sample.ErrParams, "generation_config.json: sample: bad parameters: temperature is -1"},
		{"a file without end", func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, "config.json")))
			require.NoError(t, os.Symlink("/dev/zero", filepath.Join(dir, "config.json")))
		}, nil, "config.json: larger than 16 MB"},
	} {
		t.Run(c.why, func(t *testing.T) {
			dir := toy{headDim: 64}.folder(t)
			c.damage(t, dir)
			_, err := runner.Open(t.Context(), dir, runner.Options{})
			kind := c.kind
			if kind == nil {
				kind = err
			}
			require.Error(t, err)
			requireError(t, err, kind, c.says)
		})
	}
}

func TestOptions(t *testing.T) {
	_, err := runner.Open(t.Context(), "nowhere", runner.Options{Threads: -1, PrefillChunk: -2, MaxContext: -3})
	require.EqualError(t, err, "runner: options: Threads is -1, PrefillChunk is -2, MaxContext is -3: want 0 for the default, or a positive number")

	_, err = runner.Open(t.Context(), toy{}.folder(t), runner.Options{Library: t.TempDir()})
	requireError(t, err, ort.ErrLibraryNotFound, "make native")
	_, err = runner.Open(t.Context(), toy{}.folder(t), runner.Options{Providers: []ort.Provider{{Name: "nonsense"}}})
	requireError(t, err, ort.ErrProvider, "nonsense")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = runner.Open(ctx, toy{}.folder(t), runner.Options{})
	requireError(t, err, context.Canceled, "")
}

// TestForeignGraphs has what a graph may lack to be run here, one fault at a time.
func TestForeignGraphs(t *testing.T) {
	b, s := ir.Sym("batch"), ir.Sym("sequence")
	for _, c := range []struct {
		why   string
		model toy
		says  string
	}{
		{"an input that nobody gives", toy{rename: map[string]string{"attention_mask": "token_type_ids"}}, "input token_type_ids int64[batch,total] is unknown"},
		{"ids of another type", toy{shape: map[string]*ir.Type{"input_ids": ir.TensorType(ir.Int32, b, s)}}, "input_ids int32[batch,sequence] should be int64[batch, any length]"},
		{"no cache", toy{layers: -1}, "no KV cache"},
		{"a cache under another name", toy{rename: map[string]string{"past_key_values.0.key": "past.0.key"}}, "past.0.key"},
		{"layers with a gap", toy{layers: 2, rename: map[string]string{"past_key_values.1.key": "past_key_values.7.key", "past_key_values.1.value": "past_key_values.7.value"}},
			"layer 1 of 2 has no input past_key_values.1.key"},
		{"keys without values", toy{layers: 2, rename: map[string]string{"past_key_values.1.value": "past_key_values.7.value"}},
			"layer 1 of 2 has no input past_key_values.1.value"},
		{"a cache that does not come back", toy{rename: map[string]string{"present.0.value": "new.0.value"}}, "layer 0 has no output present.0.value"},
		{"a cache of unknown size", toy{unshared: true, shape: map[string]*ir.Type{"past_key_values.0.key": ir.TensorType(ir.Float32, b, ir.Sym("heads"), s, ir.Fixed(8))}},
			"past_key_values.0.key float32[batch,heads,sequence,8] leaves open how large it is"},
		{"a cache of fixed length", toy{shape: map[string]*ir.Type{"past_key_values.0.value": ir.TensorType(ir.Float32, b, ir.Fixed(1), ir.Fixed(9), ir.Fixed(8))}},
			"past_key_values.0.value float32[batch,1,9,8] should be [batch, heads, any length, head size]"},
		{"a prompt of fixed length", toy{shape: map[string]*ir.Type{"input_ids": ir.TensorType(ir.Int64, b, ir.Fixed(5))}},
			"input_ids int64[batch,5] should be int64[batch, any length]"},
		{"rows of two", toy{shape: map[string]*ir.Type{"attention_mask": ir.TensorType(ir.Int64, ir.Fixed(2), s)}},
			"attention_mask int64[2,sequence] should be int64[batch, any length]"},
		{"layers that differ", toy{layers: 2, unshared: true, shape: map[string]*ir.Type{"past_key_values.1.value": ir.TensorType(ir.Float32, b, ir.Fixed(1), s, ir.Fixed(16))}},
			"differs from the other layers"},
		{"no logits", toy{rename: map[string]string{"logits": "scores"}}, "no output logits"},
		{"logits that are integers", toy{logits: ir.Int64}, "should be float32, float16 or bfloat16"},
	} {
		t.Run(c.why, func(t *testing.T) {
			dir := c.model.folder(t)
			_, err := runner.Open(t.Context(), dir, runner.Options{})
			requireError(t, err, runner.ErrNotModel, c.says)
			require.ErrorContains(t, err, filepath.Join(dir, "model.onnx"))
		})
	}
}

// A model may have num_logits_to_keep in another form than ours.
func TestForeignLogitsToKeep(t *testing.T) {
	m := toy{scalarKeep: true}
	_, err := runner.Open(t.Context(), m.folder(t), runner.Options{})
	requireError(t, err, runner.ErrNotModel, "num_logits_to_keep int64[] should be int64[1]")
}

// A graph may leave the size of the cache to its configuration, as onnxruntime-genai's do.
func TestCacheSizeOfTheConfiguration(t *testing.T) {
	cache := ir.TensorType(ir.Float32, ir.Sym("batch"), ir.Sym("heads"), ir.Sym("past"), ir.Sym("kv_cache_dim"))
	m := toy{heads: 4, kvHeads: 2, headDim: 16, shape: map[string]*ir.Type{}}
	for _, name := range []string{"past_key_values.0.key", "past_key_values.0.value"} {
		m.shape[name] = cache
	}
	for name, text := range map[string]string{
		"config.json":       `{"num_key_value_heads": 2, "head_dim": 16}`,
		"genai_config.json": `{"model": {"decoder": {"num_key_value_heads": 2, "head_size": 16}}}`,
	} {
		m.files = map[string]string{name: text}
		r := m.open(t, runner.Options{})
		require.Equal(t, 2, r.Info().KVHeads)
		require.Equal(t, 16, r.Info().HeadDim)
		_, err := sequence(t, r).Prefill(t.Context(), m.prompt(3))
		require.NoError(t, err)
	}
	m.files = map[string]string{"config.json": `{"num_key_value_heads": 2, "head_dim": 24}`}
	_, err := sequence(t, m.open(t, runner.Options{})).Prefill(t.Context(), m.prompt(3))
	requireError(t, err, ort.ErrInvalidArgument, "Got: 24 Expected: 16")
}

func TestSamplingOfGenAI(t *testing.T) {
	m := toy{files: map[string]string{"genai_config.json": `{"search": {"do_sample": true, "temperature": 0.6, "top_k": 20}}`}}
	require.Equal(t, sample.Params{Temperature: 0.6, TopK: 20, TopP: 1}, m.open(t, runner.Options{}).Info().Sampling)
	m.files["generation_config.json"] = `{}`
	require.Equal(t, sample.Params{}, m.open(t, runner.Options{}).Info().Sampling, "generation_config.json comes first")
	delete(m.files, "generation_config.json")
	m.files["genai_config.json"] = `{"search": {"do_sample": true, "top_p": 3}}`
	_, err := runner.Open(t.Context(), m.folder(t), runner.Options{})
	requireError(t, err, sample.ErrParams, "genai_config.json")
}

// ONNX Runtime is given nodes with large weights first, as bytes, and finds the data file; not where a provider is named.
func TestLargestFirst(t *testing.T) {
	dir := toy{layers: 2, headDim: 16, vocab: 1 << 14}.folder(t)
	require.FileExists(t, filepath.Join(dir, "model.onnx.data"), "the head is in a file of its own")
	logits := func(path string, o runner.Options) []float32 {
		found, err := sequence(t, open(t, path, o)).Prefill(t.Context(), []int32{3, 1, 2})
		require.NoError(t, err)
		return slices.Clone(found)
	}
	want := logits(dir, runner.Options{Providers: []ort.Provider{{Name: "cpu"}}})
	require.Equal(t, want, logits(dir, runner.Options{}))
	t.Chdir(dir)
	require.Equal(t, want, logits("model.onnx", runner.Options{}))
	require.NoError(t, runner.LargestFirst("model.onnx"), "or it was loaded as it is")
}
