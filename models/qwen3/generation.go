package qwen3

import (
	"fmt"

	"github.com/qwenrt/qwenrt/models/folder"
)

// Generation is how a model is meant to be sampled from: generation_config.json, with transformers'
// defaults for what it leaves out.
type Generation struct {
	DoSample          bool    // default false: always the most likely token
	Temperature       float64 // default 1
	TopK              int     // default 50
	TopP              float64 // default 1
	RepetitionPenalty float64 // default 1: none
	Tokens            Tokens  // empty where config.json's count
}

func parseGeneration(file string, data []byte, vocab int) (*Generation, error) {
	var f faults
	o, err := parseObject(data, &f)
	if err != nil {
		return nil, fmt.Errorf("qwen3: %s: %w", file, err)
	}
	g := &Generation{
		DoSample:          o.boolean("do_sample", false),
		Temperature:       o.number("temperature", 1),
		TopK:              o.integer("top_k", 50),
		TopP:              o.number("top_p", 1),
		RepetitionPenalty: o.number("repetition_penalty", 1),
		Tokens:            Tokens{BOS: o.token("bos_token_id"), EOS: o.tokens("eos_token_id"), Pad: o.token("pad_token_id")},
	}
	g.check(&f)
	g.Tokens.check(vocab, &f)
	if err := f.err(); err != nil {
		return nil, fmt.Errorf("qwen3: %s: %w", file, err)
	}
	return g, nil
}

func (g *Generation) check(f *faults) {
	if !(g.Temperature >= 0 && finite(g.Temperature)) {
		f.add("temperature", "is %v, want 0 or more", g.Temperature)
	}
	if g.TopK < 0 {
		f.add("top_k", "is %d, want 0 or more", g.TopK)
	}
	if !(g.TopP > 0 && g.TopP <= 1) {
		f.add("top_p", "is %v, want more than 0, at most 1", g.TopP)
	}
	if !(g.RepetitionPenalty > 0 && finite(g.RepetitionPenalty)) {
		f.add("repetition_penalty", "is %v, want more than 0", g.RepetitionPenalty)
	}
}

// over gives the tokens of t, and those of config.json where t has none.
func (t Tokens) over(config Tokens) Tokens {
	if t.BOS == noToken {
		t.BOS = config.BOS
	}
	if len(t.EOS) == 0 {
		t.EOS = config.EOS
	}
	if t.Pad == noToken {
		t.Pad = config.Pad
	}
	return t
}

func facts(c *Config, g *Generation) folder.Facts {
	return folder.Facts{
		Type:          "qwen3",
		ContextLength: c.ContextLength(),
		VocabSize:     c.VocabSize,
		HiddenSize:    c.HiddenSize,
		HeadDim:       c.HeadDim,
		NumHeads:      c.NumHeads,
		NumKVHeads:    c.NumKVHeads,
		NumLayers:     c.NumLayers,
		BOS:           c.Tokens.BOS,
		EOS:           c.Tokens.EOS,
		Pad:           c.Tokens.Pad,
		Sampling: folder.Sampling{
			DoSample:          g.DoSample,
			Temperature:       g.Temperature,
			TopK:              g.TopK,
			TopP:              g.TopP,
			RepetitionPenalty: g.RepetitionPenalty,
		},
	}
}
