package interp

import (
	"fmt"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

func likeFirst(_ *ir.Node, in []*Tensor) ([]result, error) {
	return []result{{dtype: in[0].DType, shape: in[0].Shape}}, nil
}

func skipNorm(_ *ir.Node, in []*Tensor) ([]result, error) {
	like := result{dtype: in[0].DType, shape: in[0].Shape}
	return []result{like, {}, {}, like}, nil
}

func fusedMatMul(n *ir.Node, in []*Tensor) ([]result, error) {
	if n.Int("transBatchA", 0) != 0 || n.Int("transBatchB", 0) != 0 {
		return nil, unsupported("FusedMatMul with transposed batches")
	}
	turned := func(t *Tensor, attr string) *Tensor {
		r := len(t.Shape)
		if n.Int(attr, 0) == 0 || r < 2 {
			return t
		}
		shape := append([]int64{}, t.Shape...)
		shape[r-2], shape[r-1] = shape[r-1], shape[r-2]
		return ShapeOnly(t.DType, shape...)
	}
	shape, err := matMulShape(turned(in[0], "transA"), turned(in[1], "transB"))
	return []result{{dtype: in[0].DType, shape: shape}}, err
}

// groupQueryAttention knows the forms that the optimiser writes: queries, keys and values apart or as one.
func groupQueryAttention(n *ir.Node, in []*Tensor) ([]result, error) {
	if len(in) < 5 || in[3] == nil || in[4] == nil {
		return nil, unsupported("GroupQueryAttention without a past")
	}
	q, past := in[0], in[3].Shape
	if len(q.Shape) != 3 || len(past) != 4 {
		return nil, fmt.Errorf("operands %v and %v", q.Shape, past)
	}
	rows := q.Shape[1]
	if k := in[1]; k != nil {
		if len(k.Shape) != 3 {
			return nil, fmt.Errorf("keys %v", k.Shape)
		}
		rows = k.Shape[1]
	}
	present := result{dtype: in[3].DType, shape: []int64{past[0], past[1], past[2] + rows, past[3]}}
	out := []int64{q.Shape[0], q.Shape[1], n.Int("num_heads", 0) * past[3]}
	return []result{{dtype: q.DType, shape: out}, present, present}, nil
}

// gemm is the product of two matrices, each of them transposed or not.
func gemm(n *ir.Node, in []*Tensor) ([]result, error) {
	a, b := in[0].Shape, in[1].Shape
	if len(a) != 2 || len(b) != 2 {
		return nil, fmt.Errorf("%v times %v", a, b)
	}
	rows, depth := a[0], a[1]
	if n.Int("transA", 0) != 0 {
		rows, depth = depth, rows
	}
	also, cols := b[0], b[1]
	if n.Int("transB", 0) != 0 {
		also, cols = cols, also
	}
	if depth != also {
		return nil, fmt.Errorf("%v times %v", a, b)
	}
	return []result{{dtype: in[0].DType, shape: []int64{rows, cols}}}, nil
}

// matMulNBits multiplies with a packed matrix of attributes K and N.
func matMulNBits(n *ir.Node, in []*Tensor) ([]result, error) {
	s := in[0].Shape
	if len(s) == 0 || s[len(s)-1] != n.Int("K", 0) || n.Int("N", 0) <= 0 {
		return nil, fmt.Errorf("operand %v for K %d and N %d", s, n.Int("K", 0), n.Int("N", 0))
	}
	return []result{{dtype: in[0].DType, shape: append(append([]int64{}, s[:len(s)-1]...), n.Int("N", 0))}}, nil
}

// gatherBlockQuantized looks up rows of a table, whose elements lie several in a byte where its type is uint8.
func gatherBlockQuantized(n *ir.Node, in []*Tensor) ([]result, error) {
	table, idx, scales := in[0], in[1], in[2]
	if n.Int("gather_axis", 0) != 0 || len(table.Shape) != 2 {
		return nil, unsupported("GatherBlockQuantized along axis %d of %v", n.Int("gather_axis", 0), table.Shape)
	}
	width := table.Shape[1]
	if bits := n.Int("bits", 4); table.DType == ir.Uint8 && bits > 0 && bits < 8 {
		width *= 8 / bits
	}
	return []result{{dtype: scales.DType, shape: append(append([]int64{}, idx.Shape...), width)}}, nil
}
