package qwen3

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/qwenrt/qwenrt/models/packed"
)

// ErrUnsupported is reported for a checkpoint that is well-formed, but not a dense Qwen3 in floating point, or in
// a format that package packed reads.
var ErrUnsupported = errors.New("unsupported model")

// Config is a Qwen3 model's configuration, with defaults filled in.
type Config struct {
	VocabSize        int // rows of the embedding
	HiddenSize       int
	IntermediateSize int // of the MLP
	NumLayers        int
	NumHeads         int // query heads
	NumKVHeads       int // key and value heads; NumHeads is a multiple
	HeadDim          int // even; NumHeads × HeadDim need not be HiddenSize
	MaxPositions     int // max_position_embeddings
	RMSNormEps       float64
	TiedEmbeddings   bool // the head is the embedding, transposed
	Rope             Rope
	Tokens           Tokens
	// Packed says how weights are quantised in the checkpoint; nil: they are not.
	Packed *packed.Config
}

// Tokens are the special tokens that config.json or generation_config.json names.
type Tokens struct {
	BOS int   // -1: none
	EOS []int // any of them ends the text
	Pad int   // -1: none
}

const noToken = -1

// ContextLength is how many tokens the model can attend to: max_position_embeddings, or what yarn
// stretches the original length to. Checkpoints that switch yarn on as the model card says leave
// max_position_embeddings as it was.
func (c *Config) ContextLength() int {
	if y := c.Rope.Yarn; y != nil {
		return max(c.MaxPositions, int(y.Factor*float64(y.OriginalPositions)))
	}
	return c.MaxPositions
}

// ReadConfig reads a config.json file.
func ReadConfig(path string) (*Config, error) {
	dir, name := filepath.Split(path)
	data, err := readSmall(os.DirFS(filepath.Clean(dir)), dir, name)
	if err != nil {
		return nil, err
	}
	return parseConfig(path, data)
}

// ParseConfig reads the content of a config.json, in the form of transformers 4 (rope_theta,
// rope_scaling) or of 5 (rope_parameters). The type that it names for the weights (torch_dtype,
// dtype) is not used: the tensors know theirs. All faults are reported in one error, a model of
// another kind as ErrUnsupported.
func ParseConfig(data []byte) (*Config, error) { return parseConfig(configFile, data) }

func parseConfig(file string, data []byte) (*Config, error) {
	var f faults
	o, err := parseObject(data, &f)
	if err == nil {
		err = checkArchitecture(o)
	}
	if err != nil {
		return nil, fmt.Errorf("qwen3: %s: %w", file, err)
	}
	c := &Config{
		VocabSize:        o.required("vocab_size"),
		HiddenSize:       o.required("hidden_size"),
		IntermediateSize: o.required("intermediate_size"),
		NumLayers:        o.required("num_hidden_layers"),
		NumHeads:         o.required("num_attention_heads"),
		// What transformers' Qwen3Config takes for a head_dim that is not given; not hidden / heads.
		HeadDim:        o.integer("head_dim", 128),
		MaxPositions:   o.required("max_position_embeddings"),
		RMSNormEps:     o.number("rms_norm_eps", 1e-6),
		TiedEmbeddings: o.boolean("tie_word_embeddings", false),
		Tokens:         Tokens{BOS: o.token("bos_token_id"), EOS: o.tokens("eos_token_id"), Pad: o.token("pad_token_id")},
	}
	if _, ok := o.object("quantization_config"); ok {
		if c.Packed, err = packed.ParseConfig(o.members["quantization_config"]); err != nil {
			return nil, fmt.Errorf("qwen3: %s: %w", file, err)
		}
	}
	c.NumKVHeads = o.integer("num_key_value_heads", c.NumHeads)
	c.Rope = parseRope(o, c.MaxPositions)
	refuseVariants(o)
	c.check(&f)
	if err := f.err(); err != nil {
		return nil, fmt.Errorf("qwen3: %s: %w", file, err)
	}
	return c, nil
}

const supported = "supported are dense Qwen3 models (Qwen3ForCausalLM, model_type qwen3) in F32, F16 or BF16, or quantised by GPTQ or AWQ"

// checkArchitecture refuses other models before their numbers are looked at, which would only
// lead to more and less helpful messages.
func checkArchitecture(o object) error {
	kind, names := o.text("model_type", ""), o.texts("architectures")
	if err := o.faults.err(); err != nil {
		return err
	}
	if kind != "qwen3" || len(names) > 0 && !slices.Contains(names, "Qwen3ForCausalLM") {
		return fmt.Errorf("%w: architecture %s, model_type %s; %s", ErrUnsupported,
			orNone(strings.Join(names, ", ")), orNone(kind), supported)
	}
	if q, ok := o.object("quantization_config"); ok {
		if _, err := packed.ParseConfig(o.members["quantization_config"]); err != nil {
			return fmt.Errorf("%w: its weights are quantised already (quant_method %s): %w; use the checkpoint in BF16 "+
				"that it was made from, and qwenrt quantize", ErrUnsupported, orNone(q.text("quant_method", "")), err)
		}
	}
	return o.faults.err()
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return clip(s)
}

// refuseVariants notes what transformers' Qwen3 can do and no published checkpoint does.
func refuseVariants(o object) {
	if act := o.text("hidden_act", "silu"); act != "silu" {
		o.fault("hidden_act", "is %s, want silu", clip(act))
	}
	if o.boolean("attention_bias", false) {
		o.fault("attention_bias", "is true, want false: projections with a bias are not supported")
	}
	if o.boolean("use_sliding_window", false) {
		o.fault("use_sliding_window", "is true, want false: sliding windows are not supported")
	}
	for _, kind := range o.texts("layer_types") {
		if kind != "full_attention" {
			o.fault("layer_types", "has %s, want full_attention alone", clip(kind))
		}
	}
}

// Validate reports every number that no Qwen3 model can have.
func (c *Config) Validate() error {
	var f faults
	c.check(&f)
	if err := f.err(); err != nil {
		return fmt.Errorf("qwen3: config: %w", err)
	}
	return nil
}

// check has bounds far above any model there is (Qwen3-32B: vocabulary 151,936, hidden 5,120, MLP
// 25,600, 64 layers), so that products of a hostile file's numbers stay within an int64.
func (c *Config) check(f *faults) {
	for _, n := range []struct {
		name     string
		value    int
		min, max int
	}{
		{"vocab_size", c.VocabSize, 1, 1 << 24},
		{"hidden_size", c.HiddenSize, 1, 1 << 17},
		{"intermediate_size", c.IntermediateSize, 1, 1 << 19},
		{"num_hidden_layers", c.NumLayers, 1, 1 << 10},
		{"num_attention_heads", c.NumHeads, 1, 1 << 10},
		{"num_key_value_heads", c.NumKVHeads, 1, 1 << 10},
		{"head_dim", c.HeadDim, 2, 1 << 10},
		{"max_position_embeddings", c.MaxPositions, 1, 1 << 28},
	} {
		if n.value < n.min || n.value > n.max {
			f.add(n.name, "is %d, want %d to %d", n.value, n.min, n.max)
		}
	}
	if c.HeadDim%2 != 0 {
		f.add("head_dim", "is %d, want an even number: rotary embedding turns pairs", c.HeadDim)
	}
	if c.NumKVHeads > 0 && c.NumHeads%c.NumKVHeads != 0 {
		f.add("num_attention_heads", "is %d, want a multiple of num_key_value_heads %d", c.NumHeads, c.NumKVHeads)
	}
	if !(c.RMSNormEps > 0 && c.RMSNormEps < 1) {
		f.add("rms_norm_eps", "is %v, want a number between 0 and 1", c.RMSNormEps)
	}
	c.Rope.check(f)
	c.Tokens.check(c.VocabSize, f)
}

func (t Tokens) check(vocab int, f *faults) {
	within := func(name string, id int) {
		if id >= vocab || id < noToken {
			f.add(name, "is %d, want a token id below vocab_size %d", id, vocab)
		}
	}
	within("bos_token_id", t.BOS)
	within("pad_token_id", t.Pad)
	for _, id := range t.EOS {
		within("eos_token_id", max(id, noToken-1))
	}
}

// finite reports whether x is a number that float32 can hold.
func finite(x float64) bool { return math.Abs(x) <= math.MaxFloat32 }
