package tune

import (
	"path/filepath"

	"github.com/qwenrt/qwenrt/models/qwen3"
	"github.com/qwenrt/qwenrt/runner/machine"
)

// Model is what estimates need of one.
type Model struct {
	Layers int
	Layer  machine.Shape
	Vocab  int64
	Tied   bool // the head is the embedding
	// Context is the most that the model can attend to, in tokens.
	Context int
}

// ReadModel reads config.json of a checkpoint or of a model folder.
func ReadModel(dir string) (Model, error) {
	c, err := qwen3.ReadConfig(filepath.Join(dir, "config.json"))
	if err != nil {
		return Model{}, err
	}
	return NewModel(c), nil
}

// ParseModel reads the text of a config.json.
func ParseModel(text []byte) (Model, error) {
	c, err := qwen3.ParseConfig(text)
	if err != nil {
		return Model{}, err
	}
	return NewModel(c), nil
}

// Qwen3Small is the shape of Qwen3-0.6B.
func Qwen3Small() Model {
	return Model{
		Layers: 28, Vocab: 151936, Tied: true, Context: 40960,
		Layer: machine.Shape{Hidden: 1024, Heads: 16, KVHeads: 8, HeadDim: 128, Intermediate: 3072},
	}
}

// NewModel takes what it needs from a configuration.
func NewModel(c *qwen3.Config) Model {
	return Model{
		Layers: c.NumLayers,
		Layer: machine.Shape{
			Hidden: int64(c.HiddenSize), Heads: int64(c.NumHeads), KVHeads: int64(c.NumKVHeads),
			HeadDim: int64(c.HeadDim), Intermediate: int64(c.IntermediateSize),
		},
		Vocab: int64(c.VocabSize), Tied: c.TiedEmbeddings, Context: c.ContextLength(),
	}
}

// LayerWeights counts the weights of all layers' products.
func (m Model) LayerWeights() int64 {
	l := m.Layer
	attention := l.Hidden * l.HeadDim * (2*l.Heads + 2*l.KVHeads) // q, k, v and o
	return int64(m.Layers) * (attention + 3*l.Hidden*l.Intermediate)
}

// HeadWeights counts the weights of the head, which each token of an answer goes through, and of a prompt the last alone.
func (m Model) HeadWeights() int64 { return m.Vocab * m.Layer.Hidden }

// Weights counts all weights but the norms', which are too few to matter.
func (m Model) Weights() int64 {
	n := m.LayerWeights() + m.HeadWeights()
	if !m.Tied {
		n += m.HeadWeights()
	}
	return n
}
