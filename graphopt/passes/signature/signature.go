// Package signature gives a decoder's inputs and outputs the names that runtimes and the other passes
// know, and its KV cache the sizes that its file leaves open.
//
//	ids, mask, past_0_0, past_0_1 → linear_56, cat_19, cat_20
//	⇒ input_ids, attention_mask, past_key_values.0.key, past_key_values.0.value
//	  → logits, present.0.key, present.0.value
//
// Exporters that are not told names make them up. Which input is which is read off the graph: tokens choose
// rows of the embedding; of the other integers those with as many columns as there are tokens are
// positions, those with more a mask; a past is what new keys, or values, are appended to, and it is
// keys if a softmax follows before the next product but one. Where that leaves a doubt all names stay.
//
// onnxruntime-genai leaves the head size of the cache open ("kv_cache_dim"); attention tells it.
package signature

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/interp"
	"github.com/qwenrt/qwenrt/graphopt/internal/sample"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Pass names inputs and outputs.
var Pass = &g.Pass{
	Name:  "signature",
	Doc:   "inputs and outputs get the field's names (input_ids, past_key_values.0.key, logits), KV caches their head size",
	Needs: "a decoder with a KV cache",
	After: []string{"constants", "cleanup"},
	Run:   run,
}

const passName = "signature"

func run(u *g.Unit) (int, error) {
	s := &signature{unit: u, graph: u.Model.Graph}
	done := s.caches()
	if len(s.found) == 0 {
		return done, nil
	}
	roles, err := s.roles()
	if err != nil {
		u.Decline(passName, "", err)
		return done, nil
	}
	named := 0
	for _, r := range roles {
		if r.value.Name != r.name {
			named++
		}
	}
	if named == 0 {
		return done, nil
	}
	if err := s.rename(roles); err != nil {
		u.Decline(passName, "", err)
		return done, nil
	}
	u.Applied(passName, "")
	return done + named, nil
}

type signature struct {
	unit  *g.Unit
	graph *ir.Graph
	found []cache             // in graph order
	runs  []*interp.Evaluator // of two lengths; nil when sizes have changed since
}

// cache is the keys or the values of one layer.
type cache struct {
	past, present *ir.Value // [B,H,P,D], [B,H,T,D]
	keys          bool
	node          *ir.Node // that joins past and new ones
}

// caches finds all pasts with their presents, and fills in sizes that are open. It gives the number of those.
func (s *signature) caches() int {
	for _, v := range s.graph.Inputs() {
		if v.Const != nil || v.Type == nil || len(v.Type.Shape) != 4 || !v.Type.DType.Float() {
			continue
		}
		if c, ok := find(v); ok {
			s.found = append(s.found, c)
		}
	}
	place := map[*ir.Node]int{}
	for i, n := range s.graph.Nodes() {
		place[n] = i
	}
	slices.SortStableFunc(s.found, func(a, b cache) int { return cmp.Compare(place[a.node], place[b.node]) })
	sized := 0
	for _, c := range s.found { // those of a layer are known once those of the layers before it are
		if open(c.past) || open(c.present) {
			sized += s.resize(c)
		}
	}
	return sized
}

// open reports whether heads or head size of v are.
func open(v *ir.Value) bool {
	return v.Type != nil && len(v.Type.Shape) == 4 && (v.Type.Shape[1].Size < 0 || v.Type.Shape[3].Size < 0)
}

// resize fixes the sizes of a cache that are known, and gives how many values have changed.
func (s *signature) resize(c cache) int {
	heads, size := s.sizes(c)
	changed := 0
	for _, v := range []*ir.Value{c.past, c.present} {
		if !open(v) {
			continue
		}
		t := *v.Type
		t.Shape = slices.Clone(t.Shape)
		for _, d := range []struct {
			axis int
			size int64
		}{{1, heads}, {3, size}} {
			if d.size > 0 && t.Shape[d.axis].Size < 0 {
				t.Shape[d.axis] = ir.Fixed(d.size)
			}
		}
		if !slices.Equal(t.Shape, v.Type.Shape) {
			v.Type, s.runs = &t, nil
			changed++
		}
	}
	return changed
}

// operators that take a past, with the places of keys and values among operands and results.
var operators = []struct {
	domain, op               string
	keys, values, key, value int
}{
	{g.Microsoft, "GroupQueryAttention", 3, 4, 1, 2},
	{g.Microsoft, "MultiHeadAttention", 6, 7, 1, 2},
	{"", "Attention", 4, 5, 1, 2},
}

func find(past *ir.Value) (cache, bool) {
	for _, u := range past.Uses() {
		c := cache{past: past, node: u.Node}
		for _, o := range operators {
			switch {
			case !u.Node.Is(o.domain, o.op):
			case u.Index == o.keys:
				c.present, c.keys = u.Node.Output(o.key), true
			case u.Index == o.values:
				c.present = u.Node.Output(o.value)
			}
		}
		joined := u.Node.Output(0)
		if axis := u.Node.Int("axis", 0); u.Node.Is("", "Concat") && (axis == 2 || axis == -2) && u.Index == 0 && joined != nil {
			var ok bool
			if c.keys, ok = scored(joined); !ok {
				continue
			}
			c.present = output(joined)
		}
		if c.present != nil && c.present.IsOutput() {
			return c, true
		}
	}
	return cache{}, false
}

// output is v, or the output of the graph that is v under another name.
func output(v *ir.Value) *ir.Value {
	if !v.IsOutput() {
		for _, u := range v.Uses() {
			if same := u.Node.Output(0); u.Node.Is("", "Identity") && same != nil && same.IsOutput() {
				return same
			}
		}
	}
	return v
}

// maxReach bounds the nodes that are looked at behind a past.
const maxReach = 256

// scored reports whether v is keys, of which scores are computed, or values: a softmax follows the product
// with keys, another product that with values.
func scored(v *ir.Value) (keys, ok bool) {
	type place struct {
		value    *ir.Value
		products int
	}
	queue, seen := []place{{v, 0}}, map[*ir.Value]bool{v: true}
	for len(queue) > 0 && len(seen) < maxReach {
		at := queue[0]
		queue = queue[1:]
		for _, u := range at.value.Uses() {
			products := at.products
			switch n := u.Node; {
			case n.Is("", "Softmax"):
				return true, true
			case n.Is("", "Attention"), n.Is(g.Microsoft, "MultiHeadAttention"):
				return u.Index == 1, u.Index == 1 || u.Index == 2
			case n.Is("", "MatMul"), n.Is("", "Gemm"), n.Is(g.Microsoft, "MatMulNBits"):
				if products++; products == 2 {
					return false, true
				}
			case n.Is("", "Shape"):
				continue
			}
			for _, o := range u.Node.Outputs() {
				if o != nil && !seen[o] {
					seen[o] = true
					queue = append(queue, place{o, products})
				}
			}
		}
	}
	return false, false
}

// sizes gives heads and head size of a cache, 0 where they are not known.
func (s *signature) sizes(c cache) (heads, size int64) {
	if s.runs == nil {
		in := sample.Find(s.graph)
		// Without a past, which all graphs can be run on: some take several tokens behind a past for an error.
		for _, l := range []sample.Lengths{{Batch: 2, Sequence: 3}, {Batch: 3, Sequence: 5}} {
			s.runs = append(s.runs, interp.New(in.Given(in.Fit(l))))
		}
	}
	fixed := func(v *ir.Value, rank, axis int) int64 {
		var sizes [2]int64
		for i, e := range s.runs {
			t, err := e.Shape(v)
			if err != nil || len(t.Shape) != rank {
				return 0
			}
			sizes[i] = t.Shape[axis]
		}
		if sizes[0] != sizes[1] {
			return 0
		}
		return sizes[0]
	}
	n := c.node
	switch {
	case n.Is("", "Concat"):
		return fixed(n.Input(1), 4, 1), fixed(n.Input(1), 4, 3)
	case n.Is("", "Attention"):
		return fixed(n.Input(1), 4, 1), fixed(n.Input(1), 4, 3)
	}
	all := n.Int("num_heads", 0)
	heads = n.Int("kv_num_heads", all)
	if n.Input(1) == nil { // queries, keys and values are one operand
		all += 2 * heads
	}
	if all > 0 {
		size = fixed(n.Input(0), 3, 2) / all
	}
	return heads, size
}

// role is an input or an output with the name that it should have.
type role struct {
	value *ir.Value
	name  string
}

func (s *signature) roles() ([]role, error) {
	roles, err := s.integers()
	if err != nil {
		return nil, err
	}
	var layers [2]int
	presents := map[*ir.Value]bool{}
	for _, c := range s.found {
		part, i := "value", 1
		if c.keys {
			part, i = "key", 0
		}
		roles = append(roles,
			role{c.past, fmt.Sprintf("past_key_values.%d.%s", layers[i], part)}, role{c.present, fmt.Sprintf("present.%d.%s", layers[i], part)})
		layers[i]++
		presents[c.present] = true
	}
	if layers[0] != layers[1] {
		return nil, fmt.Errorf("the graph has caches of %d keys and %d values", layers[0], layers[1])
	}
	var others []*ir.Value
	for _, o := range s.graph.Outputs() {
		if !presents[o] {
			others = append(others, o)
		}
	}
	if len(others) == 1 {
		roles = append(roles, role{others[0], "logits"})
	}
	return roles, nil
}

// integers tells tokens, mask and positions apart.
func (s *signature) integers() ([]role, error) {
	var ids []*ir.Value
	var rest []*ir.Value
	for _, v := range s.graph.Inputs() {
		if v.Const != nil || v.Type == nil || len(v.Type.Shape) != 2 || v.Type.DType.Float() {
			continue
		}
		if chooses(v) {
			ids = append(ids, v)
		} else {
			rest = append(rest, v)
		}
	}
	if len(ids) != 1 {
		return nil, fmt.Errorf("%d inputs choose rows of an embedding", len(ids))
	}
	roles := []role{{ids[0], "input_ids"}}
	for _, v := range rest {
		name := kind(v, ids[0])
		if name == "" {
			return nil, fmt.Errorf("%q may be a mask or positions", v.Name)
		}
		if slices.ContainsFunc(roles, func(r role) bool { return r.name == name }) {
			return nil, fmt.Errorf("more than one input could be %s", name)
		}
		roles = append(roles, role{v, name})
	}
	return roles, nil
}

// kind is the name for an input beside the tokens: by what it is called, or by its columns.
func kind(v, ids *ir.Value) string {
	const mask, positions = "attention_mask", "position_ids"
	switch columns, tokens := v.Type.Shape[1], ids.Type.Shape[1]; {
	case v.Name == mask || v.Name == positions:
		return v.Name
	case strings.Contains(v.Name, "mask"):
		return mask
	case strings.Contains(v.Name, "pos"):
		return positions
	case columns == ir.Sym("") || tokens == ir.Sym(""):
		return ""
	case columns == tokens:
		return positions
	}
	return mask
}

// chooses reports whether v chooses rows of a constant table, perhaps as another integer type.
func chooses(v *ir.Value) bool {
	for _, u := range v.Uses() {
		switch n := u.Node; {
		case n.Is("", "Gather"), n.Is(g.Microsoft, "GatherBlockQuantized"):
			if u.Index == 1 && table(n.Input(0)) {
				return true
			}
		case n.Is("", "Cast"), n.Is("", "Identity"):
			if n.Output(0) != nil && chooses(n.Output(0)) {
				return true
			}
		}
	}
	return false
}

// table reports whether v is a matrix of weights, transposed, cast or dequantised on its way or not.
func table(v *ir.Value) bool {
	for range 8 {
		if v == nil {
			return false
		}
		if c := v.Constant(); c != nil {
			return len(c.Shape) >= 2 // three where blocks are apart
		}
		n := v.Producer()
		if !n.Is("", "Transpose") && !n.Is("", "Cast") && !n.Is("", "Identity") && !n.Is("", "DequantizeLinear") && !n.Is("", "Reshape") {
			return false
		}
		v = n.Input(0)
	}
	return false
}

// rename gives names; what else has one of them gets another.
func (s *signature) rename(roles []role) error {
	names, mine := map[string]bool{}, map[*ir.Value]bool{}
	for _, r := range roles {
		if names[r.name] || mine[r.value] {
			return fmt.Errorf("%q would have two names, or share one", r.value.Name)
		}
		names[r.name], mine[r.value] = true, true
	}
	holders := map[string]*ir.Value{}
	hold := func(v *ir.Value) {
		if v != nil && names[v.Name] {
			holders[v.Name] = v
		}
	}
	for _, v := range slices.Concat(s.graph.Inputs(), s.graph.Initializers()) {
		hold(v)
	}
	s.graph.Walk(func(n *ir.Node) {
		for _, o := range n.Outputs() {
			hold(o)
		}
		if body := n.Graph(); body != s.graph {
			for _, v := range slices.Concat(body.Inputs(), body.Initializers()) {
				hold(v)
			}
		}
	})
	for _, r := range roles { // before anything is changed
		v := holders[r.name]
		if v == nil || mine[v] {
			continue
		}
		if v.IsInput() || v.IsOutput() || v.Graph() != s.graph {
			return fmt.Errorf("%q is the name of something else that cannot change it", r.name)
		}
	}
	for _, r := range roles {
		if v := holders[r.name]; v != nil && !mine[v] {
			v.Name = s.graph.Fresh(r.name + "/inner")
		}
	}
	for _, r := range roles {
		r.value.Name = r.name
	}
	return nil
}
