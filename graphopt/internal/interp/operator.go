package interp

import (
	"fmt"
	"math"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// operator says what a node gives, first its shape and then its content.
type operator struct {
	min, max  int    // operands: those that must be there, and how many there may be
	content   uint32 // bit i: the shape of the result depends on the content of operand i
	shapeOnly bool   // even the content of the result depends on shapes only
	plan      func(n *ir.Node, in []*Tensor) ([]result, error)
}

// result is one result of a node. It has one of fill and same; neither where only its shape is known.
type result struct {
	dtype ir.DType
	shape []int64
	fill  func(out *Tensor) error
	same  *Tensor // an operand with the same elements in the same order
}

func one(d ir.DType, shape []int64, fill func(out *Tensor) error) ([]result, error) {
	return []result{{dtype: d, shape: shape, fill: fill}}, nil
}

func viewed(t *Tensor, shape []int64) ([]result, error) {
	have, err := ir.NumElements(t.Shape)
	if err != nil {
		return nil, err
	}
	if n, err := ir.NumElements(shape); err != nil || n != have {
		return nil, fmt.Errorf("%v does not fill %v", t.Shape, shape)
	}
	return []result{{dtype: t.DType, shape: shape, same: t}}, nil
}

// many is the number of operands of an operator that takes any number of them.
const many = 1 << 20

// apply checks the operands of n and finds out what it gives.
func (op operator) apply(n *ir.Node, in []*Tensor) (results []result, err error) {
	defer catch(n, &err)
	if len(in) < op.min || len(in) > op.max {
		return nil, fmt.Errorf("interp: %v has %d operands, takes %d to %d", n, len(in), op.min, op.max)
	}
	for _, t := range in[:op.min] {
		if t == nil {
			return nil, fmt.Errorf("interp: %v lacks an operand", n)
		}
	}
	results, err = op.plan(n, in)
	if err != nil {
		return nil, fmt.Errorf("interp: %v: %w", n, err)
	}
	for _, r := range results {
		if len(r.shape) > maxRank {
			return nil, unsupported("%d dimensions in %v", len(r.shape), n)
		}
		if _, err := ir.NumElements(r.shape); err != nil {
			return nil, fmt.Errorf("interp: %v: %w", n, err)
		}
	}
	return results, nil
}

func lookup(n *ir.Node) (operator, bool) {
	name := n.OpType
	if !n.Is("", name) {
		name = n.Domain + "." + name
	}
	op, ok := operators[name]
	return op, ok
}

var operators = map[string]operator{
	"Add": arith(2, 2, func(a, b float64) float64 { return a + b }, func(a, b int64) (int64, error) { return a + b, nil }),
	"Sub": arith(2, 2, func(a, b float64) float64 { return a - b }, func(a, b int64) (int64, error) { return a - b, nil }),
	"Mul": arith(2, 2, func(a, b float64) float64 { return a * b }, func(a, b int64) (int64, error) { return a * b, nil }),
	"Div": arith(2, 2, func(a, b float64) float64 { return a / b }, func(a, b int64) (int64, error) {
		if b == 0 {
			return 0, errDivision
		}
		return a / b, nil
	}),
	"Max": arith(1, many, math.Max, func(a, b int64) (int64, error) { return max(a, b), nil }),
	"Min": arith(1, many, math.Min, func(a, b int64) (int64, error) { return min(a, b), nil }),
	"Pow": {min: 2, max: 2, plan: pow},
	"Mod": {min: 2, max: 2, plan: mod},

	"Equal":          compare(func(a, b float64) bool { return a == b }, func(a, b int64) bool { return a == b }),
	"Less":           compare(func(a, b float64) bool { return a < b }, func(a, b int64) bool { return a < b }),
	"LessOrEqual":    compare(func(a, b float64) bool { return a <= b }, func(a, b int64) bool { return a <= b }),
	"Greater":        compare(func(a, b float64) bool { return a > b }, func(a, b int64) bool { return a > b }),
	"GreaterOrEqual": compare(func(a, b float64) bool { return a >= b }, func(a, b int64) bool { return a >= b }),
	"And":            compare(nil, func(a, b int64) bool { return a != 0 && b != 0 }),
	"Or":             compare(nil, func(a, b int64) bool { return a != 0 || b != 0 }),
	"Xor":            compare(nil, func(a, b int64) bool { return a != 0 != (b != 0) }),

	"Not":        {min: 1, max: 1, plan: not},
	"IsNaN":      {min: 1, max: 1, plan: isNaN},
	"Neg":        unary(func(x float64) float64 { return -x }, func(x int64) int64 { return -x }),
	"Abs":        unary(math.Abs, func(x int64) int64 { return max(x, -x) }),
	"Sqrt":       unary(math.Sqrt, nil),
	"Reciprocal": unary(func(x float64) float64 { return 1 / x }, nil),
	"Exp":        unary(math.Exp, nil),
	"Log":        unary(math.Log, nil),
	"Cos":        unary(math.Cos, nil),
	"Sin":        unary(math.Sin, nil),
	"Floor":      unary(math.Floor, nil),
	"Ceil":       unary(math.Ceil, nil),
	"Sigmoid":    unary(func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }, nil),

	"Identity": {min: 1, max: 1, plan: func(_ *ir.Node, in []*Tensor) ([]result, error) { return viewed(in[0], in[0].Shape) }},
	"Cast": {min: 1, max: 1, plan: func(n *ir.Node, in []*Tensor) ([]result, error) {
		return castTo(in[0], ir.DType(n.Int("to", 0)))
	}},
	"CastLike": {min: 2, max: 2, plan: func(_ *ir.Node, in []*Tensor) ([]result, error) { return castTo(in[0], in[1].DType) }},
	"Where":    {min: 3, max: 3, plan: where},

	"Constant":        {min: 0, max: 0, plan: constant},
	"ConstantOfShape": {min: 1, max: 1, content: 1, plan: constantOfShape},
	"Range":           {min: 3, max: 3, content: 7, plan: rangeOf},
	"Shape":           {min: 1, max: 1, shapeOnly: true, plan: shapeOf},
	"Size":            {min: 1, max: 1, shapeOnly: true, plan: sizeOf},

	"Reshape":   {min: 2, max: 2, content: 2, plan: reshape},
	"Flatten":   {min: 1, max: 1, plan: flatten},
	"Squeeze":   {min: 1, max: 2, content: 2, plan: squeeze},
	"Unsqueeze": {min: 1, max: 2, content: 2, plan: unsqueeze},
	"Expand":    {min: 2, max: 2, content: 2, plan: expand},
	"Tile":      {min: 2, max: 2, content: 2, plan: tile},
	"Transpose": {min: 1, max: 1, plan: transpose},
	"Concat":    {min: 1, max: many, plan: concat},
	"Split":     {min: 1, max: 2, content: 2, plan: split},
	"Slice":     {min: 1, max: 5, content: 30, plan: slice},
	"Gather":    {min: 2, max: 2, plan: gather},
	"GatherND":  {min: 2, max: 2, plan: gatherND},
	"ScatterND": {min: 3, max: 3, plan: scatterND},
	"Trilu":     {min: 1, max: 2, plan: trilu},

	"CumSum":     {min: 2, max: 2, plan: cumSum},
	"MatMul":     {min: 2, max: 2, plan: matMul},
	"ReduceSum":  reduce(0, func(a, x float64) float64 { return a + x }, func(a, x int64) int64 { return a + x }),
	"ReduceProd": reduce(1, func(a, x float64) float64 { return a * x }, func(a, x int64) int64 { return a * x }),
	"ReduceMax":  reduce(math.Inf(-1), math.Max, func(a, x int64) int64 { return max(a, x) }),
	"ReduceMin":  reduce(math.Inf(1), math.Min, func(a, x int64) int64 { return min(a, x) }),
	"ReduceMean": {min: 1, max: 2, content: 2, plan: mean},
	"Softmax":    {min: 1, max: 1, plan: softmax},

	"Attention":                        {min: 3, max: 7, plan: attention},
	"com.microsoft.MultiHeadAttention": {min: 1, max: 10, plan: multiHeadAttention},
	"RotaryEmbedding":                  {min: 3, max: 4, plan: rotaryEmbedding},
	"com.microsoft.RotaryEmbedding":    {min: 4, max: 4, plan: rotaryEmbedding},

	// Of these only shapes are of interest: they stand between inputs and what asks for a shape.
	"SimplifiedLayerNormalization":                   {min: 2, max: 3, plan: likeFirst},
	"RMSNormalization":                               {min: 2, max: 2, plan: likeFirst},
	"com.microsoft.SkipSimplifiedLayerNormalization": {min: 3, max: 4, plan: skipNorm},
	"com.microsoft.QuickGelu":                        {min: 1, max: 1, plan: likeFirst},
	"com.microsoft.FusedMatMul":                      {min: 2, max: 2, plan: fusedMatMul},
	"com.microsoft.MatMulNBits":                      {min: 3, max: 6, plan: matMulNBits},
	"com.microsoft.GatherBlockQuantized":             {min: 3, max: 4, plan: gatherBlockQuantized},
	"Gemm":                                           {min: 2, max: 3, plan: gemm},
	"com.microsoft.GroupQueryAttention":              {min: 1, max: many, plan: groupQueryAttention},
}
