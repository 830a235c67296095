package ort_test

import (
	"math"
	"strconv"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/ort"
)

func TestEveryTypeGoesThrough(t *testing.T) {
	s := open(t, "dtypes", ort.SessionConfig{})
	inputs := map[string]*ort.Tensor{}
	for i, v := range s.Inputs() {
		x, err := ort.NewTensor(v.DType, 3)
		require.NoError(t, err)
		t.Cleanup(x.Close)
		require.Len(t, x.Bytes(), 3*v.DType.Bits()/8)
		for j := range x.Bytes() {
			x.Bytes()[j] = byte(i + j)
			if v.DType == ort.Bool {
				x.Bytes()[j] = byte(j & 1)
			}
		}
		require.Equal(t, "x_"+v.DType.String(), v.Name)
		inputs[v.Name] = x
	}
	for name, y := range run(t, s, inputs) {
		x := inputs["x"+name[1:]]
		require.Equal(t, x.DType(), y.DType(), name)
		require.Equal(t, x.Bytes(), y.Bytes(), name)
		require.Equal(t, ort.Location{}, y.Location())
	}
}

func TestData(t *testing.T) {
	type half uint16
	x := tensor(t, ort.Float16, []half{0x3c00, 0x4000}, 2)
	require.Equal(t, []uint16{0x3c00, 0x4000}, ort.Data[uint16](x), "a named type and a plain one see the same")
	ort.Data[uint16](x)[1] = 7
	require.Equal(t, half(7), ort.Data[half](x)[1], "no copy")
	require.Nil(t, ort.Data[float32](x))
	require.Nil(t, ort.Data[int16](x))

	require.Equal(t, []bool{true, false}, ort.Data[bool](tensor(t, ort.Bool, []uint8{1, 0}, 2)))
	require.Equal(t, []float32{5}, ort.Data[float32](floats(t, []float32{5})), "a scalar")
	require.Equal(t, []uint8{0x21, 0x03}, ort.Data[uint8](tensor(t, ort.Uint4, []uint8{0x21, 0x03}, 3)), "two in a byte")
}

func TestTensorMemory(t *testing.T) {
	needLibrary(t)
	for _, n := range []int64{0, 1, 1000, 1 << 20, 3<<20 + 1} { // small blocks, and pages
		t.Run(strconv.FormatInt(n, 10), func(t *testing.T) {
			x, err := ort.NewTensor(ort.Uint8, n)
			require.NoError(t, err)
			defer x.Close()
			require.Len(t, x.Bytes(), int(n))
			require.Zero(t, uintptr(unsafe.Pointer(unsafe.SliceData(x.Bytes())))%64)
			for _, b := range x.Bytes() {
				if b != 0 {
					t.Fatal("new memory is not zero")
				}
			}
			for i := range x.Bytes() {
				x.Bytes()[i] = 0xff
			}
		})
	}
}

func TestTensorErrors(t *testing.T) {
	needLibrary(t)
	for name, test := range map[string]struct {
		dtype ort.DType
		shape []int64
		says  string
	}{
		"strings are no elements":     {ort.String, []int64{1}, "string"},
		"no type":                     {ort.Undefined, []int64{1}, "undefined"},
		"unknown type":                {ort.DType(99), []int64{1}, "dtype(99)"},
		"negative dimension":          {ort.Float32, []int64{2, -1}, "[2 -1]"},
		"bytes overflow":              {ort.Float32, []int64{math.MaxInt64 / 4}, "too large"},
		"elements overflow":           {ort.Uint8, []int64{1 << 32, 1 << 32}, "too large"},
		"bits overflow, elements fit": {ort.Float64, []int64{1 << 31, 1 << 31}, "too large"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ort.NewTensor(test.dtype, test.shape...)
			requireError(t, err, ort.ErrInvalidArgument, test.says)
		})
	}
	_, err := ort.NewTensor(ort.Uint8, 1<<55)
	requireError(t, err, ort.ErrRuntime, "no memory")
}

func TestView(t *testing.T) {
	x := floats(t, []float32{0, 1, 2, 3, 4, 5}, 6)
	v, err := x.View(8, 2, 2)
	require.NoError(t, err)
	require.Equal(t, []float32{2, 3, 4, 5}, ort.Data[float32](v))
	w, err := v.View(4, 1)
	require.NoError(t, err, "a view of a view")
	defer w.Close()
	ort.Data[float32](x)[3] = 30

	x.Close()
	require.Equal(t, []float32{2, 30, 4, 5}, ort.Data[float32](v), "the memory outlives its first tensor")
	require.Equal(t, []float32{30}, ort.Data[float32](w))
	for name, test := range map[string]struct {
		offset int
		shape  []int64
		says   string
	}{
		"past the end":       {4, []int64{4}, "16 bytes at byte 4"},
		"before the start":   {-4, []int64{1}, "at byte -4"},
		"far past the end":   {math.MaxInt, []int64{1}, "of a tensor of 16 bytes"},
		"between elements":   {2, []int64{1}, "not a multiple"},
		"a negative extent":  {0, []int64{-1}, "negative"},
		"more than all here": {0, []int64{5}, "20 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := v.View(test.offset, test.shape...)
			requireError(t, err, ort.ErrInvalidArgument, test.says)
		})
	}
	v.Close()
	_, err = v.View(0, 1)
	requireError(t, err, ort.ErrClosed, "tensor")
}

func TestReshape(t *testing.T) {
	x := floats(t, []float32{1, 2, 3, 4, 5, 6}, 2, 3)
	require.NoError(t, x.Reshape(4))
	require.Equal(t, []float32{1, 2, 3, 4}, ort.Data[float32](x))
	require.NoError(t, x.Reshape(3, 2))
	require.Equal(t, []int64{3, 2}, x.Shape())
	require.Equal(t, 24, x.Capacity())
	requireError(t, x.Reshape(7), ort.ErrInvalidArgument, "needs 28 bytes, the tensor's memory has 24")
	require.Equal(t, []int64{3, 2}, x.Shape(), "an error changes nothing")
	x.Close()
	x.Close()
	requireError(t, x.Reshape(1), ort.ErrClosed, "tensor")
	require.Nil(t, x.Bytes())
}

// On the CPU all is in one memory, which is the zero Location.
func TestLocationsOnCPU(t *testing.T) {
	s := open(t, "bias", ort.SessionConfig{})
	for _, name := range []string{"x", "bias"} {
		at, err := s.InputLocation(name)
		require.NoError(t, err)
		require.Equal(t, ort.Location{}, at, name)
	}
	at, err := s.OutputLocation("y")
	require.NoError(t, err)
	require.Equal(t, ort.Location{}, at)
	require.Equal(t, "Cpu", at.Name())
	require.Equal(t, "Cpu", at.String())
	require.True(t, at.OnCPU())
	_, err = s.InputLocation("y")
	requireError(t, err, ort.ErrInvalidArgument, `no input "y"; it has x, bias`)
	_, err = s.OutputLocation("x")
	requireError(t, err, ort.ErrInvalidArgument, `no output "x"; it has y`)

	x, err := s.NewTensor(at, ort.Float32, 2)
	require.NoError(t, err)
	require.True(t, x.OnCPU())
	require.Equal(t, at, x.Location())
	require.NoError(t, ort.Copy(x, floats(t, []float32{1, 2}, 2)))
	require.Equal(t, []float32{11, 22}, ort.Data[float32](run(t, s, map[string]*ort.Tensor{"x": x})["y"]))
	x.Close()
	require.False(t, x.OnCPU())
}

func TestCopy(t *testing.T) {
	x, y, none := floats(t, make([]float32, 4), 1, 4), floats(t, []float32{1, 2, 3, 4}, 4), floats(t, nil, 0, 4)
	require.NoError(t, ort.Copy(x, y), "another shape of as many elements")
	require.Equal(t, []float32{1, 2, 3, 4}, ort.Data[float32](x))
	require.NoError(t, ort.Copy(none, none))

	z := floats(t, make([]float32, 4), 4)
	tail, err := z.View(4, 2)
	require.NoError(t, err)
	defer tail.Close()
	head, err := y.View(8, 2)
	require.NoError(t, err)
	defer head.Close()
	require.NoError(t, ort.Copy(tail, head))
	require.Equal(t, []float32{0, 3, 4, 0}, ort.Data[float32](z))
	require.NoError(t, ort.CopyBytes(tail, 2, head, 6, 2), "across elements, within views")
	require.NoError(t, ort.CopyBytes(tail, 8, none, 0, 0))
	require.Equal(t, []byte{0, 0, 0x80, 0x40}, tail.Bytes()[:4])
	for _, c := range [][3]int{{-1, 0, 1}, {0, -1, 1}, {0, 0, -1}, {5, 0, 4}, {0, 5, 4}, {9, 0, 0}, {0, 0, math.MaxInt}, {math.MaxInt, 0, 1}} {
		requireError(t, ort.CopyBytes(tail, c[0], head, c[1], c[2]), ort.ErrInvalidArgument, "copy of")
	}

	requireError(t, ort.Copy(x, tail), ort.ErrInvalidArgument, "[2] to float32 [1 4]")
	requireError(t, ort.Copy(x, nil), ort.ErrInvalidArgument, "copy source: invalid argument: no tensor")
	requireError(t, ort.Copy(x, tensor(t, ort.Int32, make([]int32, 4), 4)), ort.ErrInvalidArgument, "int32 [4] to float32")
	closed := floats(t, []float32{0}, 1)
	closed.Close()
	requireError(t, ort.Copy(closed, closed), ort.ErrClosed, "copy destination")
	requireError(t, ort.CopyBytes(x, 0, closed, 0, 0), ort.ErrClosed, "copy source")
}
