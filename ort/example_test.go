package ort_test

import (
	"context"
	"fmt"
	"log"

	"github.com/qwenrt/qwenrt/ort"
)

// The easy way: tensors in, tensors out.
func ExampleSession_Run() {
	session, err := ort.NewSession("testdata/add.onnx", ort.SessionConfig{})
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()
	x, err := ort.NewTensor(ort.Float32, 1, 4)
	if err != nil {
		log.Fatal(err)
	}
	defer x.Close()
	copy(ort.Data[float32](x), []float32{1, 2, 3, 4})

	outputs, err := session.Run(context.Background(), map[string]*ort.Tensor{"x": x, "y": x}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer outputs["z"].Close()
	fmt.Println(session.Outputs()[0], ort.Data[float32](outputs["z"]))
	// Output: z float32[rows,4] [2 4 6 8]
}

// The fast way, for an input that grows by an element a step: everything is bound
// once, and a step neither copies nor allocates.
func ExampleBinding() {
	must := func(err error) {
		if err != nil {
			log.Fatal(err)
		}
	}
	session, err := ort.NewSession("testdata/sum.onnx", ort.SessionConfig{})
	must(err)
	defer session.Close()
	control, err := ort.NewRunControl()
	must(err)
	defer control.Close()
	binding, err := session.NewBinding()
	must(err)
	defer binding.Close()

	mask, err := ort.NewTensor(ort.Int64, 1, 8) // room for eight tokens
	must(err)
	defer mask.Close()
	total, err := ort.NewTensor(ort.Int64)
	must(err)
	defer total.Close()
	must(binding.BindOutput("total", total))
	slot, err := binding.Input("mask")
	must(err)

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	defer control.Watch(ctx)()
	for n := int64(1); n <= 3; n++ {
		must(mask.Reshape(1, n))
		ort.Data[int64](mask)[n-1] = 1
		must(slot.Set(mask))
		must(binding.Run(control))
		fmt.Println(ort.Data[int64](total)[0])
	}
	// Output:
	// 1
	// 2
	// 3
}
