// Package precision converts a float32 graph to float16 or bfloat16: weights, activations, and the KV cache
// at its inputs and outputs.
//
// Operators that lose too much in 16 bits stay in float32, with casts around them: softmax, angles of the
// rotary embedding and their sines, and statistics, which norms in pieces are made of (Micikevicius et
// al., arXiv:1710.03740, section 3). Fused norms and attention compute these in float32 inside, whatever
// type they are given. So do operators that the target has no 16-bit kernel for, and what
// Options.KeepFloat32 names. What lies between two such nodes stays with them where that costs no cast
// more. The logits are cast back to float32.
//
// Weights are cast while the model is saved. One with a number that the type does not hold fails there,
// with the weight's name (ir.ErrOverflow). A scalar that large stands for infinity, in a mask: it becomes
// a number that a score can be added to.
package precision

import (
	"fmt"
	"path"
	"slices"
	"strings"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/kernels"
	"github.com/qwenrt/qwenrt/graphopt/passes/cleanup"
)

// Pass converts a graph to Options.DType.
var Pass = &g.Pass{
	Name:  "precision",
	Doc:   "float32 becomes float16 or bfloat16, but for softmax, statistics, angles and logits",
	Needs: "a type to convert to (DType) that the target has kernels for, and no control flow",
	After: []string{"constants", "rmsnorm", "attention", "skip-norm", "projections", "silu", "tied-head", "last-logits"},
	Check: check,
	Run:   run,
}

const passName = "precision"

func check(o g.Options) error {
	switch o.DType {
	case ir.Undefined, ir.Float32:
		return nil
	case ir.Float16, ir.BFloat16:
	default:
		return fmt.Errorf("cannot convert to %v: want float16 or bfloat16", o.DType)
	}
	for _, p := range o.KeepFloat32 {
		if _, err := named(p, ""); err != nil {
			return fmt.Errorf("pattern %q: %w", p, err)
		}
	}
	if o.Lenient {
		return nil
	}
	return kernels.Supports(o.Target, o.DType)
}

func run(u *g.Unit) (int, error) {
	if u.DType == ir.Undefined || u.DType == ir.Float32 {
		return 0, nil
	}
	c := &converter{
		unit: u, graph: u.Model.Graph, to: u.DType, types: kernels.Types(u.Model),
		wide: map[*ir.Node]bool{}, after: map[*ir.Value]ir.DType{}, casts: map[operand]*ir.Value{},
	}
	err := kernels.Supports(u.Target, u.DType)
	if err == nil {
		err = c.straight()
	}
	if err != nil {
		if !u.Lenient {
			return 0, err
		}
		u.Decline(passName, "", err)
		return 0, nil
	}
	c.classify()
	converted, err := c.convert()
	if err != nil {
		return 0, err
	}
	if err := c.graph.Sort(); err != nil {
		return 0, err
	}
	_, err = cleanup.Casts(u)
	return converted, err
}

type converter struct {
	unit  *g.Unit
	graph *ir.Graph
	to    ir.DType
	types map[*ir.Value]ir.DType // before the conversion
	wide  map[*ir.Node]bool      // nodes that stay in float32
	after map[*ir.Value]ir.DType // of inputs and results that are float32 before
	casts map[operand]*ir.Value
}

// operand is a value in one type.
type operand struct {
	value *ir.Value
	dtype ir.DType
}

// straight refuses control flow: what a body reads from outside would change its type under it.
func (c *converter) straight() error {
	for _, n := range c.graph.Nodes() {
		if n.HasGraph() {
			return fmt.Errorf("%v has a body, which cannot be converted", n)
		}
	}
	return nil
}

func (c *converter) float(v *ir.Value) bool { return v != nil && c.types[v] == ir.Float32 }

func (c *converter) schema(n *ir.Node) *kernels.Schema { return kernels.Of(c.unit.Model, n) }

// convert changes types and inserts casts where they meet. It gives how many nodes compute in the new type.
func (c *converter) convert() (int, error) {
	nodes := c.graph.Nodes()
	for _, v := range c.graph.Inputs() {
		if c.float(v) {
			c.after[v], v.Type = c.to, retyped(v.Type, c.to)
		}
	}
	for _, n := range nodes {
		for i, v := range n.Outputs() {
			if c.float(v) {
				c.after[v] = c.gives(n, i)
			}
		}
	}
	converted := 0
	var constants []*ir.Value // that are read in the new type
	readers := map[*ir.Value][]ir.Use{}
	for _, n := range nodes {
		narrow := false
		for i, v := range n.Inputs() {
			if !c.float(v) {
				continue
			}
			want := c.wants(n, i)
			narrow = narrow || want == c.to
			switch {
			case v.Const == nil:
				if want != c.after[v] && want != ir.Undefined {
					n.SetInput(i, c.cast(v, want))
				}
			case want == c.to && !v.IsInput():
				if readers[v] == nil {
					constants = append(constants, v)
				}
				readers[v] = append(readers[v], ir.Use{Node: n, Index: i})
			case want == ir.Float32 && v.IsInput():
				n.SetInput(i, c.cast(v, want))
			}
		}
		for _, v := range n.Outputs() {
			if c.float(v) && c.after[v] == c.to {
				v.Type = retyped(v.Type, c.to)
				narrow = true
			}
		}
		if narrow {
			c.unit.Applied(passName, n.String())
			converted++
		}
	}
	for _, v := range slices.Concat(c.graph.Inputs(), constants) {
		if err := c.constant(v, readers[v]); err != nil {
			return converted, err
		}
	}
	return converted, c.outputs()
}

// wants is the type in which node n reads float operand i; Undefined where any will do.
func (c *converter) wants(n *ir.Node, i int) ir.DType {
	if anyType(n) {
		return ir.Undefined
	}
	if s := c.schema(n); c.wide[n] || s == nil || !s.Allows(s.Input(i), c.to) {
		return ir.Float32
	}
	return c.to
}

// gives is the type of float result i of n after the conversion. A type parameter that no converted
// operand has, such as that of a norm's statistics, stays what it was.
func (c *converter) gives(n *ir.Node, i int) ir.DType {
	s := c.schema(n)
	if c.wide[n] || s == nil || n.Is("", "Cast") {
		return ir.Float32
	}
	for j, v := range n.Inputs() {
		if c.float(v) && s.Input(j) == s.Output(i) && c.wants(n, j) == c.to {
			return c.to
		}
	}
	return ir.Float32
}

// cast gives v in another type, by one node for all readers.
func (c *converter) cast(v *ir.Value, d ir.DType) *ir.Value {
	k := operand{v, d}
	if c.casts[k] == nil {
		name := v.Name
		if n := v.Producer(); n != nil && n.Name != "" {
			name = n.Name
		}
		c.casts[k] = c.graph.Op("Cast", path.Join(name, "Cast_"+d.String()), []*ir.Value{v}, ir.Int("to", int64(d)))
	}
	return c.casts[k]
}

// constant gives readers of a float32 constant its content in the new type. Where all read it so, it keeps
// its name.
func (c *converter) constant(v *ir.Value, readers []ir.Use) error {
	if v.Const == nil || !c.float(v) {
		return nil
	}
	t, err := c.narrowed(v)
	if err != nil {
		return fmt.Errorf("%q: %w", v.Name, err)
	}
	if v.IsInput() || len(readers) == v.NumUses() {
		v.Const, v.Type = t, retyped(v.Type, c.to)
		return nil
	}
	other := c.graph.AddInitializer(c.graph.Fresh(v.Name+"/"+c.to.String()), t)
	for _, r := range readers {
		r.Node.SetInput(r.Index, other)
	}
	return nil
}

func (c *converter) narrowed(v *ir.Value) (*ir.Tensor, error) {
	if v.Const.Len() == 1 {
		x, err := g.ScalarValue(v.Const)
		if err != nil {
			return nil, err
		}
		if y := c.bounded(x); y != x {
			c.unit.Applied(passName+"-bound", v.Name)
			return ir.Cast(ir.Float32Tensor([]float32{float32(y)}, v.Const.Shape...), c.to)
		}
	}
	return ir.Cast(v.Const, c.to)
}

// outputs gives the graph's outputs their types: the logits float32, all others the new one.
func (c *converter) outputs() error {
	for _, o := range slices.Clone(c.graph.Outputs()) {
		if !c.float(o) {
			continue
		}
		want := c.to
		if o.Name == "logits" && !c.unit.NarrowLogits {
			want = ir.Float32
		}
		if c.after[o] == want {
			continue
		}
		cast, inside := c.cast(o, want), o.Uses()
		cast.Type = retyped(o.Type, want)
		if err := c.graph.Replace(o, cast); err != nil {
			return err
		}
		for _, r := range inside { // these still read what they read before, the cast itself among them
			r.Node.SetInput(r.Index, o)
		}
	}
	return nil
}

func retyped(t *ir.Type, d ir.DType) *ir.Type {
	if t == nil {
		return nil
	}
	return &ir.Type{DType: d, Shape: t.Shape, Rank0: t.Rank0}
}

// named reports whether a pattern of Options.KeepFloat32 means a name. path.Match keeps * from running
// over slashes, which names of nodes are full of.
func named(pattern, name string) (bool, error) {
	plain := strings.NewReplacer("/", "|")
	return path.Match(plain.Replace(pattern), plain.Replace(name))
}
