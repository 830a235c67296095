// Package interp evaluates small parts of a graph: shape and mask arithmetic, rotary angles, constants.
//
// Three things need it. Constant folding computes what does not depend on any input. Shapes of
// values are found by computing them for a few sizes of the inputs. And rules ask what a part of
// a graph means, whatever its form: does this value, for that sequence length and that past,
// equal a causal mask?
//
//	e := interp.New(map[*ir.Value]*interp.Tensor{mask: interp.Ints([]int64{1, 3}, 1, 1, 1)})
//	t, err := e.Value(bias)
//
// Arithmetic follows ONNX's operator definitions, of opset 13 where versions differ; float32 results
// are rounded after every operator, as a kernel's are. It is a reference, not a runtime: elements are
// visited one by one, and sizes and work are bounded, since graphs come from strangers.
package interp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// ErrUnsupported is reported, wrapped, where a value depends on an operator or type that this
// package does not know, on an input that is not given, or on more work than it does.
var ErrUnsupported = errors.New("not evaluated")

func unsupported(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUnsupported, fmt.Sprintf(format, args...))
}

const (
	// MaxElements bounds one result: the rotary table of 131,072 positions of size 128 fits.
	MaxElements = 1 << 24
	// maxTotal bounds all results of one evaluator together; an element takes 8 bytes.
	maxTotal = 1 << 26
	maxRank  = 32
	maxDepth = 10000 // nodes in one chain
)

// Tensor is a small tensor. Floating point types keep their values, rounded, in F; integers and
// booleans in I. A tensor with neither, though its shape has elements, stands for its shape alone.
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

// integer reports whether d is held in I. Unsigned integers of 64 bits are not: half of them do not fit.
func integer(d ir.DType) bool {
	switch d {
	case ir.Int64, ir.Int32, ir.Int16, ir.Int8, ir.Uint32, ir.Uint16, ir.Uint8, ir.Bool:
		return true
	}
	return false
}

// FromIR reads a constant.
func FromIR(c *ir.Tensor) (*Tensor, error) {
	if !c.DType.Float() && !integer(c.DType) {
		return nil, unsupported("a constant of %v", c.DType)
	}
	if c.Len() > MaxElements {
		return nil, unsupported("a constant of %d elements", c.Len())
	}
	t := &Tensor{DType: c.DType, Shape: c.Shape}
	if c.DType == ir.Float64 {
		b, err := c.Bytes()
		if err != nil {
			return nil, err
		}
		t.F = make([]float64, c.Len())
		for i := range t.F {
			t.F[i] = math.Float64frombits(binary.LittleEndian.Uint64(b[8*i:]))
		}
		return t, nil
	}
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
	var err error
	t.I, err = c.Int64s()
	return t, err
}

// IR gives the tensor as a constant of the model.
func (t *Tensor) IR() (*ir.Tensor, error) {
	shape := append([]int64{}, t.Shape...)
	if t.float() && t.DType != ir.Float64 {
		v := make([]float32, len(t.F))
		for i, x := range t.F {
			v[i] = float32(x)
		}
		c, err := ir.Cast(ir.Float32Tensor(v, shape...), t.DType)
		if err != nil {
			return nil, err
		}
		b, err := c.Bytes()
		if err != nil {
			return nil, err
		}
		return ir.NewTensor(t.DType, shape, ir.NewBuffer(b))
	}
	size := t.DType.Bits() / 8
	if size == 0 {
		return nil, unsupported("a constant of %v", t.DType)
	}
	b := make([]byte, 0, t.Len()*size)
	for _, x := range t.F {
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(x))
	}
	for _, x := range t.I {
		for i := range size {
			b = append(b, byte(x>>(8*i)))
		}
	}
	return ir.NewTensor(t.DType, shape, ir.NewBuffer(b))
}

// Evaluator computes values of a graph from given ones. What it has computed it keeps, so it must
// not outlive a change of what a value means.
type Evaluator struct {
	// MaxElements bounds one result. Default: the constant of this name.
	MaxElements int64

	known  map[*ir.Value]*Tensor
	shapes map[*ir.Value]*Tensor // hollow, of values that are not known
	total  int64                 // elements computed
	depth  int
}

// New starts with the values in given: inputs of the graph, or any other values, which then stand
// for what would be computed.
func New(given map[*ir.Value]*Tensor) *Evaluator {
	e := &Evaluator{MaxElements: MaxElements, known: make(map[*ir.Value]*Tensor, len(given)), shapes: map[*ir.Value]*Tensor{}}
	for v, t := range given {
		e.known[v] = t
	}
	return e
}

// Value computes v.
func (e *Evaluator) Value(v *ir.Value) (*Tensor, error) {
	if t := e.known[v]; t != nil {
		if t.hollow() {
			return nil, unsupported("of %q only the shape is given", v.Name)
		}
		return t, nil
	}
	if c := v.Constant(); c != nil {
		t, err := FromIR(c)
		if err != nil {
			return nil, err
		}
		e.known[v] = t
		return t, e.spend(int64(t.Len()))
	}
	n, results, err := e.plan(v, true)
	if err != nil {
		return nil, err
	}
	for i, r := range results {
		o := n.Output(i)
		if o == nil {
			continue
		}
		t, err := e.fill(n, r)
		if err != nil {
			return nil, err
		}
		e.known[o] = t
	}
	if t := e.known[v]; t != nil {
		return t, nil
	}
	return nil, unsupported("result %q of %v", v.Name, n)
}

// Shape computes the element type and the shape of v, as a tensor without content. It needs the
// content of no more than what shapes are made of.
func (e *Evaluator) Shape(v *ir.Value) (*Tensor, error) {
	if t := e.known[v]; t != nil {
		return ShapeOnly(t.DType, t.Shape...), nil
	}
	if t := e.shapes[v]; t != nil {
		return t, nil
	}
	if c := v.Constant(); c != nil {
		return ShapeOnly(c.DType, c.Shape...), nil
	}
	n, results, err := e.plan(v, false)
	if err != nil {
		return nil, err
	}
	for i, r := range results {
		if o := n.Output(i); o != nil && r.dtype != ir.Undefined {
			e.shapes[o] = ShapeOnly(r.dtype, r.shape...)
		}
	}
	if t := e.shapes[v]; t != nil {
		return t, nil
	}
	return nil, unsupported("result %q of %v", v.Name, n)
}

// plan finds out what the node of v gives. With content, all operands are computed; without, those
// on whose content shapes depend.
func (e *Evaluator) plan(v *ir.Value, content bool) (*ir.Node, []result, error) {
	n := v.Producer()
	if n == nil {
		return nil, nil, unsupported("%q is not given", v.Name)
	}
	op, ok := lookup(n)
	if !ok {
		return nil, nil, unsupported("operator of %v", n)
	}
	if e.depth++; e.depth > maxDepth {
		return nil, nil, unsupported("more than %d nodes deep", maxDepth)
	}
	defer func() { e.depth-- }()
	in := make([]*Tensor, len(n.Inputs()))
	for i, w := range n.Inputs() {
		if w == nil {
			continue
		}
		operand := e.Shape
		if content && !op.shapeOnly || op.content>>min(i, 31)&1 == 1 {
			operand = e.Value
		}
		t, err := operand(w)
		if err != nil {
			return nil, nil, err
		}
		in[i] = t
	}
	results, err := op.apply(n, in)
	return n, results, err
}

// fill computes the content of a result.
func (e *Evaluator) fill(n *ir.Node, r result) (t *Tensor, err error) {
	if r.fill == nil && r.same == nil {
		return nil, unsupported("content of %v", n)
	}
	t = &Tensor{DType: r.dtype, Shape: r.shape}
	if r.same != nil {
		t.F, t.I = r.same.F, r.same.I
		return t, nil
	}
	elements := int64(1)
	for _, d := range r.shape { // a dimension of 0 must not hide that others are huge
		if elements *= max(d, 1); elements > e.MaxElements {
			return nil, unsupported("a result of %v elements in %v", r.shape, n)
		}
	}
	count, err := ir.NumElements(r.shape)
	if err != nil {
		return nil, err
	}
	if err := e.spend(elements); err != nil {
		return nil, err
	}
	if t.float() {
		t.F = make([]float64, count)
	} else {
		t.I = make([]int64, count)
	}
	defer catch(n, &err)
	if err := r.fill(t); err != nil {
		return nil, fmt.Errorf("interp: %v: %w", n, err)
	}
	return t, nil
}

func (e *Evaluator) spend(elements int64) error {
	if e.total += elements; e.total > maxTotal {
		return unsupported("more than %d elements in all", int64(maxTotal))
	}
	return nil
}

// catch turns a panic into an error. Operands of types and ranks that an operator does not take
// come from strangers' graphs; whatever the checks let through ends here.
func catch(n *ir.Node, err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("interp: %v: operands that do not go together: %v", n, r)
	}
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

// wrap cuts an integer to its type, as two's complement arithmetic does.
func wrap(d ir.DType, v int64) int64 {
	switch d {
	case ir.Int32:
		return int64(int32(v))
	case ir.Int16:
		return int64(int16(v))
	case ir.Int8:
		return int64(int8(v))
	case ir.Uint32:
		return int64(uint32(v))
	case ir.Uint16:
		return int64(uint16(v))
	case ir.Uint8:
		return int64(uint8(v))
	}
	return v
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
func broadcast(shapes ...[]int64) ([]int64, error) {
	rank := 0
	for _, s := range shapes {
		rank = max(rank, len(s))
	}
	out := make([]int64, rank)
	for i := range out {
		out[i] = 1
	}
	for _, s := range shapes {
		for i, d := range s {
			at := &out[rank-len(s)+i]
			if *at == 1 {
				*at = d
			} else if d != 1 && d != *at {
				return nil, fmt.Errorf("shapes %v do not go together", shapes)
			}
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
