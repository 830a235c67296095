// Package graphopt rewrites ONNX graphs into faster ones that compute the same function.
//
// A [Pass] is a documented value. Most passes are a list of [Rule]s: a [Pattern] that describes
// a subgraph in Go, a check that may decline with a reason, and a rewrite. [Run] drives passes over a
// model: each rule is tried at the nodes whose operator its pattern ends in, until nothing
// changes; after each pass what became dead is removed and the graph is validated. The order is
// fixed, so equal models give equal bytes.
//
//	report, err := graphopt.Run(ctx, model, passes.All(), graphopt.Options{
//		Target:       graphopt.CPU,
//		MaxPositions: 40960,
//	})
//
// What a rule cannot read off the shape of a graph, such as whether some thirty nodes of mask
// arithmetic make a causal mask, it finds out by evaluating that part on small inputs and comparing
// with what it should be; see internal/interp.
//
// The package never runs ONNX Runtime (it has no cgo), never reads weights that a rewrite does not
// need to look at, and never prints: events go to [Options.Trace].
package graphopt
