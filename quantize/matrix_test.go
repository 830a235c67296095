package quantize_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/quantize"
)

func bytesTensor(b []byte, shape ...int64) *ir.Tensor {
	return &ir.Tensor{DType: ir.Uint8, Shape: shape, Data: ir.NewBuffer(b)}
}

// Forms that other tools write: flat scales, float zero points.
func TestMatrixOfForeignNodes(t *testing.T) {
	packed := make([]byte, 8) // one row of 16: 0, 1, ... 15
	for i := range packed {
		packed[i] = byte(2*i | (2*i+1)<<4)
	}
	for _, c := range []struct {
		why   string
		zeros *ir.Tensor
		first float32
	}{
		{"no zero points", nil, -8 * 0.5},
		{"packed zero points, the upper half unused", bytesTensor([]byte{0x83}, 1), -3 * 0.5},
		{"float zero points", ir.Float32Tensor([]float32{2.5}, 1, 1), -2.5 * 0.5},
	} {
		g := ir.NewModel("m", 10, 21).Graph
		in := []*ir.Value{
			g.AddInput("x", ir.TensorType(ir.Float32)),
			g.AddInitializer("b", bytesTensor(packed, 1, 1, 8)),
			g.AddInitializer("s", ir.Float32Tensor([]float32{0.5})),
		}
		if c.zeros != nil {
			in = append(in, g.AddInitializer("z", c.zeros))
		}
		n := g.Add(ir.NodeSpec{Op: "MatMulNBits", Domain: "com.microsoft", Inputs: in, Attrs: []*ir.Attr{
			ir.Int("K", 16), ir.Int("N", 1), ir.Int("bits", 4), ir.Int("block_size", 16),
		}})
		v := row(t, matrixOf(t, n), 0)
		for i := range v {
			require.Equal(t, c.first+0.5*float32(i), v[i], c.why)
		}
	}
}

func TestMatrixOfRefuses(t *testing.T) {
	for _, c := range []struct {
		why, op string
		attrs   []*ir.Attr
		scales  *ir.Tensor
		text    string
	}{
		{"another operator", "MatMul", nil, nil, "holds no block-quantised weight"},
		{"sizes that overflow", "MatMulNBits", []*ir.Attr{ir.Int("K", 1<<62), ir.Int("N", 1<<62), ir.Int("block_size", 16)}, nil, "has a weight of"},
		{"negative sizes", "MatMulNBits", []*ir.Attr{ir.Int("K", -1), ir.Int("N", 1), ir.Int("block_size", 16)}, nil, "has a weight of 1 by -1"},
		{"a block of no size", "MatMulNBits", []*ir.Attr{ir.Int("K", 16), ir.Int("N", 1)}, nil, "block size 0"},
		{"more columns than there are bytes", "MatMulNBits", []*ir.Attr{ir.Int("K", 32), ir.Int("N", 1), ir.Int("block_size", 16)}, nil, "weight of shape [1 1 8], want [1 16]"},
		{"scales for fewer blocks", "MatMulNBits", []*ir.Attr{ir.Int("K", 16), ir.Int("N", 1), ir.Int("block_size", 16)}, ir.Float32Tensor(nil, 0), "scales of shape [0], want [1 1]"},
		{"integer scales", "MatMulNBits", []*ir.Attr{ir.Int("K", 16), ir.Int("N", 1), ir.Int("block_size", 16)}, bytesTensor([]byte{1}, 1), "a type that is not read"},
	} {
		g := ir.NewModel("m", 10, 21).Graph
		scales := c.scales
		if scales == nil {
			scales = ir.Float32Tensor([]float32{1}, 1, 1)
		}
		n := g.Add(ir.NodeSpec{Op: c.op, Domain: "com.microsoft", Attrs: c.attrs, Inputs: []*ir.Value{
			g.AddInput("x", ir.TensorType(ir.Float32)), g.AddInitializer("b", bytesTensor(make([]byte, 8), 1, 1, 8)), g.AddInitializer("s", scales),
		}})
		_, err := quantize.MatrixOf(n)
		require.ErrorContains(t, err, c.text, c.why)
	}
}
