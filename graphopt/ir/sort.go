package ir

// Sort puts every node behind those that it reads from, and otherwise keeps the order. Nodes that
// were added at the end come to stand before their first reader.
func (g *Graph) Sort() error {
	const (
		unseen = iota
		open
		done
	)
	nodes := g.live()
	state := make(map[*Node]uint8, len(nodes))
	sorted := make([]*Node, 0, len(nodes))
	type frame struct {
		node *Node
		deps []*Node
	}
	for _, root := range nodes {
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
				return errorf("%w through %v", ErrCycle, dep)
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
	n.walk(func(m *Node) {
		for _, v := range m.inputs {
			if v != nil && v.graph == g && v.producer != nil && !v.producer.removed {
				deps = append(deps, v.producer)
			}
		}
	})
	return deps
}
