package ir

import (
	"cmp"
	"errors"
	"slices"
	"strconv"
)

// Model is an ONNX model: a graph and what is needed to read it.
type Model struct {
	IRVersion       int64
	ProducerName    string
	ProducerVersion string
	Domain          string
	ModelVersion    int64
	Doc             string
	Opsets          []Opset // in file order
	Metadata        []Property
	Graph           *Graph
	Functions       []Function

	raw   []byte // fields carried through
	files []*mapping
}

// Opset is one imported operator set; the empty domain is ONNX's own.
type Opset struct {
	Domain  string
	Version int64
}

// Property is an entry of metadata_props.
type Property struct{ Key, Value string }

// Function is a model-local function. Its body is carried through unread.
type Function struct {
	Domain, Name string
	raw          []byte
}

// Opset gives the version of an imported operator set, 0 if it is not imported.
func (m *Model) Opset(domain string) int64 {
	for _, o := range m.Opsets {
		if sameDomain(o.Domain, domain) {
			return o.Version
		}
	}
	return 0
}

// RequireOpset imports an operator set at this version, or raises an older import to it.
func (m *Model) RequireOpset(domain string, version int64) {
	for i, o := range m.Opsets {
		if sameDomain(o.Domain, domain) {
			m.Opsets[i].Version = max(o.Version, version)
			return
		}
	}
	m.Opsets = append(m.Opsets, Opset{domain, version})
}

// sameDomain treats "ai.onnx" as the empty domain, as the specification does.
func sameDomain(a, b string) bool {
	if a == "ai.onnx" {
		a = ""
	}
	if b == "ai.onnx" {
		b = ""
	}
	return a == b
}

// NewModel makes an empty model with ONNX's own operators at the given opset.
func NewModel(name string, irVersion, opset int64) *Model {
	return &Model{
		IRVersion: irVersion,
		Opsets:    []Opset{{"", opset}},
		Graph:     &Graph{Name: name, names: map[string]int{}},
	}
}

// Close unmaps the files from which the model was loaded. The data of its tensors must not be
// used after that.
func (m *Model) Close() error {
	var errs []error
	for _, f := range m.files {
		if err := f.close(); err != nil {
			errs = append(errs, errorf("unmap %s: %w", f.name, err))
		}
	}
	m.files = nil
	return errors.Join(errs...)
}

// Graph is a dataflow graph: the main one of a model, or the body of a control-flow node.
type Graph struct {
	Name string

	outer        *Graph // of a body: the graph that holds the node
	inputs       []*Value
	outputs      []*Value
	nodes        []*Node
	stale        bool // some of the nodes have been removed
	initializers []*Value
	names        map[string]int // of the outermost graph: names taken, and the last suffix tried
	raw          []byte         // fields carried through
}

// live is the nodes that have not been removed. Removing many one by one must not cost a pass over
// the graph each, so they are dropped here; and into a new slice, as the old one may be ranged over.
func (g *Graph) live() []*Node {
	if g.stale {
		nodes := make([]*Node, 0, len(g.nodes))
		for _, n := range g.nodes {
			if !n.removed {
				nodes = append(nodes, n)
			}
		}
		g.nodes, g.stale = nodes, false
	}
	return g.nodes
}

// Inputs are the graph's inputs, in order. Those with a Const are optional: the initializer of the
// same name is their default.
func (g *Graph) Inputs() []*Value { return g.inputs }

// Outputs are the graph's outputs, in order.
func (g *Graph) Outputs() []*Value { return g.outputs }

// Nodes are the graph's nodes. After Load and Sort each stands behind those that it reads from.
// The slice must not be changed; it is safe to add and remove nodes while ranging over it.
func (g *Graph) Nodes() []*Node { return slices.Clone(g.live()) }

// NumNodes is the number of nodes.
func (g *Graph) NumNodes() int { return len(g.live()) }

// Initializers are the values with constant content, in order.
func (g *Graph) Initializers() []*Value { return slices.Clone(g.initializers) }

// Value is an edge of the graph: an input, an initializer or the output of a node.
type Value struct {
	Name  string
	Type  *Type   // nil where it is not known
	Const *Tensor // content of an initializer; for a graph input, its default

	graph    *Graph
	producer *Node
	uses     []Use
	isInput  bool
	outs     int    // how often it is listed as an output of the graph: at most once in a valid one
	raw      []byte // fields carried through
}

// Use is one place that reads a value.
type Use struct {
	Node  *Node
	Index int // of the node's input
}

// Producer is the node of which v is an output; nil for inputs and initializers.
func (v *Value) Producer() *Node { return v.producer }

// Uses are the places that read v, control-flow bodies included.
func (v *Value) Uses() []Use { return slices.Clone(v.uses) }

// NumUses is how often v is read: by nodes, and as an output of the graph.
func (v *Value) NumUses() int { return len(v.uses) + v.outs }

// IsInput reports whether v is a graph input.
func (v *Value) IsInput() bool { return v.isInput }

// IsOutput reports whether v is a graph output.
func (v *Value) IsOutput() bool { return v.outs > 0 }

// Graph is the graph in which v is defined.
func (v *Value) Graph() *Graph { return v.graph }

// Constant is the content of v where it cannot change from run to run: an initializer that is not
// the default of an input. Nil otherwise.
func (v *Value) Constant() *Tensor {
	if v == nil || v.isInput {
		return nil
	}
	return v.Const
}

// SoleUse is the only node that reads v; nil if there are more readers, or if v is an output.
func (v *Value) SoleUse() *Node {
	if len(v.uses) != 1 || v.outs > 0 {
		return nil
	}
	return v.uses[0].Node
}

// Type is the type of a value. Only tensors are modelled; other types are carried through.
type Type struct {
	DType DType
	Shape []Dim // nil: the rank is not known
	Rank0 bool  // the shape is known to be a scalar's
	raw   []byte
}

// Dim is one dimension: a size, or a name, or neither.
type Dim struct {
	Size  int64 // -1 where it is not fixed
	Param string
}

// Fixed makes a dimension of known size.
func Fixed(n int64) Dim { return Dim{Size: n} }

// Sym makes a dimension known by name.
func Sym(name string) Dim { return Dim{Size: -1, Param: name} }

// TensorType makes a tensor's type.
func TensorType(d DType, shape ...Dim) *Type {
	return &Type{DType: d, Shape: shape, Rank0: len(shape) == 0}
}

// HasShape reports whether at least the rank is known.
func (t *Type) HasShape() bool { return t != nil && (t.Shape != nil || t.Rank0) }

// Node is an operator with its operands.
type Node struct {
	Name   string
	Domain string
	OpType string
	Attrs  []*Attr // in file order

	graph   *Graph
	inputs  []*Value // nil: an optional operand that is left out
	outputs []*Value // nil: an optional result that is left out
	raw     []byte   // fields carried through
	removed bool
}

// Inputs are the operands; nil where an optional one is left out.
func (n *Node) Inputs() []*Value { return n.inputs }

// Outputs are the results; nil where an optional one is left out.
func (n *Node) Outputs() []*Value { return n.outputs }

// Input is operand i, nil when it is left out.
func (n *Node) Input(i int) *Value {
	if i < 0 || i >= len(n.inputs) {
		return nil
	}
	return n.inputs[i]
}

// Output is result i, nil when it is left out.
func (n *Node) Output(i int) *Value {
	if i < 0 || i >= len(n.outputs) {
		return nil
	}
	return n.outputs[i]
}

// Graph is the graph that holds n.
func (n *Node) Graph() *Graph { return n.graph }

// Removed reports whether n has been taken out of its graph.
func (n *Node) Removed() bool { return n.removed }

// Is reports whether n is the operator op of domain; "" is ONNX's own.
func (n *Node) Is(domain, op string) bool {
	return n != nil && n.OpType == op && sameDomain(n.Domain, domain)
}

// String names the node for messages: Op(name), or Op→output where it has no name.
func (n *Node) String() string {
	op := cmp.Or(n.OpType, "node")
	if n.Name != "" {
		return op + "(" + n.Name + ")"
	}
	for _, o := range n.outputs {
		if o != nil {
			return op + "→" + o.Name
		}
	}
	return op
}

// SetInput makes v operand i, adding operands that are left out as needed.
func (n *Node) SetInput(i int, v *Value) {
	for len(n.inputs) <= i {
		n.inputs = append(n.inputs, nil)
	}
	if old := n.inputs[i]; old != nil {
		old.dropUse(n, i)
	}
	n.inputs[i] = v
	if v != nil {
		v.uses = append(v.uses, Use{n, i})
	}
}

func (v *Value) dropUse(n *Node, i int) {
	for at := len(v.uses) - 1; at >= 0; at-- { // from the back: graphs are mostly taken down from there
		if v.uses[at] == (Use{n, i}) {
			v.uses = slices.Delete(v.uses, at, at+1)
			return
		}
	}
}

// Fresh gives a name that nothing in the model has, made from prefix.
func (g *Graph) Fresh(prefix string) string {
	names := g.root().names
	if _, taken := names[prefix]; !taken && prefix != "" {
		names[prefix] = 0
		return prefix
	}
	for {
		names[prefix]++
		name := prefix + "_" + strconv.Itoa(names[prefix])
		if _, taken := names[name]; !taken {
			names[name] = 0
			return name
		}
	}
}

// root is the model's main graph. It holds the names of all, so that a fresh one never shadows
// another in a body.
func (g *Graph) root() *Graph {
	for g.outer != nil {
		g = g.outer
	}
	return g
}

func (g *Graph) value(name string) *Value {
	if names := g.root().names; names[name] == 0 {
		names[name] = 0
	}
	return &Value{Name: name, graph: g}
}

// AddInput appends a graph input.
func (g *Graph) AddInput(name string, t *Type) *Value {
	v := g.value(name)
	v.Type, v.isInput = t, true
	g.inputs = append(g.inputs, v)
	return v
}

// AddOptionalInput appends a graph input with a default, which a caller may leave out.
func (g *Graph) AddOptionalInput(name string, def *Tensor) *Value {
	v := g.AddInput(name, typeOf(def))
	v.Const = def
	g.initializers = append(g.initializers, v)
	return v
}

// AddInitializer adds a constant.
func (g *Graph) AddInitializer(name string, t *Tensor) *Value {
	v := g.value(name)
	v.Const, v.Type = t, typeOf(t)
	g.initializers = append(g.initializers, v)
	return v
}

func typeOf(t *Tensor) *Type {
	ty := &Type{DType: t.DType, Rank0: len(t.Shape) == 0}
	for _, d := range t.Shape {
		ty.Shape = append(ty.Shape, Fixed(d))
	}
	return ty
}

// AddOutput makes v a graph output under its own name.
func (g *Graph) AddOutput(v *Value) {
	g.outputs = append(g.outputs, v)
	v.outs++
}

// RemoveInput takes an input that nothing reads out of the graph.
func (g *Graph) RemoveInput(v *Value) error {
	if v.NumUses() > 0 {
		return errorf("input %q is still read", v.Name)
	}
	g.inputs = slices.DeleteFunc(g.inputs, func(w *Value) bool { return w == v })
	g.initializers = slices.DeleteFunc(g.initializers, func(w *Value) bool { return w == v })
	return nil
}

// RemoveInitializer takes a constant that nothing reads out of the graph.
func (g *Graph) RemoveInitializer(v *Value) error {
	if v.NumUses() > 0 {
		return errorf("initializer %q is still read", v.Name)
	}
	g.initializers = slices.DeleteFunc(g.initializers, func(w *Value) bool { return w == v })
	return nil
}

// NodeSpec describes a node to add. Name and the names of the results are made unique; without
// Outputs the node has one result, named after it.
type NodeSpec struct {
	Op      string
	Domain  string
	Name    string // prefix; the operator's name if empty
	Inputs  []*Value
	Outputs []string // prefixes; "" leaves a result out
	Attrs   []*Attr
}

// Add appends a node. Sort puts it where it belongs.
func (g *Graph) Add(s NodeSpec) *Node {
	name := s.Name
	if name == "" {
		name = s.Op
	}
	n := &Node{Name: g.Fresh(name), Domain: s.Domain, OpType: s.Op, Attrs: s.Attrs, graph: g}
	if len(s.Outputs) == 0 {
		s.Outputs = []string{n.Name + "/out"}
	}
	for i, v := range s.Inputs {
		n.SetInput(i, v)
	}
	for _, o := range s.Outputs {
		var v *Value
		if o != "" {
			v = &Value{Name: g.Fresh(o), graph: g, producer: n}
		}
		n.outputs = append(n.outputs, v)
	}
	g.nodes = append(g.nodes, n)
	return n
}

// Op appends a node with one result and gives that result.
func (g *Graph) Op(op, name string, inputs []*Value, attrs ...*Attr) *Value {
	return g.Add(NodeSpec{Op: op, Name: name, Inputs: inputs, Attrs: attrs}).outputs[0]
}

// Replace lets everything that reads old read v instead, the graph's outputs included. Where old
// is an output of the graph, its name, which is part of the graph's interface, passes to v.
func (g *Graph) Replace(old, v *Value) error {
	if old == v {
		return nil
	}
	if old.outs > 0 {
		if v.isInput || v.Const != nil || v.outs > 0 || v.graph != old.graph {
			return errorf("output %q cannot be taken over by %q", old.Name, v.Name)
		}
		for i, o := range old.graph.outputs {
			if o == old {
				old.graph.outputs[i] = v
			}
		}
		v.outs, old.outs = old.outs, 0
		v.Name, old.Name = old.Name, g.Fresh(old.Name+"/old")
	}
	for _, u := range old.uses {
		u.Node.inputs[u.Index] = v
	}
	v.uses, old.uses = append(v.uses, old.uses...), nil
	if v.Type == nil {
		v.Type = old.Type
	}
	return nil
}

// Remove takes a node out of its graph. Its results must not be read any more.
func (g *Graph) Remove(n *Node) error {
	if n.removed {
		return nil
	}
	for _, o := range n.outputs {
		if o != nil && o.NumUses() > 0 {
			return errorf("%v cannot be removed: its result %q is still read", n, o.Name)
		}
	}
	n.walk(func(m *Node) {
		for i := range m.inputs {
			m.SetInput(i, nil)
		}
	})
	n.removed, n.graph.stale = true, true
	return nil
}

// Prune removes nodes and initializers that no output of the graph depends on, and reports how
// many nodes went. Inputs stay: they are part of the interface.
func (g *Graph) Prune() int {
	needed := map[*Node]bool{}
	var todo []*Node
	need := func(n *Node) {
		if !needed[n] {
			needed[n] = true
			todo = append(todo, n)
		}
	}
	for _, o := range g.outputs {
		if o.producer != nil {
			need(o.producer)
		}
	}
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, dep := range g.dependencies(n) {
			need(dep)
		}
	}
	removed := 0
	read := map[*Value]bool{} // by nodes that go
	for _, n := range g.live() {
		if needed[n] {
			continue
		}
		removed++
		g.stale = true
		n.walk(func(m *Node) {
			m.removed = true
			for _, v := range m.inputs {
				read[v] = true
			}
		})
	}
	for v := range read {
		if v != nil {
			v.uses = slices.DeleteFunc(v.uses, func(u Use) bool { return u.Node.removed })
		}
	}
	g.initializers = slices.DeleteFunc(g.initializers, func(v *Value) bool {
		return v.NumUses() == 0 && !v.isInput
	})
	return removed
}

// Walk calls f for every node of the graph and of the bodies inside it.
func (g *Graph) Walk(f func(*Node)) {
	for _, n := range g.live() {
		n.walk(f)
	}
}

// walk calls f for n and for every node of its bodies.
func (n *Node) walk(f func(*Node)) {
	f(n)
	for _, a := range n.Attrs {
		for _, b := range a.graphs() {
			b.Walk(f)
		}
	}
}
