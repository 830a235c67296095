package ir

import (
	"errors"
	"fmt"
)

// ErrCycle is reported for a graph whose nodes depend on each other in a circle.
var ErrCycle = errors.New("ir: the graph has a cycle")

// Sort puts every node behind those that it reads from, and otherwise keeps the order. Nodes that
// were added at the end come to stand before their first reader.
func (g *Graph) Sort() error {
	const (
		unseen = iota
		open
		done
	)
	state := make(map[*Node]uint8, len(g.nodes))
	sorted := make([]*Node, 0, len(g.nodes))
	type frame struct {
		node *Node
		deps []*Node
	}
	for _, root := range g.nodes {
		if state[root] != unseen {
			continue
		}
		// An explicit stack: a hostile graph may be one long chain.
		state[root] = open
		stack := []frame{{root, g.dependencies(root)}}
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			if len(top.deps) == 0 {
				state[top.node] = done
				sorted = append(sorted, top.node)
				stack = stack[:len(stack)-1]
				continue
			}
			dep := top.deps[0]
			top.deps = top.deps[1:]
			switch state[dep] {
			case open:
				return fmt.Errorf("%w through %v", ErrCycle, dep)
			case unseen:
				state[dep] = open
				stack = append(stack, frame{dep, g.dependencies(dep)})
			}
		}
	}
	g.nodes = sorted
	return nil
}

// dependencies are the nodes of g whose results n reads, itself or in a body.
func (g *Graph) dependencies(n *Node) []*Node {
	var deps []*Node
	add := func(v *Value) {
		if v != nil && v.graph == g && v.producer != nil {
			deps = append(deps, v.producer)
		}
	}
	for _, v := range n.inputs {
		add(v)
	}
	for _, a := range n.Attrs {
		for _, b := range a.graphs() {
			b.Walk(func(inner *Node) {
				for _, v := range inner.inputs {
					add(v)
				}
			})
			for _, o := range b.outputs {
				add(o)
			}
		}
	}
	return deps
}

// Validate checks what every pass must leave behind: unique names, operands that exist, no cycle,
// data of the size that type and shape ask for. It sorts the nodes.
func (m *Model) Validate() error {
	if m.Graph == nil {
		return errors.New("ir: the model has no graph")
	}
	seen := map[string]bool{}
	return m.Graph.validate(seen)
}

// validate checks g with the names that are visible from outside in seen, and takes its own out
// again: bodies that stand side by side may use the same ones.
func (g *Graph) validate(seen map[string]bool) error {
	if err := g.Sort(); err != nil {
		return err
	}
	var own []string
	defer func() {
		for _, name := range own {
			delete(seen, name)
		}
	}()
	define := func(v *Value, what string) error {
		if v.Name == "" {
			return fmt.Errorf("ir: a value of graph %q has no name (%s)", g.Name, what)
		}
		if seen[v.Name] {
			return fmt.Errorf("ir: two values are named %q", v.Name)
		}
		seen[v.Name] = true
		own = append(own, v.Name)
		return nil
	}
	for _, v := range g.inputs {
		if err := define(v, "input"); err != nil {
			return err
		}
	}
	for _, v := range g.initializers {
		if !v.isInput {
			if err := define(v, "initializer"); err != nil {
				return err
			}
		}
		if err := v.Const.check(); err != nil {
			return fmt.Errorf("%w (initializer %q)", err, v.Name)
		}
	}
	for _, n := range g.nodes {
		for _, o := range n.outputs {
			if o == nil {
				continue
			}
			if err := define(o, "result of "+n.String()); err != nil {
				return err
			}
		}
	}
	for _, n := range g.nodes {
		for _, v := range n.inputs {
			if v == nil {
				continue
			}
			if v.producer == nil && !v.isInput && v.Const == nil || v.producer != nil && v.producer.removed {
				return fmt.Errorf("ir: %v reads %q, which nothing produces", n, v.Name)
			}
		}
		for _, a := range n.Attrs {
			for _, b := range a.graphs() {
				if err := b.validate(seen); err != nil {
					return err
				}
			}
		}
	}
	for _, o := range g.outputs {
		if o.producer == nil && !o.isInput && o.Const == nil || o.producer != nil && o.producer.removed {
			return fmt.Errorf("ir: nothing produces output %q", o.Name)
		}
	}
	return nil
}

func (t *Tensor) check() error {
	if t == nil {
		return errors.New("ir: no content")
	}
	if t.DType == String {
		n, err := NumElements(t.Shape)
		if err == nil && n != int64(len(t.Strings)) {
			err = fmt.Errorf("ir: %d strings for shape %v", len(t.Strings), t.Shape)
		}
		return err
	}
	_, err := NewTensor(t.DType, t.Shape, t.Data)
	return err
}
