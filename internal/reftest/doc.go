// Package reftest compares models with reference results in tests: it reads the files that
// scripts/reference makes with transformers, runs a model on ONNX Runtime as a whole, in chunks and
// token by token, and measures how far its logits are off.
//
//	model := reftest.Open(t, "out/model.onnx")
//	model.Check(t, reftest.Load(t, "testdata/reference.safetensors"))
//
// Models are run in the plainest way that shows an error; how to run them fast is the runner's
// matter. Only tests import this package.
package reftest
