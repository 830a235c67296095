package ir

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// plain is what a view stands for, computed in the open.
type plain struct {
	shape []int64
	v     []float32
}

func (p plain) transpose() plain {
	r, c := p.shape[0], p.shape[1]
	q := plain{[]int64{c, r}, make([]float32, len(p.v))}
	for i, x := range p.v {
		q.v[int64(i)%c*r+int64(i)/c] = x
	}
	return q
}

func join(axis int, ps ...plain) plain {
	q := plain{slices.Clone(ps[0].shape), []float32{}}
	outer := int64(1)
	for _, d := range q.shape[:axis] {
		outer *= d
	}
	q.shape[axis] = 0
	for _, p := range ps {
		q.shape[axis] += p.shape[axis]
	}
	for row := range outer {
		for _, p := range ps {
			n := int64(len(p.v)) / outer
			q.v = append(q.v, p.v[row*n:(row+1)*n]...)
		}
	}
	return q
}

// sample makes a tensor of small integers, which every type holds exactly.
func sample(t *testing.T, rng *rand.Rand, d DType, shape ...int64) (*Tensor, plain) {
	n, err := NumElements(shape)
	require.NoError(t, err)
	p := plain{shape, make([]float32, n)}
	for i := range p.v {
		p.v[i] = float32(rng.IntN(513) - 256)
	}
	b := make([]byte, n*int64(d.Bits()/8)+1)
	b = b[rng.IntN(2):][:len(b)-1] // at times unaligned, as inside a protobuf
	encodeFloats(b, p.v, d)
	tensor, err := NewTensor(d, shape, NewBuffer(b))
	require.NoError(t, err)
	return tensor, p
}

// TestViews composes views at random and compares them with the plain computation, whole and in
// pieces that begin and end anywhere.
func TestViews(t *testing.T) {
	types := []DType{Float32, Float64, Float16, BFloat16}
	for seed := range uint64(400) {
		rng := rand.New(rand.NewPCG(seed, 0))
		did := fmt.Sprint("seed ", seed)
		r, c := rng.Int64N(80), rng.Int64N(80)
		got, want := sample(t, rng, types[rng.IntN(4)], r, c)
		for range 1 + rng.IntN(6) {
			var err error
			switch op := rng.IntN(5); {
			case op == 0:
				d := types[rng.IntN(4)]
				did += fmt.Sprint(" cast ", d)
				got, err = Cast(got, d)
			case op <= 2 && len(want.shape) == 2:
				did += " transpose"
				got, err = Transpose(got)
				want = want.transpose()
			case op == 3 && len(want.v) < 1<<15:
				axis := rng.IntN(len(want.shape))
				did += fmt.Sprint(" concat ", axis)
				other, p := got, want // with itself, or with something of another make
				if rng.IntN(2) == 0 {
					shape := slices.Clone(want.shape)
					shape[axis] = rng.Int64N(5)
					other, p = sample(t, rng, types[rng.IntN(4)], shape...)
					other, err = Cast(other, got.DType)
					require.NoError(t, err)
					if len(shape) == 2 && rng.IntN(2) == 0 {
						other = transposedTwice(t, other)
					}
				}
				got, err = Concat(axis, got, other)
				want = join(axis, want, p)
			default:
				n := int64(len(want.v))
				shape := []int64{n}
				for d := int64(7); d > 1; d-- {
					if n > 0 && n%d == 0 {
						shape = []int64{d, n / d}
						break
					}
				}
				did += fmt.Sprint(" reshape ", shape)
				got, err = Reshape(got, shape...)
				want.shape = shape
			}
			require.NoError(t, err, did)
		}
		require.Equal(t, want.shape, got.Shape, did)
		values, err := got.Float32s()
		require.NoError(t, err, did)
		require.Equal(t, want.v, values, did)
		whole, err := got.Bytes()
		require.NoError(t, err, did)
		size := int64(got.DType.Bits() / 8)
		for range 20 {
			from := rng.Int64N(int64(len(want.v)) + 1)
			n := rng.Int64N(int64(len(want.v)) - from + 1)
			p := make([]byte, n*size)
			require.NoError(t, readFull(got.Data, p, from*size), did)
			require.Equal(t, whole[from*size:(from+n)*size], p, did)
		}
	}
}

// transposedTwice hides t under a view that has to be computed.
func transposedTwice(t *testing.T, x *Tensor) *Tensor {
	y, err := Transpose(x)
	require.NoError(t, err)
	b, err := y.Bytes()
	require.NoError(t, err)
	y = &Tensor{DType: y.DType, Shape: y.Shape, Data: NewBuffer(b)}
	y, err = Transpose(y)
	require.NoError(t, err)
	return y
}

// The sizes of elements that no weight has still go through the same code.
func TestTransposeElementSizes(t *testing.T) {
	for _, d := range []DType{Int8, Int16, Int32, Int64, Complex128} {
		const r, c = 37, 45
		size := int64(d.Bits() / 8)
		b := make([]byte, r*c*size)
		for i := range b {
			b[i] = byte(i * 31 >> 3)
		}
		x, err := NewTensor(d, []int64{r, c}, NewBuffer(b))
		require.NoError(t, err)
		y, err := Transpose(x)
		require.NoError(t, err)
		got, err := y.Bytes()
		require.NoError(t, err)
		for i := range int64(r) {
			for j := range int64(c) {
				require.Equal(t, b[(i*c+j)*size:][:size], got[(j*r+i)*size:][:size], "%v at %d, %d", d, i, j)
			}
		}
	}
}

func TestViewsThatCancel(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	x, _ := sample(t, rng, BFloat16, 4, 6)
	cast := func(x *Tensor, d DType) *Tensor {
		y, err := Cast(x, d)
		require.NoError(t, err)
		return y
	}
	transpose := func(x *Tensor) *Tensor {
		y, err := Transpose(x)
		require.NoError(t, err)
		return y
	}
	wide := cast(x, Float32)
	require.Same(t, x.Data, cast(wide, BFloat16).Data)
	require.Same(t, x.Data, transpose(transpose(x)).Data)
	require.Same(t, x.Data, cast(transpose(cast(transpose(x), Float32)), BFloat16).Data, "through both")
	exact := Float32Tensor([]float32{1.0000001})
	narrow := cast(exact, BFloat16)
	values, err := narrow.Float32s()
	require.NoError(t, err)
	require.Equal(t, []float32{1}, values, "narrowing rounds")
	require.Same(t, exact.Data, cast(narrow, Float32).Data, "but nothing is lost")

	joined, err := Concat(1, cast(transpose(x), Float32), cast(transpose(x), Float32))
	require.NoError(t, err)
	stored := transpose(joined)
	require.IsType(t, &concatData{}, cast(stored, BFloat16).Data, "rows as they are stored, side by side")
}

func TestViewErrors(t *testing.T) {
	matrix := Float32Tensor(make([]float32, 6), 2, 3)
	strings := &Tensor{DType: String, Shape: []int64{1, 1}, Strings: [][]byte{nil}}
	for _, c := range []struct {
		why string
		err func() (*Tensor, error)
		has string
	}{
		{"integers are not weights", func() (*Tensor, error) { return Cast(Int64Scalar(1), Float32) }, "cannot cast"},
		{"strings have no bytes", func() (*Tensor, error) { return Transpose(strings) }, "cannot transpose"},
		{"a vector has no transposition", func() (*Tensor, error) { return Transpose(Float32Scalar(1)) }, "cannot transpose"},
		{"nothing", func() (*Tensor, error) { return Concat(0) }, "nothing to join"},
		{"no such axis", func() (*Tensor, error) { return Concat(2, matrix) }, "no axis 2"},
		{"types differ", func() (*Tensor, error) { return Concat(0, matrix, Int64Tensor(make([]int64, 6), 2, 3)) }, "cannot join"},
		{"widths differ", func() (*Tensor, error) { return Concat(0, matrix, Float32Tensor(make([]float32, 2), 1, 2)) }, "cannot join"},
		{"ranks differ", func() (*Tensor, error) { return Concat(0, matrix, Float32Tensor(make([]float32, 2))) }, "cannot join"},
		{"elements are lost", func() (*Tensor, error) { return Reshape(matrix, 5) }, "do not fill [5]"},
		{"negative", func() (*Tensor, error) { return Reshape(matrix, -2, -3) }, "negative dimension"},
		{"too many bytes", func() (*Tensor, error) { return NewTensor(Float64, []int64{1 << 61}, NewBuffer(nil)) }, "too many"},
		{"no data", func() (*Tensor, error) { return NewTensor(Float64, []int64{1}, nil) }, "no data"},
	} {
		got, err := c.err()
		require.ErrorContains(t, err, c.has, c.why)
		require.Regexp(t, "^ir: ", err, c.why)
		require.Nil(t, got, c.why)
	}
}

func TestReadErrors(t *testing.T) {
	x, err := Cast(Float32Tensor([]float32{1, 2, 3}), Float16)
	require.NoError(t, err)
	p := make([]byte, 4)
	for _, off := range []int64{-2, 1, 4, 1 << 62} {
		_, err := x.Data.ReadAt(p, off)
		require.ErrorContains(t, err, "read of 4 bytes", "at %d", off)
	}
	require.Error(t, x.ReadFloat32(make([]float32, 2), 2))
	require.Error(t, x.ReadFloat32(make([]float32, 1), -1))
	lying := &Tensor{DType: Float32, Shape: []int64{1 << 20}, Data: NewBuffer(make([]byte, 4))}
	require.Error(t, lying.ReadFloat32(make([]float32, 2), 0), "the data, not the shape, says what there is")
	_, err = (&Tensor{DType: Int64, Shape: []int64{3}, Data: NewBuffer(make([]byte, 4))}).Int64s()
	require.Error(t, err)

	// Data that ends before its length would otherwise leave old bytes of a buffer in the file.
	_, err = (&Tensor{DType: Float32, Shape: []int64{4}, Data: cutOff{16}}).Bytes()
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

// cutOff claims more bytes than it gives.
type cutOff struct{ n int64 }

func (c cutOff) Len() int64 { return c.n }
func (c cutOff) ReadAt(p []byte, off int64) (int, error) {
	return NewBuffer(make([]byte, c.n/2)).ReadAt(p, min(off, c.n/2))
}
