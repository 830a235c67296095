package accelerate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/qwenrt/qwenrt/models/folder"
	"github.com/qwenrt/qwenrt/quantize"
	"github.com/qwenrt/qwenrt/quantize/calib"
	"github.com/qwenrt/qwenrt/runner/chat"
	"github.com/qwenrt/qwenrt/runner/tokenizer"
)

// Calibration says what text a model is run on where a method needs that. The zero value takes the text
// that comes with package calib.
type Calibration struct {
	// File of plain text, or of lines of JSON with text or messages; see calib.ReadDocuments.
	File string `yaml:"file"`
	// Samples, and Length of each in tokens. Default: calib.DefaultSamples of calib.DefaultLength.
	Samples int `yaml:"samples"`
	Length  int `yaml:"length"`
	// Seed of the places in the text at which samples begin.
	Seed uint64 `yaml:"seed"`
	// Statistics, if set, is a file that keeps what AWQ and SmoothQuant observe, see calib.Options.
	Statistics string `yaml:"statistics"`
	// GPTQ says how GPTQ works.
	GPTQ quantize.GPTQOptions `yaml:"gptq"`
}

func (c Calibration) documents() ([]calib.Document, error) {
	if c.File == "" {
		return calib.BuiltIn(), nil
	}
	return calib.ReadDocuments(c.File)
}

// samples cuts the calibration text into samples of tokens. Tokenizer and chat template are read from the stage,
// as sources need not be folders.
func (w *work) samples(ctx context.Context) ([][]int64, error) {
	documents, err := w.set.Calibration.documents()
	if err != nil {
		return nil, err
	}
	if _, err := w.stage.CopySideFiles(w.files); err != nil {
		return nil, err
	}
	tokens, err := tokenize(ctx, w.stage, documents)
	if err != nil {
		return nil, err
	}
	c := w.set.Calibration
	return calib.Sampling{Samples: c.Samples, Length: c.Length, Seed: c.Seed}.Take(tokens)
}

func tokenize(ctx context.Context, stage *folder.Stage, documents []calib.Document) (tokens []int32, err error) {
	tok, err := tokenizer.Open(stage.Dir())
	if err != nil {
		return nil, fmt.Errorf("accelerate: calibration text needs a tokenizer: %w", err)
	}
	defer func() { err = errors.Join(err, tok.Close()) }()
	var template *chat.Template
	for i, d := range documents {
		text := d.Text
		if len(d.Messages) > 0 {
			if template == nil {
				if template, err = chat.Load(stage.Dir()); err != nil {
					return nil, fmt.Errorf("accelerate: calibration messages need a chat template: %w", err)
				}
			}
			if text, err = render(ctx, template, d.Messages); err != nil {
				return nil, fmt.Errorf("accelerate: calibration document %d: %w", i+1, err)
			}
		}
		ids, err := tok.Encode(text)
		if err != nil {
			return nil, fmt.Errorf("accelerate: calibration document %d: %w", i+1, err)
		}
		tokens = append(tokens, ids...)
	}
	return tokens, nil
}

func render(ctx context.Context, template *chat.Template, raw []json.RawMessage) (string, error) {
	messages := make([]chat.Message, len(raw))
	for i, m := range raw {
		if err := json.Unmarshal(m, &messages[i]); err != nil {
			return "", fmt.Errorf("message %d: %w", i+1, err)
		}
	}
	return template.Render(ctx, messages, chat.Options{})
}
