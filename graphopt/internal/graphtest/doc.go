// Package graphtest makes small models for tests of graph passes, runs them on ONNX Runtime and compares
// what comes out.
//
//	m := graphtest.Decoder{Layers: 2}.Model(t)
//	before := graphtest.Generate(t, m, 1, 5, 1, 3)
//	... // optimise m
//	graphtest.Near(t, before, graphtest.Generate(t, m, 1, 5, 1, 3), 1e-5)
//
// Only tests import this package.
package graphtest
