package ir

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// weights makes n bfloat16 matrices [out, in] over one buffer: enough to time, cheap to make.
func weights(b *testing.B, n int, out, in int64) []*Tensor {
	data := make([]byte, 2*out*in)
	for i := range data {
		data[i] = byte(i * 7)
	}
	ts := make([]*Tensor, n)
	for i := range ts {
		t, err := NewTensor(BFloat16, []int64{out, in}, NewBuffer(data))
		require.NoError(b, err)
		ts[i] = t
	}
	return ts
}

// prepare casts to fp32 and transposes, as the builder does with every weight of a checkpoint.
func prepare(b *testing.B, t *Tensor) *Tensor {
	t, err := Cast(t, Float32)
	require.NoError(b, err)
	t, err = Transpose(t)
	require.NoError(b, err)
	return t
}

// BenchmarkTransform is the work of one core on one weight, without writing.
func BenchmarkTransform(b *testing.B) {
	for _, shape := range [][2]int64{{3072, 1024}, {1024, 3072}, {32768, 1024}} {
		b.Run(fmt.Sprint(shape), func(b *testing.B) {
			t := prepare(b, weights(b, 1, shape[0], shape[1])[0])
			step := max(granule(t.Data), chunkBytes/granule(t.Data)*granule(t.Data))
			p := make([]byte, step)
			b.SetBytes(t.ByteLen())
			for b.Loop() {
				for off := int64(0); off < t.ByteLen(); off += step {
					require.NoError(b, readFull(t.Data, p[:min(step, t.ByteLen()-off)], off))
				}
			}
		})
	}
}

// BenchmarkSave streams 64 weights, 805 MB of fp32, from memory to a temporary folder (TMPDIR).
func BenchmarkSave(b *testing.B) {
	m := NewModel("bench", 10, 18)
	x := m.Graph.AddInput("x", TensorType(Float32, Sym("n")))
	m.Graph.AddOutput(m.Graph.Op("Identity", "id", []*Value{x}))
	for i, t := range weights(b, 64, 1024, 3072) {
		t = prepare(b, t)
		m.Graph.AddInitializer(fmt.Sprint("w", i), t)
		b.SetBytes(int64(i+1) * t.ByteLen())
	}
	path := filepath.Join(b.TempDir(), "model.onnx")
	for b.Loop() {
		require.NoError(b, Save(context.Background(), m, path, SaveOptions{}))
	}
}
