package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/qwenrt/qwenrt/models/safetensors"
)

// shape is what distinguishes one Qwen3 from another.
type shape struct {
	hidden, layers, heads, kvHeads, headDim, intermediate int64

	vocab       int64
	tied        bool
	maxPosition int64
	// firstSpecial is the id of <|endoftext|>; <|im_start|> and <|im_end|> are the next two.
	firstSpecial int64
}

// qwen3 completes a published shape (config.json of Qwen/Qwen3-* on the Hugging Face hub).
func qwen3(hidden, layers, heads, intermediate int64, tied bool) shape {
	return shape{
		hidden: hidden, layers: layers, heads: heads, kvHeads: 8, headDim: 128, intermediate: intermediate,
		vocab: 151936, tied: tied, maxPosition: 40960, firstSpecial: 151643,
	}
}

var sizes = map[string]shape{
	"0.6B": qwen3(1024, 28, 16, 3072, true),
	"1.7B": qwen3(2048, 28, 16, 6144, true),
	"4B":   qwen3(2560, 36, 32, 9728, true),
	"8B":   qwen3(4096, 36, 32, 12288, false),
	"14B":  qwen3(5120, 40, 40, 17408, false),
	"32B":  qwen3(5120, 64, 64, 25600, false),
	// The model that the repository carries.
	"tiny": {
		hidden: 256, layers: 8, heads: 8, kvHeads: 4, headDim: 64, intermediate: 768,
		vocab: 8192, tied: true, maxPosition: 2048, firstSpecial: 8166,
	},
}

// sizeNames returns the names of sizes from small to large.
func sizeNames() []string {
	return slices.SortedFunc(maps.Keys(sizes), func(a, b string) int {
		return int(sizes[a].hidden*sizes[a].layers - sizes[b].hidden*sizes[b].layers)
	})
}

// tensors lists the checkpoint's tensors in the order of the model.
func (s shape) tensors() []safetensors.Entry {
	var list []safetensors.Entry
	add := func(name string, dims ...int64) {
		list = append(list, safetensors.Entry{Name: name, DType: safetensors.BF16, Shape: dims})
	}
	q, kv := s.heads*s.headDim, s.kvHeads*s.headDim
	add("model.embed_tokens.weight", s.vocab, s.hidden)
	for i := range s.layers {
		layer := fmt.Sprintf("model.layers.%d.", i)
		add(layer+"input_layernorm.weight", s.hidden)
		add(layer+"self_attn.q_proj.weight", q, s.hidden)
		add(layer+"self_attn.k_proj.weight", kv, s.hidden)
		add(layer+"self_attn.v_proj.weight", kv, s.hidden)
		add(layer+"self_attn.q_norm.weight", s.headDim)
		add(layer+"self_attn.k_norm.weight", s.headDim)
		add(layer+"self_attn.o_proj.weight", s.hidden, q)
		add(layer+"post_attention_layernorm.weight", s.hidden)
		add(layer+"mlp.gate_proj.weight", s.intermediate, s.hidden)
		add(layer+"mlp.up_proj.weight", s.intermediate, s.hidden)
		add(layer+"mlp.down_proj.weight", s.hidden, s.intermediate)
	}
	add("model.norm.weight", s.hidden)
	if !s.tied {
		add("lm_head.weight", s.vocab, s.hidden)
	}
	return list
}

// parameters returns the number of weights.
func (s shape) parameters() int64 {
	var n int64
	for _, e := range s.tensors() {
		n += elements(e)
	}
	return n
}

func elements(e safetensors.Entry) int64 {
	n := int64(1)
	for _, d := range e.Shape {
		n *= d
	}
	return n
}

// writeConfigs writes config.json and generation_config.json with the fields of the published ones.
func writeConfigs(dir string, s shape) error {
	endOfText, end := s.firstSpecial, s.firstSpecial+2
	err := writeJSON(filepath.Join(dir, "config.json"), map[string]any{
		"architectures":           []string{"Qwen3ForCausalLM"},
		"attention_bias":          false,
		"attention_dropout":       0.0,
		"bos_token_id":            endOfText,
		"eos_token_id":            end,
		"head_dim":                s.headDim,
		"hidden_act":              "silu",
		"hidden_size":             s.hidden,
		"initializer_range":       stdDev,
		"intermediate_size":       s.intermediate,
		"max_position_embeddings": s.maxPosition,
		"max_window_layers":       s.layers,
		"model_type":              "qwen3",
		"num_attention_heads":     s.heads,
		"num_hidden_layers":       s.layers,
		"num_key_value_heads":     s.kvHeads,
		"rms_norm_eps":            1e-6,
		"rope_scaling":            nil,
		"rope_theta":              1000000,
		"sliding_window":          nil,
		"tie_word_embeddings":     s.tied,
		"torch_dtype":             "bfloat16",
		"transformers_version":    "4.51.0",
		"use_cache":               true,
		"use_sliding_window":      false,
		"vocab_size":              s.vocab,
	})
	if err != nil {
		return err
	}
	return writeJSON(filepath.Join(dir, "generation_config.json"), map[string]any{
		"bos_token_id":         endOfText,
		"do_sample":            true,
		"eos_token_id":         []int64{end, endOfText},
		"pad_token_id":         endOfText,
		"temperature":          0.6,
		"top_k":                20,
		"top_p":                0.95,
		"transformers_version": "4.51.0",
	})
}

func writeJSON(path string, value any) error {
	var data bytes.Buffer
	encoder := json.NewEncoder(&data)
	encoder.SetEscapeHTML(false) // <|im_end|> stays legible
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(value); err != nil {
		return err
	}
	return os.WriteFile(path, data.Bytes(), 0o666)
}
