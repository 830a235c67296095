package qwen3

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/models/packed"
	"github.com/qwenrt/qwenrt/models/safetensors"
)

// Weights finds a checkpoint's tensors; *safetensors.Checkpoint does.
type Weights interface {
	Tensor(name string) (*safetensors.Tensor, bool)
	Names() []string
}

// The names of the tensors outside the layers, and what those inside begin with.
const (
	embedName    = "model.embed_tokens.weight"
	normName     = "model.norm.weight"
	headName     = "lm_head.weight"
	layersPrefix = "model.layers."
)

// layerTensor is a tensor that every layer has, named without its prefix.
type layerTensor struct {
	name  string
	shape func(c *Config) []int64
}

var layerTensors = []layerTensor{
	{"input_layernorm.weight", func(c *Config) []int64 { return dims(c.HiddenSize) }},
	{"self_attn.q_proj.weight", func(c *Config) []int64 { return dims(c.NumHeads*c.HeadDim, c.HiddenSize) }},
	{"self_attn.k_proj.weight", func(c *Config) []int64 { return dims(c.NumKVHeads*c.HeadDim, c.HiddenSize) }},
	{"self_attn.v_proj.weight", func(c *Config) []int64 { return dims(c.NumKVHeads*c.HeadDim, c.HiddenSize) }},
	{"self_attn.o_proj.weight", func(c *Config) []int64 { return dims(c.HiddenSize, c.NumHeads*c.HeadDim) }},
	{"self_attn.q_norm.weight", func(c *Config) []int64 { return dims(c.HeadDim) }},
	{"self_attn.k_norm.weight", func(c *Config) []int64 { return dims(c.HeadDim) }},
	{"post_attention_layernorm.weight", func(c *Config) []int64 { return dims(c.HiddenSize) }},
	{"mlp.gate_proj.weight", func(c *Config) []int64 { return dims(c.IntermediateSize, c.HiddenSize) }},
	{"mlp.up_proj.weight", func(c *Config) []int64 { return dims(c.IntermediateSize, c.HiddenSize) }},
	{"mlp.down_proj.weight", func(c *Config) []int64 { return dims(c.HiddenSize, c.IntermediateSize) }},
}

func dims(n ...int) []int64 {
	shape := make([]int64, len(n))
	for i, d := range n {
		shape[i] = int64(d)
	}
	return shape
}

func layerPrefix(i int) string { return layersPrefix + strconv.Itoa(i) + "." }

// CheckWeights compares what a checkpoint holds with what its configuration asks for: a tensor that
// is missing, has another shape or a type that is not F32, F16 or BF16, or belongs to a layer that
// the configuration does not have. All faults are reported in one error. Nothing is read.
//
// An lm_head.weight beside tied embeddings is ignored, as transformers ignores it: Qwen3-0.6B has
// one. So are tensors of other names, such as rotary tables that old tools saved. Where the configuration says
// that weights are quantised, those of products may be in their format.
func CheckWeights(c *Config, w Weights) error {
	if err := checkWeights(c, w); err != nil {
		return fmt.Errorf("qwen3: %w", err)
	}
	return nil
}

func checkWeights(c *Config, w Weights) error {
	var f faults
	one := func(name string, shape []int64) { checkTensor(w, name, shape, &f) }
	one(embedName, dims(c.VocabSize, c.HiddenSize))
	product := func(name string, shape []int64) {
		if module := strings.TrimSuffix(name, ".weight"); c.Packed != nil && len(shape) == 2 && packed.Has(w, module) {
			if _, err := c.Packed.Open(w, module, shape[0], shape[1]); err != nil {
				f.add("", "%v", err)
			}
			return
		}
		one(name, shape)
	}
	for i := range c.NumLayers {
		for _, t := range layerTensors {
			product(layerPrefix(i)+t.name, t.shape(c))
		}
	}
	one(normName, dims(c.HiddenSize))
	if !c.TiedEmbeddings {
		product(headName, dims(c.VocabSize, c.HiddenSize))
	}
	if n := countLayers(w); n > c.NumLayers {
		f.add("num_hidden_layers", "is %d, but the checkpoint has tensors of layer %d", c.NumLayers, n-1)
	}
	if err := f.err(); err != nil {
		return fmt.Errorf("the weights do not fit config.json: %w", err)
	}
	return nil
}

func checkTensor(w Weights, name string, shape []int64, f *faults) {
	t, ok := w.Tensor(name)
	switch {
	case !ok:
		f.add(name, "is missing")
	case floatType(t.DType) == ir.Undefined:
		f.add(name, "is %s, want F32, F16 or BF16", t.DType)
	case !slices.Equal(t.Shape, shape):
		f.add(name, "has shape %v, want %v", t.Shape, shape)
	}
}

// countLayers is the number of the last layer that has a tensor, plus one.
func countLayers(w Weights) int {
	n := 0
	for _, name := range w.Names() {
		rest, ok := strings.CutPrefix(name, layersPrefix)
		number, _, dot := strings.Cut(rest, ".")
		if i, err := strconv.ParseInt(number, 10, 32); ok && dot && err == nil {
			n = max(n, int(i)+1)
		}
	}
	return n
}

func floatType(d safetensors.DType) ir.DType {
	switch d {
	case safetensors.F32:
		return ir.Float32
	case safetensors.F16:
		return ir.Float16
	case safetensors.BF16:
		return ir.BFloat16
	}
	return ir.Undefined
}

// lazy is a tensor of the checkpoint as one of the graph, over the same bytes.
func lazy(w Weights, name string) (*ir.Tensor, error) {
	t, ok := w.Tensor(name)
	if !ok {
		return nil, fmt.Errorf("%s is missing", name)
	}
	return ir.NewTensor(floatType(t.DType), t.Shape, ir.NewBuffer(t.Bytes()))
}
