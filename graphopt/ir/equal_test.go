package ir

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// countingData counts the bytes that are read of data that no view can be taken off.
type countingData struct {
	*Buffer
	read int64
}

func (c *countingData) ReadAt(p []byte, off int64) (int, error) {
	c.read += int64(len(p))
	return c.Buffer.ReadAt(p, off)
}

func TestEqual(t *testing.T) {
	ramp := func(d DType, last byte, shape ...int64) *Tensor {
		n, err := ByteSize(d, shape)
		require.NoError(t, err)
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i * 5 % 61)
		}
		b[n-1] += last
		x, err := NewTensor(d, shape, NewBuffer(b))
		require.NoError(t, err)
		return x
	}
	cast := func(x *Tensor, d DType) *Tensor {
		x, err := Cast(x, d)
		require.NoError(t, err)
		return x
	}
	turn := func(x *Tensor) *Tensor {
		x, err := Transpose(x)
		require.NoError(t, err)
		return x
	}
	stored := func(x *Tensor) *Tensor {
		b, err := x.Bytes()
		require.NoError(t, err)
		return &Tensor{DType: x.DType, Shape: x.Shape, Data: NewBuffer(b)}
	}
	half := ramp(Float16, 0, 70, 90)
	for _, c := range []struct {
		why  string
		a, b *Tensor
		want bool
	}{
		{"itself", half, half, true},
		{"a copy", half, ramp(Float16, 0, 70, 90), true},
		{"the last element differs", half, ramp(Float16, 1, 70, 90), false},
		{"another type", half, ramp(BFloat16, 0, 70, 90), false},
		{"another shape", half, ramp(Float16, 0, 90, 70), false},
		{"widened in both", cast(half, Float32), cast(ramp(Float16, 0, 70, 90), Float32), true},
		{"widened in both, different", cast(half, Float32), cast(ramp(Float16, 1, 70, 90), Float32), false},
		{"widened in one", cast(half, Float32), stored(cast(half, Float32)), true},
		{"widened from two types", cast(half, Float32), cast(ramp(BFloat16, 0, 70, 90), Float32), false},
		{"transposed in both", turn(half), turn(ramp(Float16, 0, 70, 90)), true},
		{"transposed in both, different", turn(half), turn(ramp(Float16, 1, 70, 90)), false},
		{"transposed in one", turn(half), stored(turn(half)), true},
		{"widened and transposed in one", turn(cast(half, Float32)), stored(turn(cast(half, Float32))), true},
		// What was different may be the same when digits are dropped: those below must not decide.
		{"narrowed in both", cast(ramp(Float32, 0, 8, 8), BFloat16), cast(flip(ramp(Float32, 0, 8, 8)), BFloat16), true},
		{"nothing", ramp0(Float32), ramp0(Float32), true},
	} {
		t.Run(c.why, func(t *testing.T) {
			for _, pair := range [][2]*Tensor{{c.a, c.b}, {c.b, c.a}} {
				same, err := Equal(context.Background(), pair[0], pair[1])
				require.NoError(t, err)
				require.Equal(t, c.want, same)
			}
		})
	}
}

// flip changes the lowest bit of the first element.
func flip(x *Tensor) *Tensor {
	x.Data.(*Buffer).b[0] ^= 1
	return x
}

func ramp0(d DType) *Tensor { return &Tensor{DType: d, Shape: []int64{0, 4}, Data: NewBuffer(nil)} }

// Tables of gigabytes that differ are not read through.
func TestEqualStopsEarly(t *testing.T) {
	const size = 64 << 20
	a := &countingData{Buffer: NewBuffer(make([]byte, size))}
	b := make([]byte, size)
	b[17] = 1
	x := &Tensor{DType: Uint8, Shape: []int64{size}, Data: a}
	y := &Tensor{DType: Uint8, Shape: []int64{size}, Data: NewBuffer(b)}
	same, err := Equal(context.Background(), x, y)
	require.NoError(t, err)
	require.False(t, same)
	require.Less(t, a.read, int64(size/2))
}

func TestEqualFails(t *testing.T) {
	a := &Tensor{DType: Uint8, Shape: []int64{8}, Data: NewBuffer(make([]byte, 8))}
	_, err := Equal(context.Background(), a, &Tensor{DType: Uint8, Shape: []int64{8}, Data: &shortData{}})
	require.ErrorContains(t, err, "data ends")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = Equal(ctx, a, &Tensor{DType: Uint8, Shape: []int64{8}, Data: NewBuffer(make([]byte, 8))})
	require.ErrorIs(t, err, context.Canceled)
}

// shortData has less than it says.
type shortData struct{}

func (*shortData) Len() int64                            { return 8 }
func (*shortData) ReadAt(p []byte, _ int64) (int, error) { return len(p) - 1, nil }

// BenchmarkEqual compares what costs most: embedding and head, of Qwen3-0.6B in fp32, where they are equal; here
// because both are nothing but zeros in sparse files.
func BenchmarkEqual(b *testing.B) {
	const vocab, hidden = 151936, 1024
	file := func(name string, shape ...int64) *Tensor {
		path := filepath.Join(b.TempDir(), name)
		require.NoError(b, os.WriteFile(path, nil, 0o600))
		require.NoError(b, os.Truncate(path, 4*vocab*hidden))
		m, err := mapRegular(path, os.Stat, os.Open)
		require.NoError(b, err)
		b.Cleanup(func() { require.NoError(b, m.close()) })
		return &Tensor{DType: Float32, Shape: shape, Data: NewBuffer(m.b)}
	}
	table := file("embedding", vocab, hidden)
	head, err := Transpose(file("head", hidden, vocab))
	require.NoError(b, err)
	for _, c := range []struct {
		why   string
		other *Tensor
	}{{"stored alike", file("copy", vocab, hidden)}, {"stored transposed", head}} {
		b.Run(c.why, func(b *testing.B) {
			b.SetBytes(table.ByteLen())
			for b.Loop() {
				same, err := Equal(context.Background(), table, c.other)
				require.NoError(b, err)
				require.True(b, same)
			}
		})
	}
}
