package qwen3

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	checkpoints = "../testdata/checkpoints"
	tinyModel   = "../tiny/qwen3-tiny"
)

// configWith is the configuration of Qwen3-0.6B with some members changed; nil takes one out.
func configWith(t testing.TB, changes map[string]any) []byte {
	t.Helper()
	c := map[string]any{
		"architectures": []string{"Qwen3ForCausalLM"}, "model_type": "qwen3", "attention_bias": false,
		"bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu",
		"hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 40960,
		"max_window_layers": 28, "num_attention_heads": 16, "num_hidden_layers": 28,
		"num_key_value_heads": 8, "rms_norm_eps": 1e-6, "rope_scaling": nil, "rope_theta": 1000000,
		"sliding_window": nil, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
		"use_sliding_window": false, "vocab_size": 151936,
	}
	maps.Copy(c, changes)
	data, err := json.Marshal(c)
	require.NoError(t, err)
	return data
}

func TestParseConfig(t *testing.T) {
	c, err := ParseConfig(configWith(t, nil))
	require.NoError(t, err)
	require.Equal(t, &Config{
		VocabSize: 151936, HiddenSize: 1024, IntermediateSize: 3072, NumLayers: 28, NumHeads: 16, NumKVHeads: 8,
		HeadDim: 128, MaxPositions: 40960, RMSNormEps: 1e-6, TiedEmbeddings: true, Rope: Rope{Theta: 1e6},
		Tokens: Tokens{BOS: 151643, EOS: []int{151645}, Pad: -1},
	}, c)
	require.Equal(t, 40960, c.ContextLength())
}

func TestParseConfigDefaults(t *testing.T) {
	c, err := ParseConfig(configWith(t, map[string]any{
		"head_dim": nil, "num_key_value_heads": nil, "rms_norm_eps": nil, "tie_word_embeddings": nil,
		"hidden_act": nil, "bos_token_id": nil, "eos_token_id": nil, "architectures": nil,
	}))
	require.NoError(t, err)
	require.Equal(t, 128, c.HeadDim, "transformers' default, not hidden_size / heads")
	require.Equal(t, 16, c.NumKVHeads)
	require.Equal(t, 1e-6, c.RMSNormEps)
	require.False(t, c.TiedEmbeddings)
	require.Equal(t, Tokens{BOS: -1, Pad: -1}, c.Tokens)
}

// The two forms of config.json mean the same.
func TestParseConfigForms(t *testing.T) {
	v4, err := ReadConfig(filepath.Join(checkpoints, "yarn-f32/config.json"))
	require.NoError(t, err)
	v5, err := ReadConfig(filepath.Join(checkpoints, "yarn-f32/config.v5.json"))
	require.NoError(t, err)
	require.Equal(t, v4, v5)
	require.NotNil(t, v4.Rope.Yarn)
	require.Equal(t, 256, v4.ContextLength(), "factor 4 over 64 positions, max_position_embeddings left at 80")
}

func TestParseConfigFaults(t *testing.T) {
	yarn := func(changes map[string]any) map[string]any {
		y := map[string]any{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
		maps.Copy(y, changes)
		return map[string]any{"rope_scaling": y}
	}
	for _, c := range []struct {
		name    string
		changes map[string]any
		want    string
	}{
		{"a number that is missing is named once", map[string]any{"hidden_size": nil}, "hidden_size is missing"},
		{"zero layers would give a graph without a cache", map[string]any{"num_hidden_layers": 0}, "num_hidden_layers is 0, want 1 to"},
		{"negative", map[string]any{"vocab_size": -1}, "vocab_size is -1"},
		{"sizes whose product overflows", map[string]any{"hidden_size": 1 << 30}, "hidden_size is 1073741824, want 1 to"},
		{"beyond int", map[string]any{"hidden_size": 1e30}, "hidden_size is 1e+30, want an integer"},
		{"a fraction", map[string]any{"num_attention_heads": 2.5}, "num_attention_heads is 2.5, want an integer"},
		{"a string of digits", map[string]any{"hidden_size": "1024"}, `hidden_size is "1024", want an integer`},
		{"odd heads cannot be rotated", map[string]any{"head_dim": 65}, "head_dim is 65, want an even number"},
		{"heads that KV heads do not divide", map[string]any{"num_key_value_heads": 3}, "want a multiple of num_key_value_heads 3"},
		{"eps 0 divides by zero", map[string]any{"rms_norm_eps": 0}, "rms_norm_eps is 0"},
		{"theta 1 has no logarithm to divide by", map[string]any{"rope_theta": 1}, "rope_theta is 1"},
		{"a switch that is a string", map[string]any{"tie_word_embeddings": "yes"}, "tie_word_embeddings"},
		{"end token beyond the vocabulary", map[string]any{"eos_token_id": []int{1, 151936}}, "eos_token_id is 151936"},
		{"end token of another type", map[string]any{"eos_token_id": "</s>"}, "eos_token_id is"},
		{"another activation", map[string]any{"hidden_act": "gelu"}, "hidden_act is gelu, want silu"},
		{"biases are not built", map[string]any{"attention_bias": true}, "attention_bias is true"},
		{"windows are not built", map[string]any{"use_sliding_window": true}, "use_sliding_window is true"},
		{"windows, transformers 5", map[string]any{"layer_types": []string{"full_attention", "sliding_attention"}}, "layer_types has sliding_attention"},
		{"other rope kinds", map[string]any{"rope_scaling": map[string]any{"rope_type": "llama3", "factor": 8}}, "rope_scaling.rope_type is llama3, want default or yarn"},
		{"rope by kind of layer", map[string]any{"rope_parameters": map[string]any{"full_attention": map[string]any{}}}, "rope_parameters.full_attention is an object"},
		{"part of a head rotated", map[string]any{"rope_parameters": map[string]any{"partial_rotary_factor": 0.5}}, "partial_rotary_factor is not 1"},
		{"yarn without a factor", map[string]any{"rope_scaling": map[string]any{"rope_type": "yarn"}}, "rope_scaling.factor is missing"},
		{"yarn that shrinks", yarn(map[string]any{"factor": 0.5}), "yarn factor is 0.5"},
		{"yarn over nothing", yarn(map[string]any{"original_max_position_embeddings": 0}), "original_max_position_embeddings is 0"},
		{"negative attention factor", yarn(map[string]any{"attention_factor": -1}), "yarn attention factor is -1"},
		{"betas in the wrong order", yarn(map[string]any{"beta_fast": 1, "beta_slow": 32}), "yarn beta_fast is 1"},
		{"all faults are reported at once", map[string]any{"hidden_size": nil, "head_dim": 3, "rms_norm_eps": -1},
			"hidden_size is missing; head_dim is 3, want an even number: rotary embedding turns pairs; rms_norm_eps is -1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseConfig(configWith(t, c.changes))
			require.ErrorContains(t, err, "qwen3: config.json: ")
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), "\n", "one line")
		})
	}
}

func TestParseConfigUnsupported(t *testing.T) {
	for _, c := range []struct {
		name    string
		changes map[string]any
		want    string
	}{
		{"mixture of experts", map[string]any{"model_type": "qwen3_moe", "architectures": []string{"Qwen3MoeForCausalLM"}},
			"unsupported model: architecture Qwen3MoeForCausalLM, model_type qwen3_moe; supported are dense Qwen3 models"},
		{"another family", map[string]any{"model_type": "llama", "architectures": []string{"LlamaForCausalLM"}}, "LlamaForCausalLM"},
		{"the same body with another head", map[string]any{"architectures": []string{"Qwen3ForSequenceClassification"}}, "Qwen3ForSequenceClassification"},
		{"nothing said", map[string]any{"model_type": nil, "architectures": nil}, "architecture (none), model_type (none)"},
		{"another family's numbers are not judged", map[string]any{"model_type": "gpt2", "hidden_size": nil}, "model_type gpt2"},
		{"FP8", map[string]any{"quantization_config": map[string]any{"quant_method": "fp8"}}, "quantised already (quant_method fp8): "},
		{"GPTQ", map[string]any{"quantization_config": map[string]any{"quant_method": "gptq", "bits": 3}}, "gptq of 3 bits"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseConfig(configWith(t, c.changes))
			require.ErrorIs(t, err, ErrUnsupported)
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), "\n", "one line")
		})
	}
}

func TestReadConfigErrors(t *testing.T) {
	dir := t.TempDir()
	_, err := ReadConfig(filepath.Join(dir, "config.json"))
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = ReadConfig(dir)
	require.ErrorContains(t, err, "not a regular file")
	for name, content := range map[string]string{"empty": "", "null": "null", "list": "[]", "cut off": `{"vocab_size": 1`} {
		path := filepath.Join(dir, "config.json")
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		_, err = ReadConfig(path)
		require.ErrorContains(t, err, path+": not a JSON object", name)
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add(configWith(f, nil))
	f.Add(configWith(f, map[string]any{"head_dim": 65, "rope_theta": 1, "eos_token_id": []int{1, -2}}))
	f.Add(configWith(f, map[string]any{"rope_scaling": map[string]any{"rope_type": "yarn", "factor": nil}}))
	f.Add([]byte(`{"model_type":"qwen3","rope_parameters":{"type":"yarn","factor":1e308,"truncate":false}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseConfig(data)
		if err != nil {
			require.NotContains(t, err.Error(), "\n", "one line")
			return
		}
		require.NoError(t, c.Validate())
		require.GreaterOrEqual(t, c.ContextLength(), c.MaxPositions)
		for _, x := range c.Rope.InvFreq(c.HeadDim) {
			require.True(t, x >= 0 && x <= 1, "frequency %v", x)
		}
	})
}
