package interp

import (
	"fmt"
	"math"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Node computes the results of one operator from its operands; left-out operands are nil.
func Node(n *ir.Node, in []*Tensor) (out []*Tensor, err error) {
	defer func() {
		// Operands of types and ranks that an operator does not take come from strangers' graphs;
		// whatever a check below lets through ends here.
		if r := recover(); r != nil {
			out, err = nil, fmt.Errorf("interp: %v: operands that do not go together: %v", n, r)
		}
	}()
	if !n.Is("", n.OpType) {
		return nil, fmt.Errorf("%w: %s of %s", ErrUnsupported, n.OpType, n.Domain)
	}
	if n.OpType == "Split" {
		return split(n, in)
	}
	f, ok := ops[n.OpType]
	if !ok {
		return nil, fmt.Errorf("%w: operator %s", ErrUnsupported, n.OpType)
	}
	if len(in) < f.operands {
		return nil, fmt.Errorf("interp: %v has %d operands, needs %d", n, len(in), f.operands)
	}
	for i, t := range in {
		if t == nil && i < f.operands {
			return nil, fmt.Errorf("interp: %v lacks an operand", n)
		}
		if t != nil && t.hollow() {
			return nil, fmt.Errorf("%w: %v needs content of which only the shape is given", ErrUnsupported, n)
		}
	}
	t, err := f.run(n, in)
	if err != nil {
		return nil, fmt.Errorf("%v: %w", n, err)
	}
	return []*Tensor{t}, nil
}

type operator struct {
	operands int // that must be there
	run      func(n *ir.Node, in []*Tensor) (*Tensor, error)
}

// Known reports whether operator op of ONNX's own domain can be evaluated.
func Known(op string) bool {
	_, ok := ops[op]
	return ok || op == "Shape"
}

var ops = map[string]operator{
	"Add": arith(func(a, b float64) float64 { return a + b }, func(a, b int64) (int64, error) { return a + b, nil }),
	"Sub": arith(func(a, b float64) float64 { return a - b }, func(a, b int64) (int64, error) { return a - b, nil }),
	"Mul": arith(func(a, b float64) float64 { return a * b }, func(a, b int64) (int64, error) { return a * b, nil }),
	"Div": arith(func(a, b float64) float64 { return a / b }, func(a, b int64) (int64, error) {
		if b == 0 {
			return 0, fmt.Errorf("interp: division by zero")
		}
		return a / b, nil
	}),
	"Max": arith(math.Max, func(a, b int64) (int64, error) { return max(a, b), nil }),
	"Min": arith(math.Min, func(a, b int64) (int64, error) { return min(a, b), nil }),
	"Pow": arith(math.Pow, func(a, b int64) (int64, error) { return int64(math.Pow(float64(a), float64(b))), nil }),
	"Mod": {2, mod},

	"Equal":          compare(func(a, b float64) bool { return a == b }, func(a, b int64) bool { return a == b }),
	"Less":           compare(func(a, b float64) bool { return a < b }, func(a, b int64) bool { return a < b }),
	"LessOrEqual":    compare(func(a, b float64) bool { return a <= b }, func(a, b int64) bool { return a <= b }),
	"Greater":        compare(func(a, b float64) bool { return a > b }, func(a, b int64) bool { return a > b }),
	"GreaterOrEqual": compare(func(a, b float64) bool { return a >= b }, func(a, b int64) bool { return a >= b }),
	"And":            compare(nil, func(a, b int64) bool { return a != 0 && b != 0 }),
	"Or":             compare(nil, func(a, b int64) bool { return a != 0 || b != 0 }),
	"Xor":            compare(nil, func(a, b int64) bool { return a != 0 != (b != 0) }),

	"Not":        {1, not},
	"IsNaN":      {1, isNaN},
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

	"Identity":        {1, func(_ *ir.Node, in []*Tensor) (*Tensor, error) { return in[0], nil }},
	"Cast":            {1, cast},
	"CastLike":        {2, func(_ *ir.Node, in []*Tensor) (*Tensor, error) { return castTo(in[0], in[1].DType) }},
	"Constant":        {0, constant},
	"ConstantOfShape": {1, constantOfShape},
	"Reshape":         {2, reshape},
	"Flatten":         {1, flatten},
	"Squeeze":         {1, squeeze},
	"Unsqueeze":       {1, unsqueeze},
	"Expand":          {2, expand},
	"Transpose":       {1, transpose},
	"Concat":          {1, concat},
	"Slice":           {1, slice},
	"Gather":          {2, gather},
	"GatherND":        {2, gatherND},
	"Range":           {3, rangeOp},
	"Where":           {3, where},
	"Trilu":           {1, trilu},
	"CumSum":          {2, cumSum},
	"Tile":            {2, tile},
	"ScatterND":       {3, scatterND},
	"Size":            {1, func(_ *ir.Node, in []*Tensor) (*Tensor, error) { return Ints([]int64{}, int64(in[0].Len())), nil }},
	"MatMul":          {2, matMul},
	"ReduceSum":       reduce(func(a, x float64) float64 { return a + x }, false),
	"ReduceMean":      reduce(func(a, x float64) float64 { return a + x }, true),
	"ReduceMax":       reduce(math.Max, false),
	"ReduceMin":       reduce(math.Min, false),
	"ReduceProd":      reduce(func(a, x float64) float64 { return a * x }, false),
	"Softmax":         {1, softmax},
}

func arith(f func(a, b float64) float64, g func(a, b int64) (int64, error)) operator {
	return operator{2, func(_ *ir.Node, in []*Tensor) (*Tensor, error) {
		out := in[0]
		for _, b := range in[1:] { // Max and Min take any number
			a := out
			if a.float() != b.float() {
				return nil, fmt.Errorf("interp: %v with %v", a.DType, b.DType)
			}
			shape, err := broadcast(a.Shape, b.Shape)
			if err != nil {
				return nil, err
			}
			if out, err = newTensor(a.DType, shape); err != nil {
				return nil, err
			}
			index(shape, func(i int, at []int) {
				if a.float() {
					out.F[i] = round(a.DType, f(a.F[at[0]], b.F[at[1]]))
					return
				}
				v, e := g(a.I[at[0]], b.I[at[1]])
				if e != nil {
					err = e
				}
				out.I[i] = wrap(a.DType, v)
			}, a.Shape, b.Shape)
			if err != nil {
				return nil, err
			}
		}
		return out, nil
	}}
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

func compare(f func(a, b float64) bool, g func(a, b int64) bool) operator {
	return operator{2, func(_ *ir.Node, in []*Tensor) (*Tensor, error) {
		a, b := in[0], in[1]
		if a.float() != b.float() || a.float() && f == nil {
			return nil, fmt.Errorf("interp: %v with %v", a.DType, b.DType)
		}
		shape, err := broadcast(a.Shape, b.Shape)
		if err != nil {
			return nil, err
		}
		out, err := newTensor(ir.Bool, shape)
		if err != nil {
			return nil, err
		}
		index(shape, func(i int, at []int) {
			var yes bool
			if a.float() {
				yes = f(a.F[at[0]], b.F[at[1]])
			} else {
				yes = g(a.I[at[0]], b.I[at[1]])
			}
			if yes {
				out.I[i] = 1
			}
		}, a.Shape, b.Shape)
		return out, nil
	}}
}

func unary(f func(float64) float64, g func(int64) int64) operator {
	return operator{1, func(_ *ir.Node, in []*Tensor) (*Tensor, error) {
		a := in[0]
		out, err := newTensor(a.DType, a.Shape)
		if err != nil {
			return nil, err
		}
		for i, x := range a.F {
			out.F[i] = round(a.DType, f(x))
		}
		if len(a.I) > 0 && g == nil {
			return nil, fmt.Errorf("interp: not defined for %v", a.DType)
		}
		for i, x := range a.I {
			out.I[i] = wrap(a.DType, g(x))
		}
		return out, nil
	}}
}

func not(_ *ir.Node, in []*Tensor) (*Tensor, error) {
	out, err := newTensor(ir.Bool, in[0].Shape)
	if err != nil || in[0].float() {
		return nil, fmt.Errorf("interp: Not of %v", in[0].DType)
	}
	for i, x := range in[0].I {
		if x == 0 {
			out.I[i] = 1
		}
	}
	return out, nil
}

func isNaN(_ *ir.Node, in []*Tensor) (*Tensor, error) {
	out, err := newTensor(ir.Bool, in[0].Shape)
	if err != nil {
		return nil, err
	}
	for i, x := range in[0].F {
		if math.IsNaN(x) {
			out.I[i] = 1
		}
	}
	return out, nil
}

func mod(n *ir.Node, in []*Tensor) (*Tensor, error) {
	fmod := n.Int("fmod", 0) == 1
	return arith(math.Mod, func(a, b int64) (int64, error) {
		if b == 0 {
			return 0, fmt.Errorf("interp: division by zero")
		}
		r := a % b
		if !fmod && r != 0 && (r < 0) != (b < 0) {
			r += b
		}
		return r, nil
	}).run(n, in)
}

func cast(n *ir.Node, in []*Tensor) (*Tensor, error) {
	return castTo(in[0], ir.DType(n.Int("to", 0)))
}

func castTo(a *Tensor, to ir.DType) (*Tensor, error) {
	if !to.Float() && (to.Bits() < 8 || to.Bits() > 64) || to == ir.String || to == ir.Complex64 {
		return nil, fmt.Errorf("%w: cast to %v", ErrUnsupported, to)
	}
	out, err := newTensor(to, a.Shape)
	if err != nil {
		return nil, err
	}
	for i, x := range a.F {
		switch {
		case to.Float():
			out.F[i] = round(to, x)
		case to == ir.Bool:
			if x != 0 {
				out.I[i] = 1
			}
		default:
			out.I[i] = wrap(to, int64(x))
		}
	}
	for i, x := range a.I {
		switch {
		case to.Float():
			out.F[i] = round(to, float64(x))
		case to == ir.Bool:
			if x != 0 {
				out.I[i] = 1
			}
		default:
			out.I[i] = wrap(to, x)
		}
	}
	return out, nil
}

func constant(n *ir.Node, _ []*Tensor) (*Tensor, error) {
	for _, a := range n.Attrs {
		switch a.Name {
		case "value":
			if a.T != nil {
				return FromIR(a.T)
			}
		case "value_int":
			return Ints([]int64{}, a.I), nil
		case "value_ints":
			return Ints([]int64{int64(len(a.Ints))}, append([]int64{}, a.Ints...)...), nil
		case "value_float":
			return &Tensor{DType: ir.Float32, Shape: []int64{}, F: []float64{float64(a.F)}}, nil
		case "value_floats":
			t := &Tensor{DType: ir.Float32, Shape: []int64{int64(len(a.Floats))}}
			for _, f := range a.Floats {
				t.F = append(t.F, float64(f))
			}
			return t, nil
		}
	}
	return nil, fmt.Errorf("%w: this kind of Constant", ErrUnsupported)
}

func constantOfShape(n *ir.Node, in []*Tensor) (*Tensor, error) {
	fill := &Tensor{DType: ir.Float32, F: []float64{0}}
	if a := n.Attr("value"); a != nil && a.T != nil {
		t, err := FromIR(a.T)
		if err != nil || t.Len() != 1 {
			return nil, fmt.Errorf("interp: ConstantOfShape needs one value")
		}
		fill = t
	}
	out, err := newTensor(fill.DType, in[0].I)
	if err != nil {
		return nil, err
	}
	for i := range out.Len() {
		out.move(i, fill, 0)
	}
	return out, nil
}

func (t *Tensor) reshaped(shape []int64) (*Tensor, error) {
	n, err := ir.NumElements(shape)
	if err != nil || n != int64(t.Len()) {
		return nil, fmt.Errorf("interp: %v does not fill %v", t.Shape, shape)
	}
	return &Tensor{DType: t.DType, Shape: shape, F: t.F, I: t.I}, nil
}

func reshape(n *ir.Node, in []*Tensor) (*Tensor, error) {
	shape := append([]int64{}, in[1].I...)
	rest, known := -1, int64(1)
	for i, d := range shape {
		switch {
		case d == 0 && n.Int("allowzero", 0) == 0:
			if i >= len(in[0].Shape) {
				return nil, fmt.Errorf("interp: shape %v copies a dimension that %v lacks", in[1].I, in[0].Shape)
			}
			shape[i] = in[0].Shape[i]
		case d == -1:
			rest = i
			continue
		}
		known *= shape[i]
	}
	if rest >= 0 {
		if known == 0 {
			return nil, fmt.Errorf("interp: shape %v is not determined", in[1].I)
		}
		shape[rest] = int64(in[0].Len()) / known
	}
	return in[0].reshaped(shape)
}

func flatten(n *ir.Node, in []*Tensor) (*Tensor, error) {
	axis := clampAxis(n.Int("axis", 1), int64(len(in[0].Shape)))
	a, b := int64(1), int64(1)
	for i, d := range in[0].Shape {
		if int64(i) < axis {
			a *= d
		} else {
			b *= d
		}
	}
	return in[0].reshaped([]int64{a, b})
}

// axes are those of an attribute (before opset 13) or of the second operand.
func axes(n *ir.Node, in []*Tensor) ([]int64, bool) {
	if len(in) > 1 && in[1] != nil {
		return in[1].I, true
	}
	if n.Attr("axes") != nil {
		return n.Ints("axes"), true
	}
	return nil, false
}

func squeeze(n *ir.Node, in []*Tensor) (*Tensor, error) {
	drop := map[int64]bool{}
	list, given := axes(n, in)
	for _, a := range list {
		if a < 0 {
			a += int64(len(in[0].Shape))
		}
		drop[a] = true
	}
	shape := []int64{}
	for i, d := range in[0].Shape {
		if given && !drop[int64(i)] || !given && d != 1 {
			shape = append(shape, d)
		}
	}
	return in[0].reshaped(shape)
}

func unsqueeze(n *ir.Node, in []*Tensor) (*Tensor, error) {
	list, _ := axes(n, in)
	rank := int64(len(in[0].Shape) + len(list))
	add := map[int64]bool{}
	for _, a := range list {
		if a < 0 {
			a += rank
		}
		add[a] = true
	}
	shape := []int64{}
	next := 0
	for i := range rank {
		if add[i] {
			shape = append(shape, 1)
			continue
		}
		if next >= len(in[0].Shape) {
			return nil, fmt.Errorf("interp: axes %v of %v", list, in[0].Shape)
		}
		shape = append(shape, in[0].Shape[next])
		next++
	}
	return in[0].reshaped(shape)
}

func expand(_ *ir.Node, in []*Tensor) (*Tensor, error) {
	shape, err := broadcast(in[0].Shape, in[1].I)
	if err != nil {
		return nil, err
	}
	out, err := newTensor(in[0].DType, shape)
	if err != nil {
		return nil, err
	}
	index(shape, func(i int, at []int) { out.move(i, in[0], at[0]) }, in[0].Shape)
	return out, nil
}

func transpose(n *ir.Node, in []*Tensor) (*Tensor, error) {
	a := in[0]
	rank := len(a.Shape)
	perm := n.Ints("perm")
	if perm == nil {
		for i := rank - 1; i >= 0; i-- {
			perm = append(perm, int64(i))
		}
	}
	if len(perm) != rank {
		return nil, fmt.Errorf("interp: perm %v of %v", perm, a.Shape)
	}
	shape := make([]int64, rank)
	for i, p := range perm {
		if p < 0 || int(p) >= rank {
			return nil, fmt.Errorf("interp: perm %v of %v", perm, a.Shape)
		}
		shape[i] = a.Shape[p]
	}
	out, err := newTensor(a.DType, shape)
	if err != nil {
		return nil, err
	}
	from, to := strides(a.Shape), strides(shape)
	for i := range out.Len() {
		j := 0
		for d, rest := 0, i; d < rank; d++ {
			j += rest / to[d] * from[perm[d]]
			rest %= to[d]
		}
		out.move(i, a, j)
	}
	return out, nil
}

// around gives the product of the dimensions before and after axis.
func around(shape []int64, axis int64) (outer, inner int) {
	outer, inner = 1, 1
	for i, d := range shape {
		switch {
		case int64(i) < axis:
			outer *= int(d)
		case int64(i) > axis:
			inner *= int(d)
		}
	}
	return outer, inner
}

func axisOf(a int64, shape []int64) (int64, error) {
	if a < 0 {
		a += int64(len(shape))
	}
	if a < 0 || a >= int64(len(shape)) {
		return 0, fmt.Errorf("interp: no axis %d in %v", a, shape)
	}
	return a, nil
}

func concat(n *ir.Node, in []*Tensor) (*Tensor, error) {
	axis, err := axisOf(n.Int("axis", 0), in[0].Shape)
	if err != nil {
		return nil, err
	}
	shape := append([]int64{}, in[0].Shape...)
	shape[axis] = 0
	for _, t := range in {
		if t == nil || len(t.Shape) != len(shape) || t.float() != in[0].float() {
			return nil, fmt.Errorf("interp: operands do not go together")
		}
		for d := range shape {
			if int64(d) != axis && t.Shape[d] != shape[d] {
				return nil, fmt.Errorf("interp: %v beside %v", t.Shape, in[0].Shape)
			}
		}
		shape[axis] += t.Shape[axis]
	}
	out, err := newTensor(in[0].DType, shape)
	if err != nil {
		return nil, err
	}
	outer, inner := around(shape, axis)
	at := 0
	for o := range outer {
		for _, t := range in {
			w := int(t.Shape[axis]) * inner
			for i := range w {
				out.move(at, t, o*w+i)
				at++
			}
		}
	}
	return out, nil
}

func slice(n *ir.Node, in []*Tensor) (*Tensor, error) {
	a := in[0]
	get := func(i int, attr string) []int64 {
		if i < len(in) && in[i] != nil {
			return in[i].I
		}
		return n.Ints(attr)
	}
	starts, ends, list, steps := get(1, "starts"), get(2, "ends"), get(3, "axes"), get(4, "")
	if len(starts) != len(ends) {
		return nil, fmt.Errorf("interp: %d starts, %d ends", len(starts), len(ends))
	}
	rank := len(a.Shape)
	first, step, shape := make([]int64, rank), make([]int64, rank), append([]int64{}, a.Shape...)
	for i := range step {
		step[i] = 1
	}
	for i := range starts {
		ax := int64(i)
		if list != nil {
			if i >= len(list) {
				return nil, fmt.Errorf("interp: %d axes for %d starts", len(list), len(starts))
			}
			ax = list[i]
		}
		ax, err := axisOf(ax, a.Shape)
		if err != nil {
			return nil, err
		}
		d, s := a.Shape[ax], int64(1)
		if i < len(steps) {
			s = steps[i]
		}
		if s == 0 {
			return nil, fmt.Errorf("interp: step 0")
		}
		lo, hi := starts[i], ends[i]
		if lo < 0 {
			lo += d
		}
		if hi < 0 {
			hi = max(hi, -d-1) + d
		}
		var count int64
		if s > 0 {
			lo, hi = min(max(lo, 0), d), min(max(hi, 0), d)
			count = max(0, (hi-lo+s-1)/s)
		} else {
			lo, hi = min(max(lo, 0), d-1), min(max(hi, -1), d-1)
			count = max(0, (hi-lo+s+1)/s)
		}
		first[ax], step[ax], shape[ax] = lo, s, count
	}
	out, err := newTensor(a.DType, shape)
	if err != nil {
		return nil, err
	}
	from, to := strides(a.Shape), strides(shape)
	for i := range out.Len() {
		j := 0
		for d, rest := 0, i; d < rank; d++ {
			j += int(first[d]+int64(rest/to[d])*step[d]) * from[d]
			rest %= to[d]
		}
		out.move(i, a, j)
	}
	return out, nil
}

func gather(n *ir.Node, in []*Tensor) (*Tensor, error) {
	a, idx := in[0], in[1]
	axis, err := axisOf(n.Int("axis", 0), a.Shape)
	if err != nil {
		return nil, err
	}
	shape := append([]int64{}, a.Shape[:axis]...)
	shape = append(shape, idx.Shape...)
	shape = append(shape, a.Shape[axis+1:]...)
	out, err := newTensor(a.DType, shape)
	if err != nil {
		return nil, err
	}
	outer, inner := around(a.Shape, axis)
	d := a.Shape[axis]
	at := 0
	for o := range outer {
		for _, i := range idx.I {
			if i < 0 {
				i += d
			}
			if i < 0 || i >= d {
				return nil, fmt.Errorf("interp: index %d of %d", i, d)
			}
			for k := range inner {
				out.move(at, a, (o*int(d)+int(i))*inner+k)
				at++
			}
		}
	}
	return out, nil
}

func gatherND(n *ir.Node, in []*Tensor) (*Tensor, error) {
	a, idx := in[0], in[1]
	if n.Int("batch_dims", 0) != 0 || len(idx.Shape) == 0 {
		return nil, fmt.Errorf("%w: GatherND with batches", ErrUnsupported)
	}
	depth := idx.Shape[len(idx.Shape)-1]
	if depth > int64(len(a.Shape)) {
		return nil, fmt.Errorf("interp: indices of depth %d into %v", depth, a.Shape)
	}
	shape := append([]int64{}, idx.Shape[:len(idx.Shape)-1]...)
	shape = append(shape, a.Shape[depth:]...)
	out, err := newTensor(a.DType, shape)
	if err != nil {
		return nil, err
	}
	st := strides(a.Shape)
	inner := 1
	for _, d := range a.Shape[depth:] {
		inner *= int(d)
	}
	for r := 0; r*inner < out.Len(); r++ {
		from := 0
		for d := range int(depth) {
			i := idx.I[r*int(depth)+d]
			if i < 0 {
				i += a.Shape[d]
			}
			if i < 0 || i >= a.Shape[d] {
				return nil, fmt.Errorf("interp: index %d of %d", i, a.Shape[d])
			}
			from += int(i) * st[d]
		}
		for k := range inner {
			out.move(r*inner+k, a, from+k)
		}
	}
	return out, nil
}

func scatterND(n *ir.Node, in []*Tensor) (*Tensor, error) {
	a, idx, upd := in[0], in[1], in[2]
	if n.Str("reduction", "none") != "none" || len(idx.Shape) == 0 {
		return nil, fmt.Errorf("%w: ScatterND with a reduction", ErrUnsupported)
	}
	depth := idx.Shape[len(idx.Shape)-1]
	if depth > int64(len(a.Shape)) {
		return nil, fmt.Errorf("interp: indices of depth %d into %v", depth, a.Shape)
	}
	out, err := newTensor(a.DType, a.Shape)
	if err != nil {
		return nil, err
	}
	for i := range out.Len() {
		out.move(i, a, i)
	}
	st := strides(a.Shape)
	inner := 1
	for _, d := range a.Shape[depth:] {
		inner *= int(d)
	}
	for r := 0; r*inner < upd.Len() && (r+1)*int(depth) <= len(idx.I); r++ {
		to := 0
		for d := range int(depth) {
			i := idx.I[r*int(depth)+d]
			if i < 0 {
				i += a.Shape[d]
			}
			if i < 0 || i >= a.Shape[d] {
				return nil, fmt.Errorf("interp: index %d of %d", i, a.Shape[d])
			}
			to += int(i) * st[d]
		}
		for k := range inner {
			out.move(to+k, upd, r*inner+k)
		}
	}
	return out, nil
}

func rangeOp(_ *ir.Node, in []*Tensor) (*Tensor, error) {
	for _, t := range in[:3] {
		if t.Len() != 1 || t.float() != in[0].float() {
			return nil, fmt.Errorf("interp: bounds must be scalars of one type")
		}
	}
	value := func(t *Tensor) float64 {
		if t.float() {
			return t.F[0]
		}
		return float64(t.I[0])
	}
	lo, hi, step := value(in[0]), value(in[1]), value(in[2])
	if step == 0 {
		return nil, fmt.Errorf("interp: step 0")
	}
	count := math.Max(0, math.Ceil((hi-lo)/step))
	if !(count <= MaxElements) {
		return nil, fmt.Errorf("%w: %g elements", ErrUnsupported, count)
	}
	out, err := newTensor(in[0].DType, []int64{int64(count)})
	if err != nil {
		return nil, err
	}
	for i := range out.F {
		out.F[i] = round(out.DType, lo+float64(i)*step)
	}
	for i := range out.I {
		out.I[i] = in[0].I[0] + int64(i)*in[2].I[0]
	}
	return out, nil
}

func where(_ *ir.Node, in []*Tensor) (*Tensor, error) {
	c, a, b := in[0], in[1], in[2]
	if a.float() != b.float() || c.float() {
		return nil, fmt.Errorf("interp: %v, %v and %v", c.DType, a.DType, b.DType)
	}
	shape, err := broadcast(a.Shape, b.Shape)
	if err != nil {
		return nil, err
	}
	if shape, err = broadcast(c.Shape, shape); err != nil {
		return nil, err
	}
	out, err := newTensor(a.DType, shape)
	if err != nil {
		return nil, err
	}
	index(shape, func(i int, at []int) {
		if c.I[at[0]] != 0 {
			out.move(i, a, at[1])
		} else {
			out.move(i, b, at[2])
		}
	}, c.Shape, a.Shape, b.Shape)
	return out, nil
}

func trilu(n *ir.Node, in []*Tensor) (*Tensor, error) {
	a := in[0]
	if len(a.Shape) < 2 {
		return nil, fmt.Errorf("interp: Trilu of %v", a.Shape)
	}
	k := int64(0)
	if len(in) > 1 && in[1] != nil && len(in[1].I) == 1 {
		k = in[1].I[0]
	}
	upper := n.Int("upper", 1) == 1
	out, err := newTensor(a.DType, a.Shape)
	if err != nil {
		return nil, err
	}
	rows, cols := a.Shape[len(a.Shape)-2], a.Shape[len(a.Shape)-1]
	for i := range out.Len() {
		r, c := int64(i)/cols%rows, int64(i)%cols
		if upper && c >= r+k || !upper && c <= r+k {
			out.move(i, a, i)
		}
	}
	return out, nil
}

func cumSum(n *ir.Node, in []*Tensor) (*Tensor, error) {
	if n.Int("exclusive", 0) != 0 || n.Int("reverse", 0) != 0 || len(in[1].I) != 1 {
		return nil, fmt.Errorf("%w: this form of CumSum", ErrUnsupported)
	}
	a := in[0]
	axis, err := axisOf(in[1].I[0], a.Shape)
	if err != nil {
		return nil, err
	}
	out, err := newTensor(a.DType, a.Shape)
	if err != nil {
		return nil, err
	}
	_, inner := around(a.Shape, axis)
	d := int(a.Shape[axis])
	for i := range out.Len() {
		first := i/inner%d == 0
		if out.float() {
			out.F[i] = a.F[i]
			if !first {
				out.F[i] = round(a.DType, out.F[i]+out.F[i-inner])
			}
			continue
		}
		out.I[i] = a.I[i]
		if !first {
			out.I[i] += out.I[i-inner]
		}
	}
	return out, nil
}

func tile(_ *ir.Node, in []*Tensor) (*Tensor, error) {
	a := in[0]
	if len(in[1].I) != len(a.Shape) {
		return nil, fmt.Errorf("interp: repeats %v of %v", in[1].I, a.Shape)
	}
	shape := make([]int64, len(a.Shape))
	for i, d := range a.Shape {
		if in[1].I[i] < 0 || in[1].I[i] > MaxElements || d > MaxElements {
			return nil, fmt.Errorf("interp: repeats %v of %v", in[1].I, a.Shape)
		}
		shape[i] = d * in[1].I[i]
	}
	out, err := newTensor(a.DType, shape)
	if err != nil {
		return nil, err
	}
	from, to := strides(a.Shape), strides(shape)
	for i := range out.Len() {
		j := 0
		for d, rest := 0, i; d < len(shape); d++ {
			j += rest / to[d] % int(a.Shape[d]) * from[d]
			rest %= to[d]
		}
		out.move(i, a, j)
	}
	return out, nil
}

func matMul(_ *ir.Node, in []*Tensor) (*Tensor, error) {
	a, b := in[0], in[1]
	ra, rb := len(a.Shape), len(b.Shape)
	if ra < 2 || rb < 2 || !a.float() || !b.float() || a.Shape[ra-1] != b.Shape[rb-2] {
		return nil, fmt.Errorf("%w: MatMul of %v%v and %v%v", ErrUnsupported, a.DType, a.Shape, b.DType, b.Shape)
	}
	batch, err := broadcast(a.Shape[:ra-2], b.Shape[:rb-2])
	if err != nil {
		return nil, err
	}
	m, k, n := int(a.Shape[ra-2]), int(a.Shape[ra-1]), int(b.Shape[rb-1])
	out, err := newTensor(a.DType, append(append([]int64{}, batch...), int64(m), int64(n)))
	if err != nil {
		return nil, err
	}
	if int64(out.Len())*int64(k) > 1<<28 {
		return nil, fmt.Errorf("%w: a product of this size", ErrUnsupported)
	}
	index(batch, func(i int, at []int) {
		for r := range m {
			for c := range n {
				sum := 0.0
				for j := range k {
					sum += a.F[(at[0]*m+r)*k+j] * b.F[(at[1]*k+j)*n+c]
				}
				out.F[(i*m+r)*n+c] = round(a.DType, sum)
			}
		}
	}, a.Shape[:ra-2], b.Shape[:rb-2])
	return out, nil
}

func reduce(f func(acc, x float64) float64, mean bool) operator {
	return operator{1, func(n *ir.Node, in []*Tensor) (*Tensor, error) {
		a := in[0]
		list, given := axes(n, in)
		if (!given || len(list) == 0) && n.Int("noop_with_empty_axes", 0) == 1 {
			return a, nil
		}
		drop := make([]bool, len(a.Shape))
		for _, ax := range list {
			ax, err := axisOf(ax, a.Shape)
			if err != nil {
				return nil, err
			}
			drop[ax] = true
		}
		keep := n.Int("keepdims", 1) == 1
		full, shape := []int64{}, []int64{}
		count := 1.0
		for i, d := range a.Shape {
			if drop[i] || len(list) == 0 {
				count *= float64(d)
				full = append(full, 1)
				if keep {
					shape = append(shape, 1)
				}
				continue
			}
			full = append(full, d)
			shape = append(shape, d)
		}
		acc, err := newTensor(ir.Float64, full)
		if err != nil {
			return nil, err
		}
		seen := make([]bool, acc.Len())
		index(a.Shape, func(i int, at []int) {
			x := 0.0
			if a.float() {
				x = a.F[i]
			} else {
				x = float64(a.I[i])
			}
			if !seen[at[0]] {
				acc.F[at[0]], seen[at[0]] = x, true
				return
			}
			acc.F[at[0]] = f(acc.F[at[0]], x)
		}, full)
		out, err := newTensor(a.DType, shape)
		if err != nil {
			return nil, err
		}
		for i, x := range acc.F {
			if mean {
				x /= count
			}
			if out.float() {
				out.F[i] = round(a.DType, x)
			} else {
				out.I[i] = int64(x)
			}
		}
		return out, nil
	}}
}

func softmax(n *ir.Node, in []*Tensor) (*Tensor, error) {
	a := in[0]
	axis, err := axisOf(n.Int("axis", -1), a.Shape)
	if err != nil {
		return nil, err
	}
	out, err := newTensor(a.DType, a.Shape)
	if err != nil {
		return nil, err
	}
	outer, inner := around(a.Shape, axis)
	d := int(a.Shape[axis])
	for o := range outer {
		for k := range inner {
			at := func(j int) int { return (o*d+j)*inner + k }
			top, sum := math.Inf(-1), 0.0
			for j := range d {
				top = math.Max(top, a.F[at(j)])
			}
			for j := range d {
				out.F[at(j)] = math.Exp(a.F[at(j)] - top)
				sum += out.F[at(j)]
			}
			for j := range d {
				out.F[at(j)] = round(a.DType, out.F[at(j)]/sum)
			}
		}
	}
	return out, nil
}

func split(n *ir.Node, in []*Tensor) ([]*Tensor, error) {
	if len(in) == 0 || in[0] == nil || in[0].hollow() {
		return nil, fmt.Errorf("%w: %v", ErrUnsupported, n)
	}
	a := in[0]
	axis, err := axisOf(n.Int("axis", 0), a.Shape)
	if err != nil {
		return nil, err
	}
	sizes := n.Ints("split")
	if len(in) > 1 && in[1] != nil {
		sizes = in[1].I
	}
	if sizes == nil {
		parts := int64(len(n.Outputs()))
		each := (a.Shape[axis] + parts - 1) / parts
		for left := a.Shape[axis]; len(sizes) < int(parts); left -= each {
			sizes = append(sizes, max(0, min(each, left)))
		}
	}
	outer, inner := around(a.Shape, axis)
	var out []*Tensor
	first := int64(0)
	for _, size := range sizes {
		shape := append([]int64{}, a.Shape...)
		shape[axis] = size
		t, err := newTensor(a.DType, shape)
		if err != nil {
			return nil, err
		}
		w := int(size) * inner
		for o := range outer {
			for i := range w {
				t.move(o*w+i, a, o*int(a.Shape[axis])*inner+int(first)*inner+i)
			}
		}
		out = append(out, t)
		first += size
	}
	return out, nil
}
