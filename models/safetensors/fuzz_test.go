package safetensors_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/models/safetensors"
)

// FuzzOpenBytes holds what the package promises of any file that it opens: tensors lie in the file one
// behind the other, cover its data and agree with their shapes.
func FuzzOpenBytes(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		ckpt, err := safetensors.OpenBytes("fuzz", data)
		if err != nil {
			return
		}
		total := 0
		for _, name := range ckpt.Names() {
			tensor, ok := ckpt.Tensor(name)
			require.True(t, ok)
			elements := int64(1)
			for _, dim := range tensor.Shape {
				elements *= dim
			}
			require.Equal(t, tensor.Size()*8, elements*int64(tensor.DType.Bits()))
			require.Len(t, tensor.Bytes(), int(tensor.Size()))
			total += len(tensor.Bytes())
		}
		header := int(data[0]) | int(data[1])<<8 | int(data[2])<<16 | int(data[3])<<24
		require.Equal(t, len(data), 8+header+total)
	})
}
