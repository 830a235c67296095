package ir

import (
	"cmp"
	"slices"
)

// largeConstant is the number of elements from which a constant counts for LargestFirst.
const largeConstant = 1 << 16

// LargestFirst gives a serialised model with the nodes of its graph in the order of the constants that they read, the
// largest first; nodes without large ones follow as they were. A runtime that prepares constants on several threads, those
// of a node on one, then does not end with all threads waiting for the one that has the largest.
//
// ONNX wants a node behind those that it reads from, so this is no form for files: it is for runtimes that sort nodes
// themselves.
//
// Errors: ErrMalformed.
func LargestFirst(model []byte) ([]byte, error) {
	sorted := make(message, 0, len(model))
	err := fields(model, "model", func(f field) error {
		if f.num != modelGraph {
			sorted = append(sorted, f.raw...)
			return nil
		}
		graph, err := nodesLargestFirst(f.b)
		sorted.bytes(modelGraph, graph)
		return err
	})
	if err != nil {
		return nil, err
	}
	return sorted, nil
}

// nodesLargestFirst does it for a GraphProto. What is not a node comes behind them.
func nodesLargestFirst(graph []byte) ([]byte, error) {
	type node struct {
		field
		constants float64 // elements
	}
	var nodes []node
	var rest []byte
	elements := map[string]float64{}
	err := fields(graph, "graph", func(f field) error {
		if f.num == graphNode {
			nodes = append(nodes, node{field: f})
			return nil
		}
		rest = append(rest, f.raw...)
		if f.num != graphInitializer {
			return nil
		}
		name, n, err := size(f.b)
		if n >= largeConstant {
			elements[name] = n
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	for i := range nodes {
		err := fields(nodes[i].b, "node", func(f field) error {
			if f.num == nodeInput {
				nodes[i].constants += elements[string(f.b)]
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(nodes, func(a, b node) int { return cmp.Compare(b.constants, a.constants) })
	sorted := make([]byte, 0, len(graph))
	for _, n := range nodes {
		sorted = append(sorted, n.raw...)
	}
	return append(sorted, rest...), nil
}

// size gives the name and the number of elements of a TensorProto. Shapes of hostile files may multiply to anything.
func size(tensor []byte) (name string, elements float64, err error) {
	var p tensorProto
	err = fields(tensor, "tensor", func(f field) error {
		if f.num != tensorName && f.num != tensorDims {
			return nil
		}
		return (&decoder{}).tensorField(&p, f)
	})
	elements = 1
	for _, n := range p.Shape {
		elements *= float64(n)
	}
	return p.name, elements, err
}
