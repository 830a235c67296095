// Package calib runs a model on calibration text and finds from it how its weights are quantised best.
//
// It goes through the graph from product to product: the part between two of them is a small model of its
// own, which ONNX Runtime runs over all samples, and what one part gives to later ones lies in a temporary
// file. Memory is that of one product and its statistics, whatever the size of the model, and every part
// runs once:
//
//	plan, err := quantize.NewPlan(m, quantize.Options{Method: quantize.GPTQ})
//	if err != nil { ... }
//	samples, err := calib.Samples(documents, calib.SampleOptions{})
//	if err != nil { ... }
//	found, err := calib.Run(ctx, m, plan, samples, calib.Options{})
//	if err != nil { ... }
//	defer found.Close()
//	if err := plan.Apply(m); err != nil { ... }
//	// ir.Save writes the model
//
// Samples are token ids: the package knows no tokenizer. It never changes the file that the model was
// read from, never prints, and leaves nothing behind.
package calib
