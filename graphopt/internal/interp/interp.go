// Package interp evaluates small parts of a graph: shape and mask arithmetic, rotary angles, constants.
//
// Two things need it. Constant folding computes what does not depend on any input. And rules ask
// what a part of a graph means, whatever its form: does this value, for that sequence length and that
// past, equal a causal mask? Arithmetic follows ONNX's operator definitions; float32 results are rounded
// after every operator, as a kernel's are. It is a reference, not a runtime: every element is
// visited one by one, and sizes are bounded.
package interp

import (
	"errors"
	"fmt"
	"math"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// ErrUnsupported is reported, wrapped, where a value depends on an operator or type that this
// package does not know, or on an input that is not given.
var ErrUnsupported = errors.New("not evaluated")

// MaxElements bounds one intermediate result.
const MaxElements = 1 << 24

// Tensor is a small tensor. Floating point types keep their values, rounded, in F; integers and
// booleans in I.
type Tensor struct {
	DType ir.DType
	Shape []int64
	F     []float64
	I     []int64
}

// Ints makes an int64 tensor.
func Ints(shape []int64, v ...int64) *Tensor { return &Tensor{DType: ir.Int64, Shape: shape, I: v} }

// Floats makes a float32 tensor.
func Floats(shape []int64, v ...float64) *Tensor {
	return &Tensor{DType: ir.Float32, Shape: shape, F: v}
}

// ShapeOnly makes a tensor without content: an input of which only the shape matters.
func ShapeOnly(d ir.DType, shape ...int64) *Tensor { return &Tensor{DType: d, Shape: shape} }

// hollow reports whether t has a shape but not the content to go with it.
func (t *Tensor) hollow() bool {
	n, err := ir.NumElements(t.Shape)
	return err != nil || n != int64(t.Len())
}

// Len is the number of elements.
func (t *Tensor) Len() int { return len(t.F) + len(t.I) }

func (t *Tensor) float() bool { return t.DType.Float() }

// FromIR reads a constant.
func FromIR(c *ir.Tensor) (*Tensor, error) {
	if c.Len() > MaxElements {
		return nil, fmt.Errorf("%w: a constant of %d elements", ErrUnsupported, c.Len())
	}
	t := &Tensor{DType: c.DType, Shape: c.Shape}
	if c.DType.Float() {
		v, err := c.Float32s()
		if err != nil {
			return nil, err
		}
		t.F = make([]float64, len(v))
		for i, x := range v {
			t.F[i] = float64(x)
		}
		return t, nil
	}
	v, err := c.Int64s()
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrUnsupported, err)
	}
	t.I = v
	return t, nil
}

// IR gives the tensor as a constant of the model.
func (t *Tensor) IR() (*ir.Tensor, error) {
	if t.float() {
		v := make([]float32, len(t.F))
		for i, x := range t.F {
			v[i] = float32(x)
		}
		return solid(ir.Cast(ir.Float32Tensor(v, t.Shape...), t.DType))
	}
	size := t.DType.Bits() / 8
	if size == 0 {
		return nil, fmt.Errorf("%w: a constant of %v", ErrUnsupported, t.DType)
	}
	b := make([]byte, 0, len(t.I)*size)
	for _, x := range t.I {
		for i := range size {
			b = append(b, byte(x>>(8*i)))
		}
	}
	return ir.NewTensor(t.DType, append([]int64{}, t.Shape...), ir.NewBuffer(b))
}

func solid(t *ir.Tensor, err error) (*ir.Tensor, error) {
	if err != nil {
		return nil, err
	}
	b, err := t.Bytes()
	if err != nil {
		return nil, err
	}
	shape := append([]int64{}, t.Shape...)
	return ir.NewTensor(t.DType, shape, ir.NewBuffer(b))
}

// Evaluator computes values of a graph from given ones.
type Evaluator struct {
	known map[*ir.Value]*Tensor
	depth int
}

// New starts with the values in given: inputs of the graph, or any other values, which then stand
// for what would be computed.
func New(given map[*ir.Value]*Tensor) *Evaluator {
	e := &Evaluator{known: make(map[*ir.Value]*Tensor, len(given))}
	for v, t := range given {
		e.known[v] = t
	}
	return e
}

const maxDepth = 10000

// Value computes v.
func (e *Evaluator) Value(v *ir.Value) (*Tensor, error) {
	if t := e.known[v]; t != nil {
		return t, nil
	}
	if c := v.Constant(); c != nil {
		t, err := FromIR(c)
		if err == nil {
			e.known[v] = t
		}
		return t, err
	}
	n := v.Producer()
	if n == nil {
		return nil, fmt.Errorf("%w: %q is not given", ErrUnsupported, v.Name)
	}
	if e.depth++; e.depth > maxDepth {
		return nil, fmt.Errorf("%w: more than %d nodes deep", ErrUnsupported, maxDepth)
	}
	defer func() { e.depth-- }()
	if n.OpType == "Shape" { // needs no content, but a shape
		return e.shape(n)
	}
	in := make([]*Tensor, len(n.Inputs()))
	for i, w := range n.Inputs() {
		if w == nil {
			continue
		}
		t, err := e.Value(w)
		if err != nil {
			return nil, err
		}
		in[i] = t
	}
	out, err := Node(n, in)
	if err != nil {
		return nil, err
	}
	for i, t := range out {
		if o := n.Output(i); o != nil {
			e.known[o] = t
		}
	}
	if t := e.known[v]; t != nil {
		return t, nil
	}
	return nil, fmt.Errorf("%w: result %q of %v", ErrUnsupported, v.Name, n)
}

func (e *Evaluator) shape(n *ir.Node) (*Tensor, error) {
	src := n.Input(0)
	if src == nil {
		return nil, fmt.Errorf("%w: %v has no operand", ErrUnsupported, n)
	}
	var dims []int64
	if t := e.known[src]; t != nil {
		dims = t.Shape
	} else if c := src.Constant(); c != nil {
		dims = c.Shape
	} else {
		t, err := e.Value(src)
		if err != nil {
			return nil, err
		}
		dims = t.Shape
	}
	r := int64(len(dims))
	start, end := clampAxis(n.Int("start", 0), r), clampAxis(n.Int("end", r), r)
	dims = dims[start:max(start, end)]
	t := Ints([]int64{int64(len(dims))}, append([]int64{}, dims...)...)
	e.known[n.Output(0)] = t
	return t, nil
}

func clampAxis(a, rank int64) int64 {
	if a < 0 {
		a += rank
	}
	return min(max(a, 0), rank)
}

func round(d ir.DType, x float64) float64 {
	switch d {
	case ir.Float32:
		return float64(float32(x))
	case ir.Float16:
		return float64(ir.Float16ToFloat32(ir.Float32ToFloat16(float32(x))))
	case ir.BFloat16:
		return float64(math.Float32frombits(uint32(ir.Float32ToBFloat16(float32(x))) << 16))
	}
	return x
}

func newTensor(d ir.DType, shape []int64) (*Tensor, error) {
	n, err := ir.NumElements(shape)
	if err != nil {
		return nil, err
	}
	if n > MaxElements {
		return nil, fmt.Errorf("%w: a result of %d elements", ErrUnsupported, n)
	}
	t := &Tensor{DType: d, Shape: append([]int64{}, shape...)}
	if d.Float() {
		t.F = make([]float64, n)
	} else {
		t.I = make([]int64, n)
	}
	return t, nil
}

// move copies element j of src to element i of t.
func (t *Tensor) move(i int, src *Tensor, j int) {
	if t.float() {
		t.F[i] = src.F[j]
	} else {
		t.I[i] = src.I[j]
	}
}

func strides(shape []int64) []int {
	s := make([]int, len(shape))
	n := 1
	for i := len(shape) - 1; i >= 0; i-- {
		s[i] = n
		n *= int(shape[i])
	}
	return s
}

// broadcast gives the shape of an elementwise result by ONNX's (NumPy's) rule.
func broadcast(a, b []int64) ([]int64, error) {
	out := make([]int64, max(len(a), len(b)))
	for i := range out {
		da, db := int64(1), int64(1)
		if j := i - (len(out) - len(a)); j >= 0 {
			da = a[j]
		}
		if j := i - (len(out) - len(b)); j >= 0 {
			db = b[j]
		}
		switch {
		case da == db || db == 1:
			out[i] = da
		case da == 1:
			out[i] = db
		default:
			return nil, fmt.Errorf("interp: shapes %v and %v do not go together", a, b)
		}
	}
	return out, nil
}

// index walks the elements of shape and calls f with the flat position and, for each of the
// operand shapes, the flat position of the element that is broadcast there.
func index(shape []int64, f func(i int, at []int), operands ...[]int64) {
	total, err := ir.NumElements(shape)
	if err != nil || total == 0 {
		return
	}
	steps := make([][]int, len(operands))
	for k, o := range operands {
		s := strides(o)
		steps[k] = make([]int, len(shape))
		for i := range o {
			if o[i] != 1 {
				steps[k][len(shape)-len(o)+i] = s[i]
			}
		}
	}
	pos := make([]int64, len(shape))
	at := make([]int, len(operands))
	for i := range int(total) {
		f(i, at)
		for d := len(shape) - 1; d >= 0; d-- {
			pos[d]++
			for k := range at {
				at[k] += steps[k][d]
			}
			if pos[d] < shape[d] {
				break
			}
			for k := range at {
				at[k] -= steps[k][d] * int(shape[d])
			}
			pos[d] = 0
		}
	}
}
