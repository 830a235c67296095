// Package attention replaces a whole layer of attention by GroupQueryAttention.
//
// What lies between the projections and the output product differs from exporter to exporter: how
// the mask is computed, how rotary embedding rotates, how KV heads are repeated, where casts stand. The
// pass does not match these forms. It takes the cone of nodes between a layer's queries, keys, values
// and past, and its attention output, and evaluates it on small inputs. If the results are those of
// causal grouped-query attention with rotary embedding (Su et al., arXiv:2104.09864; Ainslie et
// al., arXiv:2305.13245), the cone is replaced; if not, it is left alone and the trace says which sample
// differed.
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
	"fmt"
	"path"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Pass fuses the attention of all layers.
var Pass = &g.Pass{
	Name:    "attention",
	Doc:     "rotary embedding, mask, KV cache and attention become GroupQueryAttention",
	Needs:   "past_key_values inputs, q/k norms fused by rmsnorm, and the model's context length",
	After:   []string{"constants", "rmsnorm"},
	Targets: []g.Target{g.CPU, g.CUDA},
	Run:     run,
}

const passName = "attention"

func run(u *g.Unit) (int, error) {
	if u.MaxPositions <= 0 {
		return 0, fmt.Errorf("the context length is not given: set MaxPositions")
	}
	f := &fuser{unit: u, graph: u.Model.Graph}
	if err := f.inputs(); err != nil {
		u.Decline(passName, "", err)
		return 0, nil
	}
	fused := 0
	for _, n := range f.graph.Nodes() {
		if n.Removed() || !n.Is("", "Softmax") {
			continue
		}
		if err := u.Context().Err(); err != nil {
			return fused, err
		}
		l, err := f.layer(n)
		if err == nil {
			err = f.prove(l)
		}
		if err != nil {
			u.Decline(passName, n.String(), err)
			continue
		}
		if err := f.rewrite(l); err != nil {
			return fused, err
		}
		u.Applied(passName, n.String())
		fused++
	}
	if pos := f.position; pos != nil && fused > 0 {
		if err := f.graph.Sort(); err != nil {
			return fused, err
		}
		f.graph.Prune()
		if pos.NumUses() == 0 {
			if err := f.graph.RemoveInput(pos); err != nil {
				return fused, err
			}
		}
	}
	return fused, nil
}

// fuser holds what the layers of a model share.
type fuser struct {
	unit  *g.Unit
	graph *ir.Graph

	ids, mask, position *ir.Value // inputs; position may be nil

	cos, sin          *ir.Value    // the fused graph's tables, once the first layer is fused
	rotary            [2]*ir.Value // the values of the old graph from which they were made
	seqlens, totalLen *ir.Value
}

func (f *fuser) inputs() error {
	for _, in := range f.graph.Inputs() {
		switch in.Name {
		case "input_ids":
			f.ids = in
		case "attention_mask":
			f.mask = in
		case "position_ids":
			f.position = in
		}
	}
	if f.ids == nil || f.mask == nil {
		return fmt.Errorf("the graph has no inputs named input_ids and attention_mask")
	}
	return nil
}

// layer is one layer's cone: what enters it, and what leaves it.
type layer struct {
	q, k, v          *ir.Value // [B,S,Hq,D], [B,S,Hkv,D], [B,S,Hkv·D]; q and k may be flat like v
	pastKey, pastVal *ir.Value // [B,Hkv,P,D]
	key, val         *ir.Value // [B,Hkv,P+S,D], graph outputs
	out              *ir.Value // [B,S,Hq·D]
	heads, kvHeads   int64
	dim              int64
	dtype            ir.DType
	cone             map[*ir.Node]bool
}

// layer finds the cone around a softmax.
func (f *fuser) layer(softmax *ir.Node) (*layer, error) {
	out, err := output(softmax)
	if err != nil {
		return nil, err
	}
	l := &layer{out: out, cone: map[*ir.Node]bool{}}
	var anchors []*ir.Value
	f.collect(l, out, map[*ir.Value]bool{}, &anchors)
	for _, v := range f.pasts(l) {
		if err := f.assign(l, v); err != nil {
			return nil, err
		}
	}
	if l.pastKey == nil || l.pastVal == nil {
		return nil, fmt.Errorf("no past keys and values enter the attention")
	}
	if err := f.roles(l, anchors); err != nil {
		return nil, err
	}
	return l, l.sizes(f.graph)
}

// output follows the softmax to the value that the output projection reads.
func output(softmax *ir.Node) (*ir.Value, error) {
	v := softmax.Output(0)
	for range 16 {
		n := v.SoleUse()
		if n == nil {
			return nil, fmt.Errorf("%q has more than one reader between the softmax and the output projection", v.Name)
		}
		if n.Is("", "MatMul") && n.Input(0) == v && n.Input(1).Constant() != nil {
			return v, nil
		}
		v = n.Output(0)
	}
	return nil, fmt.Errorf("no output projection behind the softmax")
}

// anchor reports whether a cone ends at v: a normalised or a projected activation.
func anchor(v *ir.Value) bool {
	n := v.Producer()
	switch {
	case n == nil:
		return false
	case n.Is("", "SimplifiedLayerNormalization"):
		return true
	case n.Is("", "MatMul"):
		return n.Input(1).Constant() != nil
	case n.Is("", "Split"):
		return anchor(n.Input(0))
	}
	return false
}

// collect walks up from v and gathers the nodes of the cone and the anchors in which it ends.
func (f *fuser) collect(l *layer, v *ir.Value, seen map[*ir.Value]bool, anchors *[]*ir.Value) {
	stack := []*ir.Value{v}
	for len(stack) > 0 {
		v := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if v == nil || seen[v] {
			continue
		}
		seen[v] = true
		if anchor(v) {
			*anchors = append(*anchors, v)
			continue
		}
		n := v.Producer()
		if n == nil {
			continue
		}
		l.cone[n] = true
		if n.OpType == "Shape" {
			continue // a size, which the samples give; not a path for data
		}
		for i := len(n.Inputs()) - 1; i >= 0; i-- {
			stack = append(stack, n.Inputs()[i])
		}
	}
}

// pasts are the graph inputs of rank 4 that the cone reads as data.
func (f *fuser) pasts(l *layer) []*ir.Value {
	var found []*ir.Value
	for _, in := range f.graph.Inputs() {
		if in.Type == nil || len(in.Type.Shape) != 4 {
			continue
		}
		for _, u := range in.Uses() {
			if l.cone[u.Node] && u.Node.Is("", "Concat") {
				found = append(found, in)
				break
			}
		}
	}
	return found
}

// assign tells keys from values: the concatenation of past and new keys takes part in the scores, before
// the softmax; that of values does not.
func (f *fuser) assign(l *layer, past *ir.Value) error {
	for _, u := range past.Uses() {
		if !l.cone[u.Node] || !u.Node.Is("", "Concat") {
			continue
		}
		present := u.Node.Output(0)
		slot, other := &l.pastVal, &l.val
		if f.reachesSoftmax(l, present) {
			slot, other = &l.pastKey, &l.key
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

func (f *fuser) reachesSoftmax(l *layer, v *ir.Value) bool {
	seen := map[*ir.Value]bool{}
	stack := []*ir.Value{v}
	for len(stack) > 0 {
		v := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if seen[v] || v == l.out {
			continue
		}
		seen[v] = true
		for _, u := range v.Uses() {
			if !l.cone[u.Node] || u.Node.OpType == "Shape" {
				continue
			}
			if u.Node.Is("", "Softmax") {
				return true
			}
			stack = append(stack, u.Node.Outputs()...)
		}
	}
	return false
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

// leads reports whether data flows from a to target inside the cone.
func (l *layer) leads(a, target *ir.Value) bool {
	seen := map[*ir.Value]bool{}
	stack := []*ir.Value{a}
	for len(stack) > 0 {
		v := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if v == nil || seen[v] {
			continue
		}
		seen[v] = true
		if v == target {
			return true
		}
		for _, u := range v.Uses() {
			if u.Node.OpType != "Shape" && (l.cone[u.Node] || u.Node.Is("", "Identity")) {
				stack = append(stack, u.Node.Outputs()...)
			}
		}
	}
	return false
}

// sizes reads heads and dimensions from the types of the past and of the weights.
func (l *layer) sizes(graph *ir.Graph) error {
	t := l.pastKey.Type
	l.kvHeads, l.dim, l.dtype = t.Shape[1].Size, t.Shape[3].Size, t.DType
	if l.kvHeads <= 0 || l.dim <= 0 || l.dim%2 != 0 {
		return fmt.Errorf("past %q has no fixed number of heads and head size", l.pastKey.Name)
	}
	weight := l.out.SoleUse().Input(1).Constant()
	if len(weight.Shape) != 2 || weight.Shape[0]%l.dim != 0 {
		return fmt.Errorf("the output projection %v does not take heads of size %d", weight.Shape, l.dim)
	}
	l.heads = weight.Shape[0] / l.dim
	if l.heads%l.kvHeads != 0 {
		return fmt.Errorf("%d heads on %d KV heads", l.heads, l.kvHeads)
	}
	return nil
}

// rewrite puts GroupQueryAttention in the place of a proven cone.
func (f *fuser) rewrite(l *layer) error {
	g.Require(f.unit.Model, g.Microsoft)
	if err := f.shared(l); err != nil {
		return err
	}
	base := path.Dir(l.out.SoleUse().Name)
	if d := path.Dir(base); d != "." && d != "/" {
		base = d
	}
	base = path.Join(base, "attn")
	n := f.graph.Add(ir.NodeSpec{
		Op: "GroupQueryAttention", Domain: g.Microsoft, Name: path.Join(base, "GroupQueryAttention"),
		Inputs: []*ir.Value{
			f.flat(l.q, base+"/q", l.heads*l.dim), f.flat(l.k, base+"/k", l.kvHeads*l.dim), l.v,
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

// flat gives a value of four dimensions the three that the operator takes.
func (f *fuser) flat(v *ir.Value, name string, width int64) *ir.Value {
	if n := v.Producer(); n.Is("", "SimplifiedLayerNormalization") {
		shape := f.graph.AddInitializer(f.graph.Fresh(name+"/shape"), ir.Int64Tensor([]int64{0, 0, width}))
		return f.graph.Op("Reshape", name+"/Reshape", []*ir.Value{v, shape})
	}
	return v
}

// shared makes what all layers read: the tables and the lengths.
func (f *fuser) shared(l *layer) error {
	if f.seqlens != nil {
		return nil
	}
	gr := f.graph
	axis := gr.AddInitializer(gr.Fresh("/attention/axis"), ir.Int64Tensor([]int64{1}))
	one := gr.AddInitializer(gr.Fresh("/attention/one"), ir.Int64Tensor([]int64{1}))
	count := gr.Op("ReduceSum", "/attention/tokens/ReduceSum", []*ir.Value{f.mask, axis}, ir.Int("keepdims", 0))
	last := gr.Op("Sub", "/attention/seqlens_k/Sub", []*ir.Value{count, one})
	f.seqlens = gr.Op("Cast", "/attention/seqlens_k/Cast", []*ir.Value{last}, ir.Int("to", int64(ir.Int32)))
	shape := gr.Op("Shape", "/attention/total/Shape", []*ir.Value{f.mask}, ir.Int("start", 1), ir.Int("end", 2))
	total := gr.Op("Cast", "/attention/total/Cast", []*ir.Value{shape}, ir.Int("to", int64(ir.Int32)))
	scalar := gr.AddInitializer(gr.Fresh("/attention/scalar"), ir.Int64Tensor([]int64{}, 0))
	f.totalLen = gr.Op("Reshape", "/attention/total/Reshape", []*ir.Value{total, scalar})
	cos, sin, err := f.tables(l)
	if err != nil {
		return err
	}
	f.cos = gr.AddInitializer(gr.Fresh("model.rotary_emb.cos_cache"), cos)
	f.sin = gr.AddInitializer(gr.Fresh("model.rotary_emb.sin_cache"), sin)
	return nil
}
