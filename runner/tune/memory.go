package tune

import (
	"cmp"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/machine"
)

// Memory is what a model takes while it runs, in bytes.
type Memory struct {
	Weights     int64 `json:"weights"`     // as kernels hold them
	KV          int64 `json:"kv"`          // of one sequence, at the context
	Activations int64 `json:"activations"` // of a chunk of the prompt, and the logits
	Total       int64 `json:"total"`       // with the program itself
}

// What a process takes beside the model: the program with ONNX Runtime, and its tokenizer, for each token that it knows.
const (
	programBytes   = 24 << 20
	tokenizerBytes = 140
)

// heldBits are the bits of a weight as kernels hold it: levels, and for each block a scale and, since products are
// computed in integers, the sum of the block, both in float32.
func (k Kernel) heldBits() float64 {
	switch k.Weights {
	case machine.Int4:
		return 4 + 64/float64(k.Block)
	case machine.Int8:
		return 8 + 64/float64(k.Block)
	case machine.DynamicInt8, machine.StaticInt8:
		return 8
	case halfPrecision:
		return 16
	}
	return 32
}

// Memory estimates that of m with products on k, behind context tokens, with elements of the cache of so many bytes,
// and prompts run in chunks (0: the runner's default).
func (m Model) Memory(k Kernel, context int, element float64, chunk int) Memory {
	l := m.Layer
	rows := int64(min(cmp.Or(chunk, runner.DefaultPrefillChunk), max(context, 1)))
	widest := l.Hidden + max(2*l.Intermediate, (l.Heads+2*l.KVHeads)*l.HeadDim)
	e := Memory{
		Weights: int64(float64(m.LayerWeights()+m.HeadWeights()) * k.heldBits() / 8),
		// The cache grows by steps of 256 tokens.
		KV:          int64(float64(2*int64(m.Layers)*l.KVHeads*l.HeadDim*int64((context+255)/256*256)) * element),
		Activations: 2*rows*widest*4 + m.Vocab*4,
	}
	e.Total = e.Weights + e.KV + e.Activations + programBytes + tokenizerBytes*m.Vocab
	return e
}
