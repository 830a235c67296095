package accelerate

import (
	"cmp"

	"github.com/qwenrt/qwenrt/graphopt/inspect"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/machine"
)

// Memory is what a model needs, in bytes.
type Memory struct {
	Estimate Estimate `json:"estimate"`
	Measured Measured `json:"measured"`
}

// Measured is the memory of the whole process after the model was opened; 0 where the system does not tell.
type Measured struct {
	Anonymous int64 `json:"anonymous"` // allocated and resident; mapped files are not
	Peak      int64 `json:"peak"`      // the most that was ever resident, mapped files too
}

func measureMemory() Measured {
	peak, anonymous := machine.ResidentMemory()
	return Measured{Anonymous: anonymous, Peak: peak}
}

// Estimate is what the graph tells before anything is loaded.
type Estimate struct {
	// Packed are weights in the form of ONNX Runtime's kernels, which is allocated, or mapped where they are prepacked.
	Packed int64 `json:"packed_weights"`
	// Mapped are constants that are read where they lie in the model's file.
	Mapped int64 `json:"mapped_weights"`
	// KV is the cache of one sequence of Context tokens.
	KV      int64 `json:"kv_cache"`
	Context int   `json:"kv_context"`
	// Activations is the most that one run of a chunk of the prompt holds.
	Activations int64 `json:"activations"`
	// FP32 is what the weights would take in fp32, and Saved what Packed and Mapped are less than that; 0 where they are not.
	FP32  int64 `json:"fp32_weights"`
	Saved int64 `json:"saved"`
}

// SavedPercent is Saved as a part of FP32.
func (e Estimate) SavedPercent() float64 {
	if e.FP32 == 0 {
		return 0
	}
	return 100 * float64(e.Saved) / float64(e.FP32)
}

// estimateContext is the number of tokens that the cache is reckoned for, unless model or configuration allow fewer.
const estimateContext = 4096

// Estimate reckons what the model takes on the CPU, from its graph alone.
func (p *Prepared) Estimate() (Estimate, error) {
	err := p.look()
	return p.estimate, err
}

func (p *Prepared) reckon(m *ir.Model, s *inspect.Summary) Estimate {
	e := Estimate{Context: estimateContext}
	for _, n := range []int{p.Options.MaxContext, positions(m.Graph)} {
		if n > 0 {
			e.Context = min(e.Context, n)
		}
	}
	if s.KVCache != nil {
		e.KV = s.KVCache.BytesPerToken * int64(e.Context)
	}
	e.weights(m.Graph)
	chunk := min(cmp.Or(p.Options.PrefillChunk, runner.DefaultPrefillChunk), e.Context)
	// What a product reads and writes, and the residual stream beside, as much again.
	e.Activations = 2 * 4 * int64(chunk) * widest(m.Graph)
	e.Saved = max(e.FP32-e.Packed-e.Mapped, 0)
	return e
}

// positions is how many the rotary tables of the graph have, 0 where attention has none of its own.
func positions(g *ir.Graph) (n int) {
	g.Walk(func(node *ir.Node) {
		if !node.Is("com.microsoft", "GroupQueryAttention") || node.Input(7) == nil {
			return
		}
		if t := node.Input(7).Constant(); t != nil && len(t.Shape) == 2 {
			n = int(t.Shape[0])
		}
	})
	return n
}

// weights goes through products and tables. A constant that kernels pack is left behind, and is not counted as mapped,
// unless something else reads it as it is.
func (e *Estimate) weights(g *ir.Graph) {
	packed, mapped := map[ir.Data]int64{}, map[ir.Data]int64{}
	elements := map[ir.Data]int64{}
	g.Walk(func(n *ir.Node) {
		for i, in := range n.Inputs() {
			t := weight(in)
			if t == nil || t.Data == nil || n.OpType == "DequantizeLinear" { // it goes into the product behind it
				continue
			}
			bytes, weights := packedBytes(n, i, t)
			switch {
			case bytes > 0:
				packed[t.Data] = max(packed[t.Data], bytes)
			case bytes == 0:
				mapped[t.Data] = t.ByteLen()
			}
			elements[t.Data] = max(elements[t.Data], weights)
		}
	})
	for _, b := range packed {
		e.Packed += b
	}
	for _, b := range mapped {
		e.Mapped += b
	}
	for _, n := range elements {
		e.FP32 += 4 * n
	}
}

// weight is the constant that v is, or the integers of which it is made where the graph has them dequantised.
func weight(v *ir.Value) *ir.Tensor {
	if v == nil {
		return nil
	}
	if p := v.Producer(); p != nil && p.OpType == "DequantizeLinear" {
		return p.Input(0).Constant()
	}
	return v.Constant()
}

// packedBytes is what a kernel makes of operand i of n: 0 where it reads it in place, -1 where it is part of what
// another operand's packed form counts. weights are the model's weights in it.
func packedBytes(n *ir.Node, i int, t *ir.Tensor) (bytes, weights int64) {
	switch n.OpType {
	case "MatMulNBits":
		rows, columns, block, bits := n.Int("N", 0), n.Int("K", 0), n.Int("block_size", 32), n.Int("bits", 4)
		if i > 1 {
			return -1, 0
		}
		// Levels, and for each block a scale and, where products are computed in 8 bits, the sum of the block.
		return rows*columns*bits/8 + rows*((columns+block-1)/block)*8, rows * columns
	case "MatMul", "Gemm", "FusedMatMul", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulInteger", "QLinearMatMul":
		if i == 1 && len(t.Shape) == 2 {
			return t.ByteLen(), t.Len()
		}
	case "Gather":
		if i == 0 && t.DType.Float() {
			return 0, t.Len()
		}
	case "GatherBlockQuantized":
		if i == 0 {
			return 0, t.ByteLen() * 8 / max(n.Int("bits", 4), 1)
		}
	}
	return 0, 0
}

// widest is the largest number of elements that the products of a layer have for one token, together with what they read.
func widest(g *ir.Graph) (most int64) {
	g.Walk(func(n *ir.Node) {
		var in, out int64
		switch n.OpType {
		case "MatMulNBits":
			in, out = n.Int("K", 0), n.Int("N", 0)
		case "MatMul", "FusedMatMul", "DynamicQuantizeMatMul", "MatMulIntegerToFloat":
			if t := weight(n.Input(1)); t != nil && len(t.Shape) == 2 {
				in, out = t.Shape[0], t.Shape[1]
			}
		}
		if writes(n, "logits") { // of the rows that are asked for alone
			return
		}
		most = max(most, in+out)
	})
	return most
}

// writes reports whether a node writes the graph's output of this name.
func writes(n *ir.Node, output string) bool {
	for _, v := range n.Outputs() {
		if v != nil && v.Name == output {
			return true
		}
	}
	return false
}
