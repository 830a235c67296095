package folder

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Facts is what a model's configuration adds to its graph in genai_config.json.
type Facts struct {
	Type          string // of the model, as onnxruntime-genai names it: "qwen3"
	ContextLength int    // in tokens
	VocabSize     int
	HiddenSize    int
	HeadDim       int
	NumHeads      int
	NumKVHeads    int
	NumLayers     int
	BOS           int   // -1: none
	EOS           []int // any of them ends the text
	Pad           int   // -1: none; the first of EOS is used
	Sampling      Sampling
}

// Sampling is how tokens are chosen unless the user says otherwise.
type Sampling struct {
	DoSample          bool
	Temperature       float64
	TopK              int
	TopP              float64
	RepetitionPenalty float64
}

// The members of genai_config.json that a decoder-only model needs, as onnxruntime-genai 0.18 reads
// them (src/config.cpp there).
type genaiConfig struct {
	Model  genaiModel  `json:"model"`
	Search genaiSearch `json:"search"`
}

type genaiModel struct {
	Type          string       `json:"type"`
	ContextLength int          `json:"context_length"`
	VocabSize     int          `json:"vocab_size"`
	BOS           *int         `json:"bos_token_id,omitempty"`
	EOS           []int        `json:"eos_token_id,omitempty"`
	Pad           *int         `json:"pad_token_id,omitempty"`
	Decoder       genaiDecoder `json:"decoder"`
}

type genaiDecoder struct {
	Filename       string            `json:"filename"`
	HeadSize       int               `json:"head_size"`
	HiddenSize     int               `json:"hidden_size"`
	NumHeads       int               `json:"num_attention_heads"`
	NumLayers      int               `json:"num_hidden_layers"`
	NumKVHeads     int               `json:"num_key_value_heads"`
	SessionOptions genaiSession      `json:"session_options"`
	Inputs         map[string]string `json:"inputs"`
	Outputs        map[string]string `json:"outputs"`
}

type genaiSession struct {
	LogID           string `json:"log_id"`
	ProviderOptions []any  `json:"provider_options"`
}

type genaiSearch struct {
	DoSample          bool    `json:"do_sample"`
	MaxLength         int     `json:"max_length"`
	MinLength         int     `json:"min_length"`
	NumBeams          int     `json:"num_beams"`
	ShareBuffer       bool    `json:"past_present_share_buffer"`
	RepetitionPenalty float64 `json:"repetition_penalty"`
	Temperature       float64 `json:"temperature"`
	TopK              int     `json:"top_k"`
	TopP              float64 `json:"top_p"`
}

// genaiNames gives onnxruntime-genai's words for inputs and outputs; %d is the layer.
var genaiInputs = []struct{ key, name string }{
	{"input_ids", "input_ids"},
	{"attention_mask", "attention_mask"},
	{"position_ids", "position_ids"},
	{"past_key_names", "past_key_values.%d.key"},
	{"past_value_names", "past_key_values.%d.value"},
}

var genaiOutputs = []struct{ key, name string }{
	{"logits", "logits"},
	{"present_key_names", "present.%d.key"},
	{"present_value_names", "present.%d.value"},
}

// WriteGenAI writes dir/genai_config.json, with which onnxruntime-genai 0.18 opens the folder. It
// lists the inputs and outputs that the graph has. Past and present share one buffer where attention
// is GroupQueryAttention, which writes into it in place.
func WriteGenAI(dir string, f Facts, m *ir.Model) error {
	config, err := newGenAI(f, m)
	if err == nil {
		err = writeJSON(filepath.Join(dir, GenAIName), config)
	}
	if err != nil {
		return fmt.Errorf("folder: %s: %w", GenAIName, err)
	}
	return nil
}

// ErrNoFacts means that a folder has no genai_config.json.
var ErrNoFacts = errors.New("no " + GenAIName)

// maxGenAI is far above any genai_config.json; a file beyond it is something else.
const maxGenAI = 1 << 20

// ReadGenAI reads dir/genai_config.json, which folders made by onnxruntime-genai's model builder have instead
// of a config.json.
//
// Errors: ErrNoFacts.
func ReadGenAI(dir string) (Facts, error) {
	path := filepath.Join(dir, GenAIName)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Facts{}, fmt.Errorf("folder: %s: %w", dir, ErrNoFacts)
	}
	if err != nil {
		return Facts{}, fmt.Errorf("folder: %w", err)
	}
	defer f.Close()
	var c struct {
		Model struct {
			genaiModel
			EOS tokens `json:"eos_token_id"` // a number or a list
		} `json:"model"`
		Search genaiSearch `json:"search"`
	}
	c.Search = genaiSearch{Temperature: 1, TopP: 1, RepetitionPenalty: 1}
	data, err := io.ReadAll(io.LimitReader(f, maxGenAI+1))
	if err == nil && len(data) > maxGenAI {
		err = fmt.Errorf("more than %d bytes", maxGenAI)
	}
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	m, d := c.Model, c.Model.Decoder
	if err == nil && (m.ContextLength <= 0 || d.HeadSize <= 0 || d.NumHeads <= 0 || d.NumKVHeads <= 0 || d.NumLayers <= 0) {
		err = errors.New("want context_length, head_size, num_attention_heads, num_key_value_heads and num_hidden_layers above 0")
	}
	if err != nil {
		return Facts{}, fmt.Errorf("folder: %s: %w", path, err)
	}
	none := -1
	return Facts{
		Type: m.Type, ContextLength: m.ContextLength, VocabSize: m.VocabSize,
		HiddenSize: d.HiddenSize, HeadDim: d.HeadSize, NumHeads: d.NumHeads, NumKVHeads: d.NumKVHeads, NumLayers: d.NumLayers,
		BOS: *cmp.Or(m.BOS, &none), EOS: m.EOS, Pad: *cmp.Or(m.Pad, &none),
		Sampling: Sampling{
			DoSample: c.Search.DoSample, Temperature: c.Search.Temperature, TopK: c.Search.TopK, TopP: c.Search.TopP,
			RepetitionPenalty: c.Search.RepetitionPenalty,
		},
	}, nil
}

// tokens are token ids that JSON gives as a number, a list or null.
type tokens []int

func (t *tokens) UnmarshalJSON(b []byte) error {
	var one *int
	if err := json.Unmarshal(b, &one); err == nil {
		if *t = nil; one != nil {
			*t = tokens{*one}
		}
		return nil
	}
	return json.Unmarshal(b, (*[]int)(t))
}

func newGenAI(f Facts, m *ir.Model) (*genaiConfig, error) {
	inputs, outputs := map[string]bool{}, map[string]bool{}
	for _, v := range m.Graph.Inputs() {
		inputs[v.Name] = true
	}
	for _, v := range m.Graph.Outputs() {
		outputs[v.Name] = true
	}
	c := &genaiConfig{
		Model: genaiModel{
			Type:          f.Type,
			ContextLength: f.ContextLength,
			VocabSize:     f.VocabSize,
			BOS:           tokenOr(f.BOS, nil),
			EOS:           f.EOS,
			Pad:           tokenOr(f.Pad, f.EOS),
			Decoder: genaiDecoder{
				Filename:       ModelName,
				HeadSize:       f.HeadDim,
				HiddenSize:     f.HiddenSize,
				NumHeads:       f.NumHeads,
				NumLayers:      f.NumLayers,
				NumKVHeads:     f.NumKVHeads,
				SessionOptions: genaiSession{LogID: "onnxruntime-genai", ProviderOptions: []any{}},
				Inputs:         map[string]string{},
				Outputs:        map[string]string{},
			},
		},
		Search: genaiSearch{
			DoSample:          f.Sampling.DoSample,
			MaxLength:         f.ContextLength,
			NumBeams:          1,
			ShareBuffer:       hasGroupQueryAttention(m),
			RepetitionPenalty: f.Sampling.RepetitionPenalty,
			Temperature:       f.Sampling.Temperature,
			TopK:              f.Sampling.TopK,
			TopP:              f.Sampling.TopP,
		},
	}
	for _, n := range genaiInputs {
		if hasAll(inputs, n.name, f.NumLayers) {
			c.Model.Decoder.Inputs[n.key] = n.name
		}
	}
	for _, n := range genaiOutputs {
		if !hasAll(outputs, n.name, f.NumLayers) {
			return nil, fmt.Errorf("the graph has no output %s", n.name)
		}
		c.Model.Decoder.Outputs[n.key] = n.name
	}
	if c.Model.Decoder.Inputs["input_ids"] == "" || c.Model.Decoder.Inputs["past_key_names"] == "" {
		return nil, errors.New("the graph has no input input_ids or past_key_values.%d.key")
	}
	return c, nil
}

func tokenOr(id int, others []int) *int {
	switch {
	case id >= 0:
		return &id
	case len(others) > 0:
		return &others[0]
	}
	return nil
}

// hasAll reports whether name is there; with %d in it, for every layer.
func hasAll(have map[string]bool, name string, layers int) bool {
	if !strings.Contains(name, "%d") {
		return have[name]
	}
	for i := range layers {
		if !have[fmt.Sprintf(name, i)] {
			return false
		}
	}
	return true
}

func hasGroupQueryAttention(m *ir.Model) bool {
	for _, n := range m.Graph.Nodes() {
		if n.Is("com.microsoft", "GroupQueryAttention") {
			return true
		}
	}
	return false
}
