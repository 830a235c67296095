// Package attention replaces a whole layer of attention by GroupQueryAttention.
//
// What lies between the projections and the output product differs from exporter to exporter: how
// the mask is computed, how rotary embedding rotates, how KV heads are repeated, where casts stand, and which of
// these are operators of their own (Attention and RotaryEmbedding of opset 23, MultiHeadAttention). The
// pass does not match these forms. It takes the cone of nodes between a layer's queries, keys, values
// and past, and its attention output, and evaluates it on small inputs. If the results are those of
// causal grouped-query attention with rotary embedding (Su et al., arXiv:2104.09864; Ainslie et
// al., arXiv:2305.13245), the cone is replaced; if not, it is left alone and the trace says which sample
// differed. What that proves and what it takes for granted: docs/adr/0007-attention-by-proof.md.
//
//	cone(q, k, v, past) ⇒ GroupQueryAttention(q, k, v, past_key, past_value, seqlens_k,
//	                      total_sequence_length, cos_cache, sin_cache; do_rotary 1)
//
// GroupQueryAttention (com.microsoft, version 1) keeps scores in tiles, reads each KV head once for
// all its query heads, applies the rotary embedding from tables, and lets past and present be one
// buffer of fixed capacity, so that a decoded token costs no copy of the cache. The fused graph counts
// the tokens of a sequence by its attention_mask: sequences of a batch are padded on the right,
// and position_ids, if nothing else reads it, is no longer an input.
package attention

import (
	"errors"
	"fmt"
	"path"
	"slices"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/sample"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/kernels"
)

// Pass fuses the attention of all layers.
var Pass = &g.Pass{
	Name:    "attention",
	Doc:     "rotary embedding, mask, KV cache and attention become GroupQueryAttention",
	Needs:   "past_key_values inputs, q/k norms fused by rmsnorm, and the model's context length",
	After:   []string{"opset", "constants", "rmsnorm"},
	Targets: []g.Target{g.CPU, g.CUDA},
	Run:     run,
}

const passName = "attention"

// maxPositions bounds the rotary tables: a million rows are the longest context of any Qwen3, and
// take 512 MB in float32 at head size 128.
const maxPositions = 1 << 20

func run(u *g.Unit) (int, error) {
	if v := u.Model.Opset(""); v < 13 {
		u.Decline(passName, "", fmt.Errorf("opset %d has no ReduceSum with axes as an operand", v))
		return 0, nil
	}
	if u.MaxPositions < 0 || u.MaxPositions > maxPositions {
		return 0, fmt.Errorf("a context of %d positions: set MaxPositions to the model's, at most %d", u.MaxPositions, maxPositions)
	}
	f := &fuser{unit: u, graph: u.Model.Graph, in: sample.Find(u.Model.Graph)}
	layers, err := f.layers()
	if err != nil || len(layers) == 0 {
		return 0, err
	}
	if u.MaxPositions == 0 { // a model without attention does not need it
		return 0, errors.New("the context length is not known: set MaxPositions")
	}
	if err := supported(u, layers[0].dtype); err != nil {
		u.Decline(passName, layers[0].core.String(), err)
		return 0, nil
	}
	if err := f.prepare(layers[0]); err != nil {
		u.Decline(passName, layers[0].core.String(), err)
		return 0, u.Context().Err()
	}
	for _, l := range layers {
		if err := f.rewrite(l); err != nil {
			return 0, err
		}
		u.Applied(passName, l.core.String())
	}
	if err := f.graph.Sort(); err != nil {
		return 0, err
	}
	f.graph.Prune()
	if pos := f.in.Position; pos != nil && pos.NumUses() == 0 {
		if err := f.graph.RemoveInput(pos); err != nil {
			return 0, err
		}
	}
	return len(layers), nil
}

// supported reports whether the target has the operator in the type that the layers will have. CUDA has
// none for float32: there the plain nodes on the device are better than attention on the CPU.
func supported(u *g.Unit, d ir.DType) error {
	if d == ir.Float32 && u.DType != ir.Undefined {
		d = u.DType
	}
	s := kernels.Lookup(g.Microsoft, "GroupQueryAttention", 0)
	if !kernels.Computes(u.Target, s, map[string]ir.DType{"T": d, "T_CACHE": d}) {
		return fmt.Errorf("there is no GroupQueryAttention for %v on %s", d, u.Target)
	}
	return nil
}

// layers finds all layers of attention that are proven to be what can be fused.
func (f *fuser) layers() ([]*layer, error) {
	var found []*layer
	for _, n := range f.graph.Nodes() {
		if !core(n) {
			continue
		}
		if err := f.unit.Context().Err(); err != nil {
			return nil, err
		}
		l, err := f.layer(n)
		if err == nil {
			err = f.prove(l)
		}
		if err == nil && len(found) > 0 && (l.dim != found[0].dim || l.dtype != found[0].dtype) {
			err = fmt.Errorf("head size %d in %v differs from the first layer's %d in %v", l.dim, l.dtype, found[0].dim, found[0].dtype)
		}
		if err != nil {
			f.unit.Decline(passName, n.String(), err)
			continue
		}
		found = append(found, l)
	}
	return found, nil
}

// fuser holds what the layers of a model share.
type fuser struct {
	unit  *g.Unit
	graph *ir.Graph
	in    *sample.Inputs
	proofs

	cos, sin          *ir.Value // the fused graph's tables, once there are any
	seqlens, totalLen *ir.Value
}

// layer is one layer's cone: what enters it, and what leaves it.
type layer struct {
	core             *ir.Node  // the softmax, or an operator that contains it
	q, k, v          *ir.Value // [B,S,Hq,D], [B,S,Hkv,D], [B,S,Hkv·D]; each may have another form, see form
	pastKey, pastVal *ir.Value // [B,Hkv,P,D]
	key, val         *ir.Value // [B,Hkv,P+S,D], graph outputs
	scores           *ir.Value // [B,Hq,S,P+S], what the softmax reads; or the keys that its operator reads
	out              *ir.Value // [B,S,Hq·D]
	heads, kvHeads   int64
	dim              int64
	dtype            ir.DType
	cone             map[*ir.Node]bool
	data             []*ir.Value // values of the cone that are computed from q, k, v or the past
}

// core reports whether n weights values by a softmax, as such or as a part of attention.
func core(n *ir.Node) bool { return n.Is("", "Softmax") || contained(n) }

// contained reports whether n is attention as one operator: that of opset 23, or ONNX Runtime's own in which all
// heads have keys and values. GroupQueryAttention, which this pass writes, is not looked at.
func contained(n *ir.Node) bool {
	return n.Is("", "Attention") || n.Is(g.Microsoft, "MultiHeadAttention")
}

// layer finds the cone around a softmax.
func (f *fuser) layer(core *ir.Node) (*layer, error) {
	if f.in.IDs == nil || f.in.Mask == nil || f.in.Mask.Type.DType != ir.Int64 {
		return nil, fmt.Errorf("the graph has no inputs input_ids and attention_mask of int64 and two dimensions")
	}
	out, err := f.output(core)
	if err != nil {
		return nil, err
	}
	l := &layer{core: core, out: out, scores: core.Input(0), cone: map[*ir.Node]bool{}}
	if contained(core) {
		l.scores = core.Input(1)
	}
	anchors, pasts, err := f.collect(l)
	if err != nil {
		return nil, err
	}
	for _, past := range pasts {
		if err := f.assign(l, past); err != nil {
			return nil, err
		}
	}
	if l.pastKey == nil || l.pastVal == nil {
		return nil, fmt.Errorf("no past keys and values enter the attention")
	}
	if err := f.roles(l, anchors); err != nil {
		return nil, err
	}
	for _, v := range []*ir.Value{l.q, l.k, l.v, l.pastKey, l.pastVal} {
		l.follow(v, func(w *ir.Value) bool {
			if !slices.Contains(l.data, w) {
				l.data = append(l.data, w)
			}
			return false
		})
	}
	if err := l.closed(); err != nil {
		return nil, err
	}
	return l, l.sizes()
}

// maxHops bounds the nodes between the softmax and the output projection.
const maxHops = 32

// output follows the softmax to the value that the output projection reads. Between the two, paths
// may part and meet again, as they do where rows without any visible key are set to zero.
func (f *fuser) output(softmax *ir.Node) (*ir.Value, error) {
	place := f.places()
	open := []*ir.Value{softmax.Output(0)} // values with readers that are still to be visited
	done := map[*ir.Node]bool{}
	for range maxHops {
		var next *ir.Node // the first of these readers
		for _, v := range open {
			if v.IsOutput() {
				return nil, fmt.Errorf("%q is an output of the graph", v.Name)
			}
			for _, u := range v.Uses() {
				if u.Node.Graph() != f.graph {
					return nil, fmt.Errorf("%q is read by the body of a control-flow node", v.Name)
				}
				if !done[u.Node] && (next == nil || place[u.Node] < place[next]) {
					next = u.Node
				}
			}
		}
		if next == nil {
			break
		}
		if len(open) == 1 && projection(open[0]) != nil {
			return open[0], nil
		}
		done[next] = true
		open = slices.DeleteFunc(append(open, next.Outputs()...), func(v *ir.Value) bool {
			return v == nil || !v.IsOutput() && !slices.ContainsFunc(v.Uses(), func(u ir.Use) bool { return !done[u.Node] })
		})
	}
	return nil, fmt.Errorf("no output projection behind the softmax")
}

// projection is the product that alone reads v: as it is, or with its channels in another order, in which weights that
// were quantised in that order take them. Nil if there is none.
func projection(v *ir.Value) *ir.Node {
	n := v.SoleUse()
	if n.Is("", "Gather") && n.Input(0) == v && n.Int("axis", 0) == -1 {
		if order := n.Input(1).Constant(); order != nil && len(order.Shape) == 1 {
			v = n.Output(0)
			n = v.SoleUse()
		}
	}
	if n == nil || !product(n) || n.Input(0) != v {
		return nil
	}
	return n
}

// places numbers the nodes in graph order.
func (f *fuser) places() map[*ir.Node]int {
	if f.place == nil {
		nodes := f.graph.Nodes()
		f.place = make(map[*ir.Node]int, len(nodes))
		for i, n := range nodes {
			f.place[n] = i
		}
	}
	return f.place
}

// product reports whether n multiplies activations with a constant weight, quantised or not.
func product(n *ir.Node) bool {
	return (n.Is("", "MatMul") || n.Is(g.Microsoft, "MatMulNBits")) && n.Input(1).Constant() != nil
}

// depth is the number of rows of a product's weight, 0 if it has not two dimensions.
func depth(n *ir.Node) int64 {
	if n.Is(g.Microsoft, "MatMulNBits") {
		return max(n.Int("K", 0), 0)
	}
	if s := n.Input(1).Constant().Shape; len(s) == 2 {
		return s[0]
	}
	return 0
}

// normalised reports whether v is what an RMSNorm gives.
func normalised(v *ir.Value) bool { return v.Producer().Is("", "SimplifiedLayerNormalization") }

// anchor reports whether a cone ends at v: a normalised or a projected activation.
func anchor(v *ir.Value) bool {
	n := v.Producer()
	return n != nil && (normalised(v) || product(n) || n.Is("", "Split") && n.Input(0) != nil && product(n.Input(0).Producer()))
}

// maxCone bounds the nodes of one cone; exporters write some 60, and as many for mask and positions. It keeps
// the work on a graph of many softmaxes behind one long chain linear.
const maxCone = 2048

// collect walks up from the output, gathers the nodes of the cone, and gives the anchors and the pasts in
// which it ends.
func (f *fuser) collect(l *layer) (anchors, pasts []*ir.Value, err error) {
	seen := map[*ir.Value]bool{}
	stack := []*ir.Value{l.out}
	for len(stack) > 0 {
		v := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if v == nil || seen[v] {
			continue
		}
		seen[v] = true
		if anchor(v) {
			anchors = append(anchors, v)
			continue
		}
		n := v.Producer()
		if n == nil {
			if t := v.Type; v.IsInput() && t != nil && len(t.Shape) == 4 {
				pasts = append(pasts, v)
			}
			continue
		}
		if l.cone[n] = true; len(l.cone) > maxCone {
			return nil, nil, fmt.Errorf("more than %d nodes lie between the projections and the attention's output", maxCone)
		}
		if n.OpType == "Shape" {
			continue // a size, which the samples give; not a path for data
		}
		for i := len(n.Inputs()) - 1; i >= 0; i-- {
			stack = append(stack, n.Inputs()[i])
		}
	}
	return anchors, pasts, nil
}

// follow walks down inside the cone, from v, with what is computed from the content of v, and
// stops where visit says so. It reports whether it was stopped.
func (l *layer) follow(v *ir.Value, visit func(*ir.Value) bool) bool {
	seen := map[*ir.Value]bool{}
	stack := []*ir.Value{v}
	for len(stack) > 0 {
		v := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if v == nil || seen[v] {
			continue
		}
		seen[v] = true
		if visit(v) {
			return true
		}
		for _, u := range v.Uses() {
			if u.Node.OpType != "Shape" && (l.cone[u.Node] || u.Node.Is("", "Identity")) {
				stack = append(stack, results(u)...)
			}
		}
	}
	return false
}

// results are those that a node computes from one of its operands. An attention that appends to its past
// gives keys behind its output, and values behind those.
func results(u ir.Use) []*ir.Value {
	all := u.Node.Outputs()
	if !contained(u.Node) || len(all) < 3 {
		return all
	}
	keys, values := pasts(u.Node)
	switch u.Index {
	case 1, keys:
		return []*ir.Value{all[0], all[1]}
	case 2, values:
		return []*ir.Value{all[0], all[2]}
	}
	return all[:1]
}

// pasts are the operands past_key and past_value.
func pasts(n *ir.Node) (keys, values int) {
	if n.Is(g.Microsoft, "MultiHeadAttention") {
		return 6, 7
	}
	return 4, 5
}

func (l *layer) leads(v, target *ir.Value) bool {
	return l.follow(v, func(w *ir.Value) bool { return w == target })
}

// assign tells keys from values: the concatenation of past and new keys takes part in the scores, before
// the softmax; that of values does not.
func (f *fuser) assign(l *layer, past *ir.Value) error {
	for _, u := range past.Uses() {
		if !l.cone[u.Node] {
			continue
		}
		slot, other := &l.pastVal, &l.val
		var present *ir.Value
		switch {
		case u.Node.Is("", "Concat"):
			present = u.Node.Output(0)
			if l.leads(present, l.scores) {
				slot, other = &l.pastKey, &l.key
			}
		case u.Node == l.core && contained(l.core):
			keys, values := pasts(u.Node)
			switch u.Index {
			case keys:
				slot, other = &l.pastKey, &l.key
				present = u.Node.Output(1)
			case values:
				present = u.Node.Output(2)
			}
		}
		if present == nil {
			continue
		}
		if *slot != nil {
			return fmt.Errorf("more than two pasts enter the attention")
		}
		if !present.IsOutput() {
			present = identityOutput(present)
		}
		if present == nil {
			return fmt.Errorf("the present of %q is no output of the graph", past.Name)
		}
		*slot, *other = past, present
	}
	return nil
}

// identityOutput finds the graph output that is v under another name.
func identityOutput(v *ir.Value) *ir.Value {
	for _, u := range v.Uses() {
		if u.Node.Is("", "Identity") && u.Node.Output(0).IsOutput() {
			return u.Node.Output(0)
		}
	}
	return nil
}

// roles finds out which anchor is the query, the key and the value: the value leads to the present
// values, the key to the present keys, the query to neither.
func (f *fuser) roles(l *layer, anchors []*ir.Value) error {
	if len(anchors) != 3 {
		return fmt.Errorf("%d projections enter the attention, not 3", len(anchors))
	}
	for _, a := range anchors {
		slot := &l.q
		switch {
		case l.leads(a, l.val):
			slot = &l.v
		case l.leads(a, l.key):
			slot = &l.k
		}
		if *slot != nil {
			return fmt.Errorf("%q and %q play the same part", a.Name, (*slot).Name)
		}
		*slot = a
	}
	return nil
}

// closed makes sure that nothing outside reads what the cone computes on its way: it would have to be
// computed beside the fused operator.
func (l *layer) closed() error {
	for _, v := range l.data {
		if v == l.out || v == l.key || v == l.val || !l.cone[v.Producer()] {
			continue
		}
		for _, u := range v.Uses() {
			if !l.cone[u.Node] && u.Node.OpType != "Shape" && u.Node.Output(0) != l.key && u.Node.Output(0) != l.val {
				return fmt.Errorf("%q is also read outside of the attention", v.Name)
			}
		}
		if v.IsOutput() {
			return fmt.Errorf("%q is also an output of the graph", v.Name)
		}
	}
	return nil
}

// sizes reads heads and dimensions from the types of the past and of the weights.
func (l *layer) sizes() error {
	t := l.pastKey.Type
	l.kvHeads, l.dim, l.dtype = t.Shape[1].Size, t.Shape[3].Size, t.DType
	if l.kvHeads <= 0 || l.dim <= 0 {
		return fmt.Errorf("past %q has no fixed number of heads and head size", l.pastKey.Name)
	}
	if l.dim%headMultiple != 0 {
		return fmt.Errorf("GroupQueryAttention with rotary embedding takes head sizes that are multiples of %d, not %d", headMultiple, l.dim)
	}
	if v := l.pastVal.Type; v.DType != t.DType || v.Shape[1].Size != l.kvHeads || v.Shape[3].Size != l.dim {
		return fmt.Errorf("past keys and values differ in heads, head size or type")
	}
	rows := depth(projection(l.out))
	if rows == 0 || rows%l.dim != 0 {
		return fmt.Errorf("the output projection %v of %d rows does not take heads of size %d", projection(l.out), rows, l.dim)
	}
	l.heads = rows / l.dim
	if l.heads%l.kvHeads != 0 {
		return fmt.Errorf("%d heads on %d KV heads", l.heads, l.kvHeads)
	}
	if l.heads > maxWidth || l.dim > maxWidth {
		return fmt.Errorf("%d heads of size %d", l.heads, l.dim)
	}
	return nil
}

// headMultiple is what ONNX Runtime 1.32 asks of a head size when it rotates.
const headMultiple = 16

// maxWidth bounds heads and head sizes, and with them the work of a proof.
const maxWidth = 1024

// prepare makes what all layers read: the tables and the lengths.
func (f *fuser) prepare(l *layer) error {
	cos, sin, err := f.tables(l)
	if err != nil {
		return err
	}
	gr := f.graph
	f.cos = gr.AddInitializer(gr.Fresh("model.rotary_emb.cos_cache"), cos)
	f.sin = gr.AddInitializer(gr.Fresh("model.rotary_emb.sin_cache"), sin)
	axis := gr.AddInitializer(gr.Fresh("/attention/axis"), ir.Int64Tensor([]int64{1}))
	one := gr.AddInitializer(gr.Fresh("/attention/one"), ir.Int64Tensor([]int64{1}))
	count := gr.Op("ReduceSum", "/attention/tokens/ReduceSum", []*ir.Value{f.in.Mask, axis}, ir.Int("keepdims", 0))
	last := gr.Op("Sub", "/attention/seqlens_k/Sub", []*ir.Value{count, one})
	f.seqlens = gr.Op("Cast", "/attention/seqlens_k/Cast", []*ir.Value{last}, ir.Int("to", int64(ir.Int32)))
	// As onnxruntime-genai's builder writes it: lengths are computed on the host, on CUDA too.
	shape := gr.Op("Shape", "/attention/total/Shape", []*ir.Value{f.in.Mask})
	column := gr.AddInitializer(gr.Fresh("/attention/column"), ir.Int64Scalar(1))
	total := gr.Op("Gather", "/attention/total/Gather", []*ir.Value{shape, column}, ir.Int("axis", 0))
	f.totalLen = gr.Op("Cast", "/attention/total/Cast", []*ir.Value{total}, ir.Int("to", int64(ir.Int32)))
	return nil
}

// rewrite puts GroupQueryAttention in the place of a proven cone.
func (f *fuser) rewrite(l *layer) error {
	g.Require(f.unit.Model, g.Microsoft)
	base := path.Dir(projection(l.out).Name)
	if d := path.Dir(base); d != "." && d != "/" {
		base = d
	}
	base = path.Join(base, "attn")
	n := f.graph.Add(ir.NodeSpec{
		Op: "GroupQueryAttention", Domain: g.Microsoft, Name: path.Join(base, "GroupQueryAttention"),
		Inputs: []*ir.Value{
			f.flat(l.q, l, base+"/q", l.heads*l.dim), f.flat(l.k, l, base+"/k", l.kvHeads*l.dim), f.flat(l.v, l, base+"/v", l.kvHeads*l.dim),
			l.pastKey, l.pastVal, f.seqlens, f.totalLen, f.cos, f.sin,
		},
		Outputs: []string{path.Join(base, "out"), l.key.Name + "/fused", l.val.Name + "/fused"},
		Attrs: []*ir.Attr{
			ir.Int("num_heads", l.heads), ir.Int("kv_num_heads", l.kvHeads), ir.Int("do_rotary", 1),
			ir.Int("rotary_interleaved", 0), ir.Float("scale", scale(l.dim)),
		},
	})
	for i, old := range []*ir.Value{l.out, l.key, l.val} {
		if err := f.graph.Replace(old, n.Output(i)); err != nil {
			return err
		}
	}
	return nil
}

// flat gives an anchor the three dimensions that the operator takes, the heads side by side.
func (f *fuser) flat(v *ir.Value, l *layer, name string, width int64) *ir.Value {
	shape := []int64{0, 0, width}
	switch f.form(v, l.dim) {
	case sideBySide:
		return v
	case headRows:
		shape[1] = -1
	}
	c := f.graph.AddInitializer(f.graph.Fresh(name+"/shape"), ir.Int64Tensor(shape))
	return f.graph.Op("Reshape", name+"/Reshape", []*ir.Value{v, c})
}

// form is how the heads of an anchor lie. In memory all forms are the same.
type form uint8

const (
	sideBySide form = iota // [B,S,H·D]
	apart                  // [B,S,H,D]
	headRows               // [B,S·H,D]
)

// form finds out which one an anchor has.
func (f *fuser) form(v *ir.Value, dim int64) form {
	t := f.unit.Type(v)
	switch {
	case !t.HasShape():
		if normalised(v) {
			return apart
		}
	case len(t.Shape) == 4:
		return apart
	case len(t.Shape) == 3 && normalised(v) && t.Shape[2].Size == dim:
		return headRows
	}
	return sideBySide
}
