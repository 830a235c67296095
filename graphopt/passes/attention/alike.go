package attention

import (
	"bytes"
	"reflect"
	"slices"

	"github.com/qwenrt/qwenrt/graphopt/internal/interp"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// alike reports whether b is the same function of its anchors as a: the same operators with the same
// attributes, constants and inputs of the model, joined in the same way.
func (f *fuser) alike(a, b *layer) bool {
	if a.heads != b.heads || a.kvHeads != b.kvHeads || a.dim != b.dim || a.dtype != b.dtype {
		return false
	}
	p := pairing{fuser: f, partner: map[*ir.Value]*ir.Value{}, taken: map[*ir.Value]bool{}}
	for _, pair := range [][2]*ir.Value{{a.q, b.q}, {a.k, b.k}, {a.v, b.v}, {a.pastKey, b.pastKey}, {a.pastVal, b.pastVal}} {
		if f.form(pair[0], a.dim) != f.form(pair[1], a.dim) {
			return false
		}
		p.partner[pair[0]], p.taken[pair[1]] = pair[1], true
	}
	return p.same(a.out, b.out) && p.same(a.key, b.key) && p.same(a.val, b.val)
}

// sameValue reports whether two values are the same function of the model's inputs.
func (f *fuser) sameValue(a, b *ir.Value) bool {
	p := pairing{fuser: f, partner: map[*ir.Value]*ir.Value{}, taken: map[*ir.Value]bool{}}
	return p.same(a, b)
}

// pairing walks two graphs side by side. A value has one partner throughout.
type pairing struct {
	*fuser
	partner map[*ir.Value]*ir.Value
	taken   map[*ir.Value]bool // values that are partners
}

func (p *pairing) same(a, b *ir.Value) bool {
	type pair struct{ a, b *ir.Value }
	stack := []pair{{a, b}}
	for len(stack) > 0 {
		at := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if at.a == nil || at.b == nil {
			if at.a != at.b {
				return false
			}
			continue
		}
		if partner, ok := p.partner[at.a]; ok || p.taken[at.b] {
			if partner != at.b {
				return false
			}
			continue
		}
		if ca, cb := at.a.Constant(), at.b.Constant(); ca != nil || cb != nil {
			if !sameConstant(ca, cb) {
				return false
			}
			continue // constants of the same content may stand for each other
		}
		p.partner[at.a], p.taken[at.b] = at.b, true
		m, n := at.a.Producer(), at.b.Producer()
		if m == nil || n == nil {
			if at.a != at.b {
				return false
			}
			continue
		}
		if m.OpType != n.OpType || m.Domain != n.Domain || m.HasGraph() || n.HasGraph() || len(m.Inputs()) != len(n.Inputs()) ||
			slices.Index(m.Outputs(), at.a) != slices.Index(n.Outputs(), at.b) || !reflect.DeepEqual(m.Attrs, n.Attrs) {
			return false
		}
		if m.Is("", "Shape") {
			if !p.sameShape(m.Input(0), n.Input(0)) {
				return false
			}
			continue
		}
		for i := range m.Inputs() {
			stack = append(stack, pair{m.Input(i), n.Input(i)})
		}
	}
	return true
}

// sameShape reports whether two values have the same shape in all trials, which is all that a proof
// knows of them.
func (p *pairing) sameShape(a, b *ir.Value) bool {
	if a == b {
		return true
	}
	if p.shapes == nil {
		for _, t := range p.trials() {
			p.shapes = append(p.shapes, interp.New(p.given(t)))
		}
	}
	for _, e := range p.shapes {
		s, err := e.Shape(a)
		if err != nil {
			return false
		}
		t, err := e.Shape(b)
		if err != nil || !slices.Equal(s.Shape, t.Shape) {
			return false
		}
	}
	return true
}

// comparedBytes bounds the constants that are compared by content.
const comparedBytes = 1 << 16

func sameConstant(a, b *ir.Tensor) bool {
	if a == b {
		return true
	}
	if a == nil || b == nil || a.DType != b.DType || !slices.Equal(a.Shape, b.Shape) || a.Data == nil || b.Data == nil {
		return false
	}
	if a.Data == b.Data {
		return true
	}
	if a.ByteLen() > comparedBytes {
		return false
	}
	x, err := a.Bytes()
	if err != nil {
		return false
	}
	y, err := b.Bytes()
	return err == nil && bytes.Equal(x, y)
}
