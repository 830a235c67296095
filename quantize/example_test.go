package quantize_test

import (
	"fmt"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/quantize"
)

func Example() {
	m := newTiny(ir.Float32).tied() // ir.Load in earnest
	plan, err := quantize.NewPlan(m, quantize.Options{Precision: quantize.Int4, Symmetric: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, d := range plan.Decisions() {
		fmt.Printf("%s [%d, %d]: %s, %v, for %d nodes\n", d.Tensor, d.Rows, d.Columns, d.Method, d.Format, len(d.Nodes))
	}
	if err := plan.Apply(m); err != nil { // ir.Save then computes and writes the weights
		fmt.Println(err)
		return
	}
	fmt.Printf("%.2f bits a weight\n", plan.Report().BitsPerWeight())
	// Output:
	// model.embed_tokens.weight [24, 64]: rtn, int4 block 32 symmetric, for 2 nodes
	// model.up.weight [48, 64]: rtn, int4 block 32 symmetric, for 1 nodes
	// model.down.weight [64, 48]: rtn, int4 block 32 symmetric, for 1 nodes
	// 5.88 bits a weight
}
