// Package qknorm moves the norms of queries and keys into GroupQueryAttention.
//
//	GroupQueryAttention(Reshape(SimplifiedLayerNormalization(Reshape(q), wq)), … wk, v, …)
//	⇒ GroupQueryAttention(q, k, v, …, q_norm_weight = wq, k_norm_weight = wk; qk_norm_epsilon)
//
// CUDA's kernel normalises heads in float32 while it unpacks, rotates and appends to the cache; six nodes a
// layer go. Queries, keys and values that are then the three parts of one product go in as that product:
//
//	GroupQueryAttention(Split(qkv)) ⇒ GroupQueryAttention(qkv)
//
// The operands 14 and 15 are read by the providers for CUDA and WebGPU only (ContribOperators.md); others
// refuse the node, so on the CPU norms stay as they are.
package qknorm

import (
	"fmt"
	"slices"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Pass moves the norms of all layers.
var Pass = &g.Pass{
	Name:    "qk-norm",
	Doc:     "q/k norms move into GroupQueryAttention, which then reads the joined product without a Split",
	Needs:   "GroupQueryAttention with rotary embedding; so it runs behind attention and projections",
	After:   []string{"attention", "projections"},
	Targets: []g.Target{g.CUDA},
	Run:     func(u *g.Unit) (int, error) { return u.Apply(norms, packed) },
}

// Operands of GroupQueryAttention (com.microsoft, version 1).
const (
	query, key, value          = 0, 1, 2
	qNormWeight, kNormWeight   = 14, 15
	attention, normalisation   = "GroupQueryAttention", "SimplifiedLayerNormalization"
	heads, kvHeads, qkNormAttr = "num_heads", "kv_num_heads", "qk_norm_epsilon"
)

// normed is a projection [B,S,H·D] whose heads are normalised.
func normed(x, norm, weight string) *g.Pattern {
	byHead := g.Op("Reshape", g.Any(x), g.Const(x+".heads"))
	return g.Op("Reshape", g.Op(normalisation, byHead, g.Const(weight)).As(norm), g.Const(x+".flat"))
}

var norms = &g.Rule{
	Name: "qk-norm",
	Doc:  "both norms have one epsilon, and weights of the head size",
	Pattern: g.MSOp(attention, normed("q", "q_norm", "q_weight"), normed("k", "k_norm", "k_weight"), g.Any("v"), g.Rest()).
		Attr("do_rotary", 0, 1),
	Check: func(m *g.Match) error {
		if m.Root.Input(qNormWeight) != nil || m.Root.Input(kNormWeight) != nil {
			return fmt.Errorf("it has norms inside already")
		}
		if q, k := epsilon(m.Node("q_norm")), epsilon(m.Node("k_norm")); q != k {
			return fmt.Errorf("the norms have different epsilons, %g and %g", q, k)
		}
		if err := perHead(m, "q", m.Root.Int(heads, 0)); err != nil {
			return err
		}
		return perHead(m, "k", m.Root.Int(kvHeads, 0))
	},
	Rewrite: func(m *g.Match) (*ir.Value, error) {
		n := m.Root
		n.SetAttr(ir.Float(qkNormAttr, epsilon(m.Node("q_norm"))))
		n.SetInput(query, m.Value("q"))
		n.SetInput(key, m.Value("k"))
		n.SetInput(qNormWeight, m.Value("q_weight"))
		n.SetInput(kNormWeight, m.Value("k_weight"))
		return nil, nil
	},
}

func epsilon(n *ir.Node) float32 { return n.Float("epsilon", 1e-5) }

// perHead makes sure that the norm of a projection is one of its heads: a tensor [B,S,H,D] between two of
// [B,S,H·D], and a weight of D.
func perHead(m *g.Match, x string, n int64) error {
	norm, flat := m.Node(x+"_norm"), m.Unit.Type(m.Value(x))
	t, weight := m.Unit.Type(norm.Input(0)), m.Const(x+"_weight")
	if !flat.HasShape() || len(flat.Shape) != 3 || !t.HasShape() || len(t.Shape) != 4 || len(weight.Shape) != 1 {
		return fmt.Errorf("the norm of %s is not one of heads", x)
	}
	if axis := norm.Int("axis", -1); axis != -1 && axis != 3 {
		return fmt.Errorf("the norm of %s runs over axis %d", x, axis)
	}
	size := weight.Shape[0]
	if t.Shape[2].Size != n || t.Shape[3].Size != size || flat.Shape[2].Size != n*size || !slices.Equal(t.Shape[:2], flat.Shape[:2]) {
		return fmt.Errorf("the norm of %s is one of %v, not of %d heads of size %d", x, t.Shape, n, size)
	}
	return nil
}

var packed = &g.Rule{
	Name:    "packed-qkv",
	Doc:     "queries, keys and values are all parts of one tensor, in this order",
	Pattern: g.MSOp(attention, g.Op("Split", g.Any("qkv"), g.Const("sizes")).As("q").Shared(), g.Any("k"), g.Any("v"), g.Rest()),
	Check: func(m *g.Match) error {
		split := m.Node("q")
		if len(split.Outputs()) != 3 || m.Value("k") != split.Output(1) || m.Value("v") != split.Output(2) {
			return fmt.Errorf("keys and values are not the other parts")
		}
		for _, o := range split.Outputs() {
			if o.SoleUse() != m.Root {
				return fmt.Errorf("%q is also read elsewhere", o.Name)
			}
		}
		t := m.Unit.Type(m.Value("qkv"))
		if axis := split.Int("axis", 0); !t.HasShape() || len(t.Shape) != 3 || axis != -1 && axis != 2 {
			return fmt.Errorf("the parts are not those of the last of three axes")
		}
		sizes, err := m.Ints("sizes")
		if err != nil {
			return err
		}
		q, kv := m.Root.Int(heads, 0), m.Root.Int(kvHeads, 0)
		if q <= 0 || sizes[0]%q != 0 || sizes[1] != sizes[0]/q*kv || sizes[2] != sizes[1] {
			return fmt.Errorf("parts of %v for %d heads on %d KV heads", sizes, q, kv)
		}
		return nil
	},
	Rewrite: func(m *g.Match) (*ir.Value, error) {
		m.Root.SetInput(query, m.Value("qkv"))
		m.Root.SetInput(key, nil)
		m.Root.SetInput(value, nil)
		return nil, nil
	},
}
