package ir

// Validate checks what every pass must leave behind: names that are unique and mean what the graph
// means, operands that exist, no cycle, data of the size that type and shape ask for. It sorts the
// nodes.
func (m *Model) Validate() error {
	if m.Graph == nil {
		return errorf("the model has no graph")
	}
	return m.Graph.validate(map[string]*Value{})
}

// validate checks g, given what names mean outside. A name in a body may hide one outside, as ONNX
// Runtime allows, but then the body cannot read that one.
func (g *Graph) validate(visible map[string]*Value) error {
	if err := g.Sort(); err != nil {
		return err
	}
	hidden := map[string]*Value{}
	defer func() {
		for name, v := range hidden {
			if visible[name] = v; v == nil {
				delete(visible, name)
			}
		}
	}()
	define := func(v *Value) error {
		if v.Name == "" {
			return errorf("a value of graph %q has no name", g.Name)
		}
		if _, own := hidden[v.Name]; own {
			return errorf("two values are named %q", v.Name)
		}
		hidden[v.Name], visible[v.Name] = visible[v.Name], v
		return nil
	}
	if err := g.define(define); err != nil {
		return err
	}
	names := map[string]bool{}
	for _, n := range g.live() {
		if n.Name != "" && names[n.Name] { // ONNX Runtime refuses it, too
			return errorf("two nodes are named %q", n.Name)
		}
		names[n.Name] = true
		if err := n.validate(visible); err != nil {
			return err
		}
	}
	for _, o := range g.outputs {
		switch {
		case visible[o.Name] != o || o.graph != g:
			return errorf("nothing in graph %q produces its output %q", g.Name, o.Name)
		case o.outs > 1:
			return errorf("output %q is listed twice: put an Identity between", o.Name)
		}
	}
	return nil
}

// define calls f for every value of g: inputs, initializers and the results of nodes.
func (g *Graph) define(f func(*Value) error) error {
	for _, v := range g.inputs {
		if err := f(v); err != nil {
			return err
		}
	}
	for _, v := range g.initializers {
		if err := v.Const.check(); err != nil {
			return errorf("initializer %q: %w", v.Name, err)
		}
		if v.isInput {
			continue
		}
		if err := f(v); err != nil {
			return err
		}
	}
	for _, n := range g.live() {
		for _, o := range n.outputs {
			if o == nil {
				continue
			}
			if err := f(o); err != nil {
				return err
			}
		}
	}
	return nil
}

func (n *Node) validate(visible map[string]*Value) error {
	for _, v := range n.inputs {
		if v != nil && visible[v.Name] != v {
			return errorf("%v reads %q, which nothing produces", n, v.Name)
		}
	}
	for _, a := range n.Attrs {
		for _, t := range a.tensors() {
			if err := t.check(); err != nil {
				return errorf("%v: attribute %q: %w", n, a.Name, err)
			}
		}
		for _, b := range a.graphs() {
			if err := b.validate(visible); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *Tensor) check() error {
	if t == nil {
		return errorf("no content")
	}
	if t.DType != String {
		_, err := NewTensor(t.DType, t.Shape, t.Data)
		return err
	}
	n, err := NumElements(t.Shape)
	if err == nil && n != int64(len(t.Strings)) {
		err = errorf("%d strings for shape %v", len(t.Strings), t.Shape)
	}
	return err
}
