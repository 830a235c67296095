package kernels

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// ErrNoKernel is reported where a target cannot compute in the type that was asked for.
var ErrNoKernel = errors.New("no kernel")

// Effect is what ONNX Runtime does about a node that a provider has no kernel for.
type Effect string

// The effects. Seen with sessions of ONNX Runtime 1.32 on x86-64.
const (
	// Widened: InsertCastTransformer casts operands to float32 and results back. Weights are cast once,
	// when the session is made, and take their float32 size from then on.
	Widened Effect = "runs in float32, between casts"
	// OnCPU: the node goes to the CPU provider, with copies to and from the device around it.
	OnCPU Effect = "runs on the CPU"
	// Refused: no session can be made. Operators that are defined as functions of others may still
	// run, where all those have kernels.
	Refused Effect = "does not run"
)

// Missing is a node without a kernel.
type Missing struct {
	Node   *ir.Node
	Types  string // of its operands and results, as "T=float16"
	Effect Effect
}

// Check lists the nodes of a model, bodies of control flow included, that a target has no kernel for, in
// graph order. Operators that are in no table are missing too; calls of the model's own functions are not
// looked into.
func Check(m *ir.Model, target graphopt.Target) ([]Missing, error) {
	t, err := tableOf(target)
	if err != nil {
		return nil, err
	}
	if err := m.Graph.Sort(); err != nil {
		return nil, err
	}
	types := Types(m)
	var missing []Missing
	m.Graph.Walk(func(n *ir.Node) {
		if isFunction(m, n) {
			return
		}
		s := Of(m, n)
		if s == nil {
			missing = append(missing, Missing{n, "", Refused})
			return
		}
		if bound := bind(s, n, types); !t.has(s, bound) {
			missing = append(missing, Missing{n, text(bound), effect(target, s, bound)})
		}
	})
	return missing, nil
}

func isFunction(m *ir.Model, n *ir.Node) bool {
	return slices.ContainsFunc(m.Functions, func(f ir.Function) bool { return f.Domain == n.Domain && f.Name == n.OpType })
}

func effect(target graphopt.Target, s *Schema, types map[string]ir.DType) Effect {
	cpu := tables[graphopt.CPU]()
	if target != graphopt.CPU && cpu.has(s, types) {
		return OnCPU
	}
	wide := map[string]ir.DType{}
	for p, d := range types {
		if d == ir.Float16 {
			d = ir.Float32
		}
		wide[p] = d
	}
	if cpu.has(s, wide) {
		return Widened
	}
	return Refused
}

// Types finds the element types of a model's values, from those of inputs and constants and from the
// definitions of the operators; where these do not say, from the file. Values of which nothing is
// known are left out.
func Types(m *ir.Model) map[*ir.Value]ir.DType {
	types := map[*ir.Value]ir.DType{}
	known := func(v *ir.Value) {
		switch {
		case v.Const != nil:
			types[v] = v.Const.DType
		case v.Type != nil && v.Type.DType != ir.Undefined:
			types[v] = v.Type.DType
		}
	}
	var graph func(g *ir.Graph)
	graph = func(g *ir.Graph) {
		for _, v := range slices.Concat(g.Inputs(), g.Initializers()) {
			known(v)
		}
		for _, n := range g.Nodes() {
			for _, a := range n.Attrs {
				for _, body := range slices.Concat(a.Graphs, []*ir.Graph{a.G}) {
					if body != nil {
						graph(body)
					}
				}
			}
			s := Of(m, n)
			for i, v := range n.Outputs() {
				if v == nil {
					continue
				}
				if d := result(s, n, i, types); d != ir.Undefined {
					types[v] = d
				} else {
					known(v)
				}
			}
		}
	}
	graph(m.Graph)
	return types
}

// result is the type of result i of n.
func result(s *Schema, n *ir.Node, i int, types map[*ir.Value]ir.DType) ir.DType {
	switch {
	case n.Is("", "Cast"):
		return ir.DType(n.Int("to", 0))
	case n.Is("", "Constant"), n.Is("", "ConstantOfShape"):
		if a := n.Attr("value"); a != nil && a.T != nil {
			return a.T.DType
		}
		if n.OpType == "ConstantOfShape" {
			return ir.Float32
		}
	}
	if s == nil {
		return ir.Undefined
	}
	param := s.Output(i)
	for j, v := range n.Inputs() {
		if v != nil && param != "" && s.Input(j) == param && types[v] != ir.Undefined {
			return types[v]
		}
	}
	if allowed := s.types[param]; len(allowed) == 1 {
		return allowed[0]
	}
	return ir.Undefined
}

// bind gives the type parameters of an operator the types that a node has in their place.
func bind(s *Schema, n *ir.Node, types map[*ir.Value]ir.DType) map[string]ir.DType {
	bound := map[string]ir.DType{}
	set := func(param string, v *ir.Value) {
		if d := types[v]; v != nil && param != "" && d != ir.Undefined {
			bound[param] = d
		}
	}
	for i, v := range n.Outputs() {
		set(s.Output(i), v)
	}
	for i, v := range n.Inputs() {
		set(s.Input(i), v)
	}
	return bound
}

func text(types map[string]ir.DType) string {
	parts := make([]string, 0, len(types))
	for p, d := range types {
		if p != d.String() { // a fixed type
			parts = append(parts, fmt.Sprintf("%s=%v", p, d))
		}
	}
	slices.Sort(parts)
	return strings.Join(parts, " ")
}

// Summary says in one line what is missing: operators with their number, most frequent first.
func Summary(missing []Missing) string {
	type line struct {
		op, effect string
		n          int
	}
	var lines []line
	for _, m := range missing {
		i := slices.IndexFunc(lines, func(l line) bool { return l.op == m.Node.OpType && l.effect == string(m.Effect) })
		if i < 0 {
			i = len(lines)
			lines = append(lines, line{op: m.Node.OpType, effect: string(m.Effect)})
		}
		lines[i].n++
	}
	slices.SortStableFunc(lines, func(a, b line) int { return b.n - a.n })
	var parts []string
	for i, l := range lines {
		if i == 0 || l.effect != lines[i-1].effect {
			parts = append(parts, fmt.Sprintf("%s ×%d (%s)", l.op, l.n, l.effect))
		} else {
			parts = append(parts, fmt.Sprintf("%s ×%d", l.op, l.n))
		}
	}
	return strings.Join(parts, ", ")
}

// needed are operators, with the type parameter of their activations, of which no form of a Qwen3
// graph on that target can do without all.
var needed = map[graphopt.Target][]struct{ domain, name, param string }{
	graphopt.CPU: {{"", "MatMul", "T"}, {"", "Mul", "T"}, {"", "SimplifiedLayerNormalization", "T"}},
	graphopt.CUDA: {{"", "MatMul", "T"}, {"", "Mul", "T"}, {"", "SimplifiedLayerNormalization", "T"},
		{graphopt.Microsoft, "GroupQueryAttention", "T"}},
	graphopt.CoreML: {{"", "MatMul", "T"}, {"", "Mul", "T"}, {"", "Softmax", "T"}},
}

// Computes reports whether a target has a kernel for an operator with these types of its type parameters; those
// that are not given do not matter.
func Computes(target graphopt.Target, s *Schema, types map[string]ir.DType) bool {
	t, err := tableOf(target)
	return err == nil && t.has(s, types)
}

// Supports reports, before there is a graph, whether a target computes a Qwen3 model in the type d.
// The error wraps ErrNoKernel and says which operators are missing and which types the target computes in.
func Supports(target graphopt.Target, d ir.DType) error {
	t, err := tableOf(target)
	if err != nil {
		return err
	}
	missing := t.lacks(target, d)
	if len(missing) == 0 {
		return nil
	}
	var others []string
	for _, other := range []ir.DType{ir.Float32, ir.Float16, ir.BFloat16} {
		if len(t.lacks(target, other)) == 0 {
			others = append(others, other.String())
		}
	}
	return fmt.Errorf("kernels: %w: ONNX Runtime %s has no %v %s on %s: use %s",
		ErrNoKernel, t.version, d, strings.Join(missing, " and "), t.provider, strings.Join(others, " or "))
}

// lacks are the needed operators that the target does not have in a type.
func (t *table) lacks(target graphopt.Target, d ir.DType) (names []string) {
	for _, op := range needed[target] {
		if !t.has(Lookup(op.domain, op.name, newest), map[string]ir.DType{op.param: d}) {
			names = append(names, op.name)
		}
	}
	return names
}

// newest is an opset that all passes' operators are in.
const newest = 21
