package qwen3

import (
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/models/safetensors"
)

// fakeWeights has names, types and shapes, and no data.
type fakeWeights map[string]*safetensors.Tensor

func (w fakeWeights) Tensor(name string) (*safetensors.Tensor, bool) {
	t, ok := w[name]
	return t, ok
}

func (w fakeWeights) Names() []string { return slices.Sorted(maps.Keys(w)) }

func (w fakeWeights) add(name string, d safetensors.DType, shape ...int64) {
	w[name] = &safetensors.Tensor{Name: name, DType: d, Shape: shape}
}

// smallModel is a configuration and the weights that fit it, written out by hand.
func smallModel() (*Config, fakeWeights) {
	c := &Config{VocabSize: 32, HiddenSize: 8, IntermediateSize: 24, NumLayers: 2, NumHeads: 4, NumKVHeads: 2,
		HeadDim: 6, MaxPositions: 64, RMSNormEps: 1e-6, Rope: Rope{Theta: 1e6}, Tokens: Tokens{BOS: -1, Pad: -1}}
	w := fakeWeights{}
	w.add("model.embed_tokens.weight", "BF16", 32, 8)
	for _, layer := range []string{"model.layers.0.", "model.layers.1."} {
		w.add(layer+"input_layernorm.weight", "F32", 8)
		w.add(layer+"self_attn.q_proj.weight", "BF16", 24, 8)
		w.add(layer+"self_attn.k_proj.weight", "BF16", 12, 8)
		w.add(layer+"self_attn.v_proj.weight", "BF16", 12, 8)
		w.add(layer+"self_attn.o_proj.weight", "F16", 8, 24)
		w.add(layer+"self_attn.q_norm.weight", "BF16", 6)
		w.add(layer+"self_attn.k_norm.weight", "BF16", 6)
		w.add(layer+"post_attention_layernorm.weight", "BF16", 8)
		w.add(layer+"mlp.gate_proj.weight", "BF16", 24, 8)
		w.add(layer+"mlp.up_proj.weight", "BF16", 24, 8)
		w.add(layer+"mlp.down_proj.weight", "BF16", 8, 24)
	}
	w.add("model.norm.weight", "BF16", 8)
	w.add("lm_head.weight", "BF16", 32, 8)
	return c, w
}

func TestCheckWeights(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Config, fakeWeights)
		want   string // "" where the weights fit
	}{
		{"as it should be, in mixed types", func(*Config, fakeWeights) {}, ""},
		{"tied needs no head", func(c *Config, w fakeWeights) { c.TiedEmbeddings = true; delete(w, "lm_head.weight") }, ""},
		{"tied ignores a head, of whatever shape", func(c *Config, w fakeWeights) {
			c.TiedEmbeddings = true
			w.add("lm_head.weight", "I8", 1)
		}, ""},
		{"tables of old tools are ignored", func(c *Config, w fakeWeights) {
			w.add("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", 3)
		}, ""},
		{"untied needs a head", func(c *Config, w fakeWeights) { delete(w, "lm_head.weight") }, "lm_head.weight is missing"},
		{"one tensor of the last layer", func(c *Config, w fakeWeights) { delete(w, "model.layers.1.mlp.up_proj.weight") },
			"model.layers.1.mlp.up_proj.weight is missing"},
		{"a head size of its own", func(c *Config, w fakeWeights) { c.HeadDim = 2 },
			"model.layers.0.self_attn.q_proj.weight has shape [24 8], want [8 8]"},
		{"stored the other way round", func(c *Config, w fakeWeights) {
			w.add("model.layers.0.mlp.down_proj.weight", "BF16", 24, 8)
		}, "model.layers.0.mlp.down_proj.weight has shape [24 8], want [8 24]"},
		{"FP8", func(c *Config, w fakeWeights) { w.add("model.layers.0.mlp.up_proj.weight", "F8_E4M3", 24, 8) },
			"model.layers.0.mlp.up_proj.weight is F8_E4M3, want F32, F16 or BF16"},
		{"more layers than stated", func(c *Config, w fakeWeights) { c.NumLayers = 1 },
			"num_hidden_layers is 1, but the checkpoint has tensors of layer 1"},
		{"all faults at once", func(c *Config, w fakeWeights) {
			delete(w, "model.norm.weight")
			w.add("lm_head.weight", "F32", 31, 8)
		}, "model.norm.weight is missing; lm_head.weight has shape [31 8], want [32 8]"},
		{"a message stays readable", func(c *Config, w fakeWeights) { clear(w) }, "and 17 more"},
	} {
		t.Run(c.name, func(t *testing.T) {
			config, w := smallModel()
			c.change(config, w)
			err := CheckWeights(config, w)
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, "qwen3: the weights do not fit config.json: ")
			require.ErrorContains(t, err, c.want)
			_, err = Build(config, w, Options{})
			require.ErrorContains(t, err, c.want, "Build checks as well")
		})
	}
}
