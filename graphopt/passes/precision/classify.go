package precision

import (
	"math"
	"slices"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/kernels"
)

// precise are operators that are computed in float32 in a 16-bit model: sums of many terms, functions that
// stretch small differences, and positions, which have more digits than 16 bits hold.
var precise = []string{
	"Constant", "Cos", "CumSum", "Exp", "Log", "LogSoftmax", "Pow", "Range", "Reciprocal", "ReduceL2", "ReduceLogSumExp", "ReduceMean",
	"ReduceSum", "ReduceSumSquare", "Sin", "Softmax", "Sqrt",
}

// light are operators that take the type of what is around them: they work element by element, or only
// move elements.
var light = []string{
	"Abs", "Add", "Clip", "Concat", "Div", "Equal", "Expand", "Flatten", "Gather", "Greater", "GreaterOrEqual", "Identity", "Less",
	"LessOrEqual", "Max", "Min", "Mul", "Neg", "Reshape", "Slice", "Split", "Squeeze", "Sub", "Tile", "Transpose",
	"Unsqueeze", "Where",
}

func is(n *ir.Node, ops []string) bool { return n.Is("", n.OpType) && slices.Contains(ops, n.OpType) }

// anyType reports whether a node reads operands of any type, and gives what does not depend on it.
func anyType(n *ir.Node) bool { return is(n, []string{"Cast", "IsInf", "IsNaN", "Shape", "Size"}) }

// classify decides which nodes stay in float32: those that must, and then those for which it needs no cast
// more than the new type would.
func (c *converter) classify() {
	nodes := c.graph.Nodes()
	for _, n := range nodes {
		if c.must(n) {
			c.wide[n] = true
		}
	}
	for again := true; again; {
		again = false
		for _, n := range nodes {
			if !c.wide[n] && is(n, light) && (c.follows(n) || c.leads(n)) {
				c.wide[n], again = true, true
			}
		}
	}
}

// must reports whether a node that computes with float32 has to go on doing so.
func (c *converter) must(n *ir.Node) bool {
	if !slices.ContainsFunc(slices.Concat(n.Inputs(), n.Outputs()), c.float) {
		return false
	}
	if n.Is("", "Cast") { // from integers, as positions; or from a type that was asked for in the model
		return c.float(n.Output(0))
	}
	for _, p := range c.unit.KeepFloat32 {
		if ok, err := named(p, n.Name); p == n.OpType || ok && err == nil {
			return true
		}
	}
	s := c.schema(n)
	return s == nil || is(n, precise) || c.vanishes(n) || !kernels.Computes(c.unit.Target, s, c.converted(n, s))
}

// converted are the types that a node would have in the new type.
func (c *converter) converted(n *ir.Node, s *kernels.Schema) map[string]ir.DType {
	types := map[string]ir.DType{}
	for i, v := range n.Inputs() {
		if param := s.Input(i); v != nil && param != "" {
			types[param] = c.types[v]
			if c.float(v) && s.Allows(param, c.to) {
				types[param] = c.to
			}
		}
	}
	return types
}

// vanishes reports whether a scalar operand, such as a small epsilon, would be zero in the new type.
func (c *converter) vanishes(n *ir.Node) bool {
	for _, v := range n.Inputs() {
		if t := v.Constant(); t != nil && c.float(v) && t.Len() == 1 {
			if x, err := g.ScalarValue(t); err == nil && x != 0 && narrow(x, c.to) == 0 {
				return true
			}
		}
	}
	return false
}

// follows reports whether all float operands of n are at hand in float32, and one of them in no other type.
func (c *converter) follows(n *ir.Node) bool {
	found := false
	for _, v := range n.Inputs() {
		if !c.float(v) || v.Const != nil {
			continue
		}
		switch p := v.Producer(); {
		case c.wide[p]:
			found = true
		case !slices.ContainsFunc(v.Uses(), func(u ir.Use) bool { return c.wide[u.Node] && !anyType(u.Node) }):
			return false
		}
	}
	return found
}

// leads reports whether what n gives is read in float32 alone. One node in float32 then moves the cast from
// behind n to before it; that pays where there is one operand to cast for one reader, or none at all.
func (c *converter) leads(n *ir.Node) bool {
	var variable []*ir.Value
	for _, v := range n.Inputs() {
		if c.float(v) && v.Const == nil && !c.wide[v.Producer()] && !slices.Contains(variable, v) {
			variable = append(variable, v)
		}
	}
	read := 0
	for _, o := range n.Outputs() {
		if o == nil {
			continue
		}
		if o.IsOutput() {
			return false
		}
		for _, u := range o.Uses() {
			if !c.float(o) || !c.wide[u.Node] || anyType(u.Node) {
				return false
			}
			read++
		}
	}
	return read > 0 && len(variable) <= 1 && (read == 1 || len(variable) == 0)
}

// narrow is x rounded to a 16-bit type.
func narrow(x float64, d ir.DType) float64 {
	if d == ir.Float16 {
		return float64(ir.Float16ToFloat32(ir.Float32ToFloat16(float32(x))))
	}
	return float64(math.Float32frombits(uint32(ir.Float32ToBFloat16(float32(x))) << 16))
}

// bounded is x, or what stands for x in the new type where x does not fit: -32768 for the float16 of a
// mask's lowest float32, to which a score of -16 can be added without becoming infinite, as it would to
// the lowest, -65504. models/qwen3 writes the same.
func (c *converter) bounded(x float64) float64 {
	if math.IsInf(x, 0) || !math.IsInf(narrow(x, c.to), 0) {
		return x
	}
	if c.to == ir.Float16 {
		return math.Copysign(32768, x)
	}
	return math.Copysign(0x1.FEp127, x)
}
