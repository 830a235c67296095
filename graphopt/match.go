package graphopt

import (
	"fmt"
	"slices"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Match is one place where a pattern fits.
type Match struct {
	Unit  *Unit
	Graph *ir.Graph
	Root  *ir.Node   // the node whose result the pattern describes
	Nodes []*ir.Node // all nodes inside, the root first; each once

	bound  []binding
	shared []*ir.Node // those of Nodes that may have readers outside
}

type binding struct {
	name  string
	value *ir.Value
}

// Value is what a name of the pattern stands for; nil if the choice that matched has no such name.
func (m *Match) Value(name string) *ir.Value {
	for _, b := range m.bound {
		if b.name == name {
			return b.value
		}
	}
	return nil
}

// Node is the node that produces the value of a name; nil if none does.
func (m *Match) Node(name string) *ir.Node {
	if v := m.Value(name); v != nil {
		return v.Producer()
	}
	return nil
}

// Const is the constant that a name stands for; nil if it is none.
func (m *Match) Const(name string) *ir.Tensor { return m.Value(name).Constant() }

// Ints are the integers of the constant that a name stands for.
func (m *Match) Ints(name string) ([]int64, error) {
	t := m.Const(name)
	if t == nil {
		return nil, fmt.Errorf("%s is not a constant", name)
	}
	return t.Int64s()
}

// miss is how far an attempt to match came.
type miss struct {
	depth  int
	node   *ir.Node
	reason string
}

// matcher tries one pattern at one node. It goes back where a choice or an order of operands leads
// nowhere, by way of continuations.
type matcher struct {
	m    Match
	best miss
}

func (t *matcher) fail(at *ir.Value, format string, args ...any) bool {
	if len(t.m.Nodes) > t.best.depth || t.best.reason == "" {
		var n *ir.Node
		if at != nil {
			n = at.Producer()
		}
		if n == nil && len(t.m.Nodes) > 0 {
			n = t.m.Nodes[len(t.m.Nodes)-1]
		}
		t.best = miss{len(t.m.Nodes), n, fmt.Sprintf(format, args...)}
	}
	return false
}

// match reports whether p fits v and then the rest, then, succeeds.
func (t *matcher) match(p *Pattern, v *ir.Value, then func() bool) bool {
	switch p.kind {
	case optional:
		if v == nil {
			return then()
		}
		return t.match(p.operands[0], v, then)
	case orValue:
		for _, choice := range p.operands {
			if t.match(choice, v, then) {
				return true
			}
		}
		return false
	}
	if v == nil {
		return t.fail(v, "an operand is left out")
	}
	switch p.kind {
	case anyValue:
		return t.bind(p.name, v, then)
	case constValue:
		c := v.Constant()
		if c == nil {
			return t.fail(v, "%q is not a constant", v.Name)
		}
		if p.constant != nil {
			if err := p.constant(c); err != nil {
				return t.fail(v, "%q: %v", v.Name, err)
			}
		}
		return t.bind(p.name, v, then)
	}
	n := v.Producer()
	if n == nil {
		return t.fail(v, "%q is no result of %s", v.Name, p.op)
	}
	if !n.Is(p.domain, p.op) {
		return t.fail(v, "%v stands where %s should", n, p.op)
	}
	if n.Output(0) != v {
		return t.fail(v, "%q is not the first result of %v", v.Name, n)
	}
	if p.test != nil {
		if err := p.test(n); err != nil {
			return t.fail(v, "%v: %v", n, err)
		}
	}
	if n.Graph() != t.m.Graph {
		return t.fail(v, "%v is in another graph", n)
	}
	t.m.Nodes = append(t.m.Nodes, n)
	depth, shared := len(t.m.Nodes), len(t.m.shared)
	if p.shared {
		t.m.shared = append(t.m.shared, n)
	}
	ok := t.bind(p.name, v, func() bool {
		if t.operands(p, n.Inputs(), then) {
			return true
		}
		if commutative(p) && len(n.Inputs()) == 2 {
			return t.operands(p, []*ir.Value{n.Input(1), n.Input(0)}, then)
		}
		return false
	})
	if !ok {
		t.m.Nodes, t.m.shared = t.m.Nodes[:depth-1], t.m.shared[:shared]
	}
	return ok
}

func (t *matcher) operands(p *Pattern, in []*ir.Value, then func() bool) bool {
	var step func(i int) bool
	step = func(i int) bool {
		if i < len(p.operands) && p.operands[i].kind == rest {
			return then()
		}
		if i == len(p.operands) {
			for _, extra := range in[min(i, len(in)):] {
				if extra != nil {
					return t.fail(extra, "%s has an operand too many, %q", p.op, extra.Name)
				}
			}
			return then()
		}
		var v *ir.Value
		if i < len(in) {
			v = in[i]
		}
		return t.match(p.operands[i], v, func() bool { return step(i + 1) })
	}
	return step(0)
}

func (t *matcher) bind(name string, v *ir.Value, then func() bool) bool {
	if name == "" {
		return then()
	}
	if old := t.m.Value(name); old != nil {
		if old != v {
			return t.fail(v, "%s is both %q and %q", name, old.Name, v.Name)
		}
		return then()
	}
	t.m.bound = append(t.m.bound, binding{name, v})
	if then() {
		return true
	}
	t.m.bound = t.m.bound[:len(t.m.bound)-1]
	return false
}

// try matches p with n as its root.
func try(u *Unit, p *Pattern, n *ir.Node) (*Match, miss) {
	t := &matcher{m: Match{Unit: u, Graph: n.Graph(), Root: n}}
	if n.Output(0) == nil || !t.match(p, n.Output(0), func() bool { return true }) {
		return nil, t.best
	}
	seen := map[*ir.Node]bool{}
	t.m.Nodes = slices.DeleteFunc(t.m.Nodes, func(n *ir.Node) bool {
		again := seen[n]
		seen[n] = true
		return again
	})
	return &t.m, miss{}
}

// leak finds a value inside the match that something outside reads.
func (m *Match) leak() *ir.Value {
	inside := make(map[*ir.Node]bool, len(m.Nodes))
	for _, n := range m.Nodes {
		inside[n] = true
	}
	for _, n := range m.Nodes {
		if n == m.Root || slices.Contains(m.shared, n) {
			continue
		}
		for _, o := range n.Outputs() {
			if o == nil {
				continue
			}
			if o.IsOutput() {
				return o
			}
			for _, u := range o.Uses() {
				if !inside[u.Node] {
					return o
				}
			}
		}
	}
	return nil
}
