// Package machine tells what models have to run on: CPU and its instruction sets, memory, GPUs; and what the kernels of ONNX
// Runtime reach on it, measured in about a second.
//
//	m := machine.Look(ctx)
//	fmt.Println(m.CPU, m.Threads, m.Memory.Free())
//	rate, err := machine.MeasureProducts(ctx, shape, machine.Int4, 32, m.Threads)
//	fmt.Printf("%.0f tokens/s at most\n", rate.Decode/weights)
//
// Figures are of the moment: another program on the same machine takes its share. The package changes nothing and never prints.
package machine
