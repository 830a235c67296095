// Package capture lets CUDA graphs record a model.
//
// A recorded graph holds what the device does. ONNX Runtime refuses to record where it has to copy
// between device and host inside the graph (microsoft/onnxruntime#16491), which it does where a kernel reads
// an operand on the host, such as the bounds of a Slice, and the device has computed it. What is computed
// from shapes stays on the host: there GetCpuPreferredNodes puts nodes that read only what is on the host
// already, inputs of the graph and small constants, and at least one of the first. So a bound that is
// computed from an input alone is tied to a shape:
//
//	Slice(x, Neg(n)) ⇒ Slice(x, Neg(Sub(Add(rows, n), rows))), rows = Shape(input_ids)[1:2]
//
// The attention of the optimised graph is fit for recording as it is: seqlens_k is summed up on the device
// from attention_mask, total_sequence_length is the length of that mask and is read on the host. With
// a mask of fixed length, the capacity of the cache, both are right each time the recording runs.
package capture

import (
	"fmt"
	"slices"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Pass moves what the host reads to the host.
var Pass = &g.Pass{
	Name:    "capture",
	Doc:     "operands that CUDA reads on the host are computed there, so that CUDA graphs can record the model",
	Needs:   "an input input_ids; operands computed from inputs and shapes, not from activations",
	After:   []string{"attention", "last-logits"},
	Targets: []g.Target{g.CUDA},
	Run:     run,
}

const passName = "capture"

// onHost are the operands that CUDA's kernels read on the host (InputMemoryType in onnxruntime's
// core/providers/cuda and contrib_ops/cuda).
var onHost = map[string][]int{
	"ConstantOfShape": {0}, "Expand": {1}, "GroupQueryAttention": {6}, "Range": {0, 1, 2}, "ReduceMax": {1}, "ReduceMean": {1},
	"ReduceMin": {1}, "ReduceProd": {1}, "ReduceSum": {1}, "Reshape": {1}, "Slice": {1, 2, 3, 4}, "Split": {1}, "Squeeze": {1}, "Tile": {1},
	"TopK": {1}, "Trilu": {1}, "Unsqueeze": {1},
}

func run(u *g.Unit) (int, error) {
	t := &tier{graph: u.Model.Graph, host: map[*ir.Value]bool{}}
	for _, v := range t.graph.Inputs() {
		if v.Name == "input_ids" && v.Type.HasShape() && len(v.Type.Shape) == 2 {
			t.ids = v
		}
	}
	moved := 0
	for _, n := range t.graph.Nodes() {
		t.visit(n)
		for _, i := range onHost[n.OpType] {
			v := n.Input(i)
			if v == nil || v.Producer() == nil || t.host[v] {
				continue // constants and inputs can be on either side
			}
			if err := t.move(v); err != nil {
				u.Decline(passName, n.String(), fmt.Errorf("operand %q is computed on the device: %w", v.Name, err))
				continue
			}
			u.Applied(passName, n.String())
			moved++
		}
	}
	return moved, nil
}

// move has v computed on the host.
func (t *tier) move(v *ir.Value) error {
	inputs, err := sources(v)
	if err != nil {
		return err
	}
	if t.ids == nil || len(inputs) == 0 {
		return fmt.Errorf("by %v", v.Producer())
	}
	for _, in := range inputs {
		t.tie(in)
	}
	for _, n := range upstream(v) {
		t.visit(n)
	}
	return nil
}

type tier struct {
	graph *ir.Graph
	ids   *ir.Value
	rows  *ir.Value          // the sequence length, [1], on the host
	host  map[*ir.Value]bool // computed on the host
}

// visit notes where the results of n are, by the rule of GetCpuPreferredNodes.
func (t *tier) visit(n *ir.Node) {
	if n.Is("", "Shape") || n.Is("", "Size") {
		t.host[n.Output(0)] = true
		return
	}
	found := false
	for i, v := range n.Inputs() {
		switch {
		case v == nil || v.Producer() == nil && (v.IsInput() || small(v.Const)):
		case !t.host[v] || slices.Contains(onHost[n.OpType], i):
			return
		default:
			found = true
		}
	}
	for _, o := range n.Outputs() {
		if o != nil && found {
			t.host[o] = true
		}
	}
}

// small is what ONNX Runtime calls a small initializer.
func small(c *ir.Tensor) bool { return c != nil && c.Len() <= 100 }

// maxNodes bounds the arithmetic behind one operand.
const maxNodes = 64

// upstream are the nodes between v and shapes or inputs, operands first.
func upstream(v *ir.Value) []*ir.Node {
	var found []*ir.Node
	var walk func(v *ir.Value)
	walk = func(v *ir.Value) {
		if v == nil || v.Producer() == nil || slices.Contains(found, v.Producer()) || len(found) > maxNodes {
			return
		}
		n := v.Producer()
		if !n.Is("", "Shape") && !n.Is("", "Size") {
			for _, w := range n.Inputs() {
				walk(w)
			}
		}
		found = append(found, n)
	}
	walk(v)
	return found
}

// sources are the inputs of one integer that v is computed from, if it is computed from nothing else but
// shapes and small constants.
func sources(v *ir.Value) ([]*ir.Value, error) {
	var inputs []*ir.Value
	nodes := upstream(v)
	if len(nodes) > maxNodes {
		return nil, fmt.Errorf("by more than %d nodes", maxNodes)
	}
	for _, n := range nodes {
		if n.HasGraph() {
			return nil, fmt.Errorf("by %v", n)
		}
		for _, w := range n.Inputs() {
			switch {
			case w == nil || w.Producer() != nil || n.Is("", "Shape") || n.Is("", "Size") || !w.IsInput() && small(w.Const):
			case !w.IsInput() || !oneInteger(w.Type):
				return nil, fmt.Errorf("from the content of %q", w.Name)
			case !slices.Contains(inputs, w):
				inputs = append(inputs, w)
			}
		}
	}
	return inputs, nil
}

func oneInteger(t *ir.Type) bool {
	return t.HasShape() && t.DType == ir.Int64 && len(t.Shape) == 1 && t.Shape[0].Size == 1
}

// tie lets everything read an input by way of arithmetic with a shape that leaves it as it is.
func (t *tier) tie(in *ir.Value) {
	gr := t.graph
	if t.rows == nil {
		t.rows = gr.Op("Shape", "/capture/rows/Shape", []*ir.Value{t.ids}, ir.Int("start", 1), ir.Int("end", 2))
		t.host[t.rows] = true
	}
	readers := in.Uses()
	sum := gr.Op("Add", "/capture/"+in.Name+"/Add", []*ir.Value{t.rows, in})
	same := gr.Op("Sub", "/capture/"+in.Name+"/Sub", []*ir.Value{sum, t.rows})
	t.host[sum], t.host[same] = true, true
	for _, r := range readers {
		r.Node.SetInput(r.Index, same)
	}
}
