package runner

import (
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
	context  int64   // 0 if no file tells
	stop     []int32 // end-of-sequence tokens
	sampling sample.Params
}

const maxJSON = 16 << 20

// readJSON fills v from a file; a file that is not there leaves v as it is.
func readJSON(path string, v any) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("runner: %w", err)
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
		return fmt.Errorf("runner: read %s: %w", path, err)
	}
	return nil
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
		EOS     ids   `json:"eos_token_id"`
	}
	var genai struct {
		Model struct {
			Context int64 `json:"context_length"`
			EOS     ids   `json:"eos_token_id"`
		} `json:"model"`
	}
	gen := struct {
		EOS         ids     `json:"eos_token_id"`
		Sample      bool    `json:"do_sample"`
		Temperature float64 `json:"temperature"`
		TopK        int     `json:"top_k"`
		TopP        float64 `json:"top_p"`
		MinP        float64 `json:"min_p"`
		Repetition  float64 `json:"repetition_penalty"`
	}{Temperature: 1}
	for name, v := range map[string]any{"config.json": &config, "genai_config.json": &genai, "generation_config.json": &gen} {
		if err := readJSON(filepath.Join(dir, name), v); err != nil {
			return modelConfig{}, err
		}
	}
	c := modelConfig{context: max(config.Context, genai.Model.Context)}
	for _, list := range []ids{gen.EOS, config.EOS, genai.Model.EOS} {
		for _, id := range list {
			if !slices.Contains(c.stop, id) {
				c.stop = append(c.stop, id)
			}
		}
	}
	if gen.Sample {
		c.sampling = sample.Params{Temperature: gen.Temperature, TopK: gen.TopK, TopP: gen.TopP, MinP: gen.MinP, RepetitionPenalty: gen.Repetition}
	}
	return c, nil
}
