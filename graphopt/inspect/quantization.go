package inspect

import (
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Quantization is a form in which weights are stored, and how many are in it.
type Quantization struct {
	Operator  string `json:"operator"` // that reads them
	Bits      int64  `json:"bits"`
	BlockSize int64  `json:"block_size"` // weights that share a scale; 0: a channel or the whole tensor
	Symmetric bool   `json:"symmetric"`  // there are no zero points
	// AccuracyLevel of MatMulNBits: 4 computes with activations in 8 bits; 0 where it is not given.
	AccuracyLevel int64 `json:"accuracy_level"`
	Tensors       int   `json:"tensors"`
	Weights       int64 `json:"weights"`
	Bytes         int64 `json:"bytes"` // with scales and zero points
}

// storage says which operands of an operator hold quantised weights, their scales and their zero points.
var storage = map[string]struct{ weight, scale, zero int }{
	"com.microsoft.MatMulNBits":           {1, 2, 3},
	"com.microsoft.GatherBlockQuantized":  {0, 2, 3},
	"com.microsoft.DynamicQuantizeMatMul": {1, 2, 3},
	"com.microsoft.MatMulIntegerToFloat":  {1, 3, 5},
	"MatMulInteger":                       {1, -1, 3},
	"QLinearMatMul":                       {3, 4, 5},
	"DequantizeLinear":                    {0, 1, 2},
	"com.microsoft.DequantizeLinear":      {0, 1, 2},
}

// tables are the operators, and their operands from which on constants are no weights but tables.
var tables = map[string]int{
	"com.microsoft.GroupQueryAttention": 5,
	"com.microsoft.RotaryEmbedding":     1,
	"RotaryEmbedding":                   1,
}

// weigh fills in what is said of weights.
func (s *Summary) weigh(g *ir.Graph) {
	s.Quantization = []Quantization{}
	seen := map[ir.Data]bool{}
	take := func(t *ir.Tensor) int64 {
		if t == nil || t.Data == nil || seen[t.Data] {
			return 0
		}
		seen[t.Data] = true
		return t.ByteLen()
	}
	g.Walk(func(n *ir.Node) {
		at, ok := storage[opName(n)]
		if !ok {
			return
		}
		w := constant(n.Input(at.weight))
		if w == nil || w.DType.Float() {
			return
		}
		bytes := take(w)
		if bytes == 0 {
			return // a table that is shared, or empty
		}
		q := describe(n, w)
		q.Symmetric = n.Input(at.zero) == nil
		q.Weights = weights(n, w, q.Bits)
		q.Bytes = bytes + take(constant(n.Input(at.scale))) + take(constant(n.Input(at.zero)))
		s.add(q)
		s.Parameters += q.Weights
		s.WeightBytes += q.Bytes
	})
	for _, v := range g.Initializers() {
		if t := v.Const; t.DType.Float() && t.Len() > 1 && !isTable(v) {
			if bytes := take(t); bytes > 0 {
				s.Parameters += t.Len()
				s.WeightBytes += bytes
			}
		}
	}
	if s.Parameters > 0 {
		s.BitsPerWeight = 8 * float64(s.WeightBytes) / float64(s.Parameters)
	}
}

// add merges q into the entry of the same form.
func (s *Summary) add(q Quantization) {
	for i := range s.Quantization {
		e := &s.Quantization[i]
		same := q
		same.Tensors, same.Weights, same.Bytes = e.Tensors, e.Weights, e.Bytes
		if *e == same {
			e.Tensors, e.Weights, e.Bytes = e.Tensors+1, e.Weights+q.Weights, e.Bytes+q.Bytes
			return
		}
	}
	q.Tensors = 1
	s.Quantization = append(s.Quantization, q)
}

// describe gives the form of a quantised tensor.
func describe(n *ir.Node, w *ir.Tensor) Quantization {
	q := Quantization{Operator: n.OpType, Bits: int64(w.DType.Bits()), BlockSize: n.Int("block_size", 0), AccuracyLevel: n.Int("accuracy_level", 0)}
	switch n.OpType {
	case "MatMulNBits":
		q.Bits = n.Int("bits", 4)
	case "GatherBlockQuantized":
		q.Bits = n.Int("bits", 4)
		if w.DType == ir.Int4 || w.DType == ir.Uint4 {
			q.Bits = 4
		}
		if q.BlockSize == 0 {
			q.BlockSize = 128 // the operator's default
		}
	}
	return q
}

// weights is the number of weights in w, padding left out where the operator tells.
func weights(n *ir.Node, w *ir.Tensor, bits int64) int64 {
	switch {
	case n.OpType == "MatMulNBits":
		return max(n.Int("N", 0), 0) * max(n.Int("K", 0), 0)
	case w.DType.Bits() == 8 && 0 < bits && bits < 8: // several in a byte
		return w.Len() * 8 / bits
	}
	return w.Len()
}

// constant is the content of a value, also where a Reshape or a Transpose stands between, as it does
// where a table is read in two shapes.
func constant(v *ir.Value) *ir.Tensor {
	for range 4 {
		if v == nil {
			return nil
		}
		if t := v.Constant(); t != nil {
			return t
		}
		p := v.Producer()
		if !p.Is("", "Reshape") && !p.Is("", "Transpose") && !p.Is("", "Identity") {
			return nil
		}
		v = p.Input(0)
	}
	return nil
}

// isTable reports whether all that read a constant take it for something other than weights.
func isTable(v *ir.Value) bool {
	uses := v.Uses()
	for _, u := range uses {
		name := opName(u.Node)
		from, table := tables[name]
		at, quantized := storage[name]
		if !(table && u.Index >= from) && !(quantized && (u.Index == at.scale || u.Index == at.zero)) {
			return false
		}
	}
	return len(uses) > 0
}
