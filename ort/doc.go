// Package ort runs ONNX models on ONNX Runtime.
//
// It finds and loads the native library, opens sessions on the CPU or on an
// accelerator, keeps tensors in aligned memory outside Go's heap, and runs a
// session on bound tensors: one call into C, no allocation, and a way to stop a
// run that is under way. It is the only package of the module that knows the Go
// binding and the C API below it.
//
//	if err := ort.Init(ort.Environment{}); err != nil {
//		return err // says where it looked, and what to do
//	}
//	session, err := ort.NewSession("model.onnx", ort.SessionConfig{})
//	if err != nil {
//		return err
//	}
//	defer session.Close()
//
//	x, err := ort.NewTensor(ort.Float32, 2, 4)
//	if err != nil {
//		return err
//	}
//	defer x.Close()
//	copy(ort.Data[float32](x), []float32{1, 2, 3, 4, 5, 6, 7, 8})
//	outputs, err := session.Run(ctx, map[string]*ort.Tensor{"x": x}, nil)
//
// [Session.Run] is the easy way. Where the same graph runs again and again, as in
// decoding, a [Binding] and a [RunControl] are the fast one.
//
// A session on an accelerator reads and writes memory of the device, and
// [Session.InputLocation] and [Session.OutputLocation] tell which. Tensors of the
// host may be bound all the same, and each run copies them. Those that
// [Session.NewTensor] makes there stay there; [Copy] brings them over. Tests run this
// on the device of package orttest.
//
// Sessions, bindings, controls and tensors own memory that the garbage collector
// does not see: close them. Sessions may be used by many goroutines at once; each
// type says what it allows.
//
// The package never downloads anything, never prints, and knows nothing of
// language models.
package ort
