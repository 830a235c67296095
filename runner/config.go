package runner

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/qwenrt/qwenrt/runner/sample"
)

// modelConfig is what the JSON files beside a model say about running it.
type modelConfig struct {
	context  int64 // 0 if no file tells; so the next three
	heads    int64 // of queries
	kvHeads  int64
	headDim  int64
	stop     []int32 // end-of-sequence tokens
	sampling sample.Params
}

const maxJSON = 16 << 20

// readJSON fills v from a file, and reports whether it is there.
func readJSON(path string, v any) (found bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("runner: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxJSON+1))
	if err == nil && len(b) > maxJSON {
		err = fmt.Errorf("larger than %d MB", maxJSON>>20)
	}
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		return false, fmt.Errorf("runner: read %s: %w", path, err)
	}
	return true, nil
}

// ids are token ids that JSON gives as a number, a list or null.
type ids []int32

func (t *ids) UnmarshalJSON(b []byte) error {
	var one *int32
	if err := json.Unmarshal(b, &one); err == nil {
		if one != nil {
			*t = ids{*one}
		}
		return nil
	}
	return json.Unmarshal(b, (*[]int32)(t))
}

// readConfig reads config.json, generation_config.json and genai_config.json, as far as they are there.
func readConfig(dir string) (modelConfig, error) {
	var config struct {
		Context int64 `json:"max_position_embeddings"`
		Heads   int64 `json:"num_attention_heads"`
		KVHeads int64 `json:"num_key_value_heads"`
		HeadDim int64 `json:"head_dim"`
		EOS     ids   `json:"eos_token_id"`
	}
	var genai struct {
		Model struct {
			Context int64 `json:"context_length"`
			EOS     ids   `json:"eos_token_id"`
			Decoder struct {
				Heads   int64 `json:"num_attention_heads"`
				KVHeads int64 `json:"num_key_value_heads"`
				HeadDim int64 `json:"head_size"`
			} `json:"decoder"`
		} `json:"model"`
		Search searchConfig `json:"search"`
	}
	genai.Search = searchDefaults
	gen := searchDefaults
	var there [3]bool
	for i, f := range []struct {
		name string
		into any
	}{{configFile, &config}, {genaiFile, &genai}, {generationFile, &gen}} {
		var err error
		if there[i], err = readJSON(filepath.Join(dir, f.name), f.into); err != nil {
			return modelConfig{}, err
		}
	}
	c := modelConfig{
		// onnxruntime-genai's is the context as yarn stretches it, which config.json may leave at the original.
		context: max(config.Context, genai.Model.Context),
		heads:   cmp.Or(genai.Model.Decoder.Heads, config.Heads),
		kvHeads: cmp.Or(genai.Model.Decoder.KVHeads, config.KVHeads),
		headDim: cmp.Or(genai.Model.Decoder.HeadDim, config.HeadDim),
	}
	for _, list := range []ids{gen.EOS, config.EOS, genai.Model.EOS} {
		for _, id := range list {
			if !slices.Contains(c.stop, id) {
				c.stop = append(c.stop, id)
			}
		}
	}
	from := generationFile
	if there[1] && !there[2] {
		from, gen = genaiFile, genai.Search
	}
	c.sampling = gen.params()
	if err := c.sampling.Validate(); err != nil {
		return modelConfig{}, fmt.Errorf("runner: %s: %w", filepath.Join(dir, from), err)
	}
	return c, nil
}

const (
	configFile     = "config.json"
	generationFile = "generation_config.json"
	genaiFile      = "genai_config.json"
)

// searchConfig is generation_config.json, and the part "search" of genai_config.json.
type searchConfig struct {
	EOS         ids     `json:"eos_token_id"`
	Sample      bool    `json:"do_sample"` // default: greedy
	Temperature float64 `json:"temperature"`
	TopK        int     `json:"top_k"`
	TopP        float64 `json:"top_p"`
	MinP        float64 `json:"min_p"`
	Repetition  float64 `json:"repetition_penalty"`
}

// searchDefaults is what transformers' GenerationConfig takes where a file says nothing.
var searchDefaults = searchConfig{Temperature: 1, TopK: 50, TopP: 1, Repetition: 1}

func (g searchConfig) params() sample.Params {
	p := sample.Params{RepetitionPenalty: g.Repetition}
	if p.RepetitionPenalty == 1 {
		p.RepetitionPenalty = 0 // off: the zero value
	}
	if g.Sample {
		p.Temperature, p.TopK, p.TopP, p.MinP = g.Temperature, g.TopK, g.TopP, g.MinP
	}
	return p
}
