package inspect

import (
	"regexp"
	"slices"
	"strconv"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

var (
	// layerInName finds the layer in the names that exporters give to nodes and weights:
	// /model/layers.3/mlp/Mul, model.layers.3.mlp.up_proj.weight, layers_3_norm.
	layerInName = regexp.MustCompile(`layers?[._/](\d{1,6})(?:\D|$)`)
	// layerInCache finds it in those of the KV cache.
	layerInCache = regexp.MustCompile(`^(?:past_key_values|present)\.(\d{1,6})\.`)
)

func layerOf(name string, patterns ...*regexp.Regexp) int {
	for _, p := range patterns {
		if m := p.FindStringSubmatch(name); m != nil {
			n, _ := strconv.Atoi(m[1]) // of digits, few enough
			return n
		}
	}
	return -1
}

// Layers is the number of layers that Layer finds.
func Layers(m *ir.Model) int {
	last := -1
	for _, at := range assign(m.Graph) {
		last = max(last, at)
	}
	return last + 1
}

// Layer gives the nodes of layer i, from 0, in graph order. They are told by their names; in a graph
// whose nodes have none of that kind, by the names of weights and of the KV cache, and what reads
// results of a layer belongs to it unless such a name says otherwise. Nil if there is no such layer.
func Layer(m *ir.Model, i int) []*ir.Node {
	layers := assign(m.Graph)
	var nodes []*ir.Node
	for _, n := range m.Graph.Nodes() {
		if at, ok := layers[n]; ok && at == i {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// assign gives each node's layer; nodes outside of all layers are not in the map.
func assign(g *ir.Graph) map[*ir.Node]int {
	layers := map[*ir.Node]int{}
	all := g.Nodes()
	for _, n := range all {
		if at := layerOf(n.Name, layerInName); at >= 0 {
			layers[n] = at
		}
	}
	if len(layers) > 0 {
		return layers
	}
	for _, n := range all {
		// Sizes are no results: masks and positions of all layers may come from one layer's cache.
		if n.Is("", "Shape") {
			continue
		}
		if at := inherited(n, layers); at >= 0 {
			layers[n] = at
		}
	}
	return layers
}

// inherited is the layer that a node's weights or cache name, or the last of those it reads from.
func inherited(n *ir.Node, layers map[*ir.Node]int) int {
	named, from := -1, -1
	for _, v := range slices.Concat(n.Inputs(), n.Outputs()) {
		if v == nil {
			continue
		}
		if v.Producer() == nil || v.IsOutput() {
			named = max(named, layerOf(v.Name, layerInName, layerInCache))
		}
		if at, ok := layers[v.Producer()]; ok && v.Producer() != n {
			from = max(from, at)
		}
	}
	if named >= 0 {
		return named
	}
	return from
}
