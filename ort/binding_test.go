package ort_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/ort"
)

func TestBinding(t *testing.T) {
	s := open(t, "add", ort.SessionConfig{})
	b := bind(t, s)
	x, y, z := floats(t, []float32{1, 2, 3, 4}, 1, 4), floats(t, []float32{10, 20, 30, 40}, 1, 4), floats(t, make([]float32, 4), 1, 4)
	require.NoError(t, b.BindInput("x", x))
	requireError(t, b.Run(nil), ort.ErrInvalidArgument, "y")
	require.NoError(t, b.BindInput("y", y))
	require.NoError(t, b.BindOutput("z", z))
	require.NoError(t, b.Run(nil))
	require.Equal(t, []float32{11, 22, 33, 44}, ort.Data[float32](z))

	ort.Data[float32](x)[0] = 5
	require.NoError(t, b.Run(nil), "the binding reads what is there now")
	require.Equal(t, []float32{15, 22, 33, 44}, ort.Data[float32](z))

	require.NoError(t, b.BindInput("x", y))
	require.NoError(t, b.Run(nil), "bound again")
	require.Equal(t, []float32{20, 40, 60, 80}, ort.Data[float32](z))

	y.Close()
	require.NoError(t, b.Run(nil), "the binding keeps the memory of a closed tensor")
	require.Equal(t, []float32{20, 40, 60, 80}, ort.Data[float32](z))

	require.NoError(t, b.Clear())
	require.Error(t, b.Run(nil), "nothing is bound")
	require.NoError(t, b.BindInput("x", x))
}

func TestBindingErrors(t *testing.T) {
	s := open(t, "add", ort.SessionConfig{})
	b := bind(t, s)
	x := floats(t, make([]float32, 4), 1, 4)
	requireError(t, b.BindInput("z", x), ort.ErrInvalidArgument, `no input "z"; it has x, y`)
	requireError(t, b.BindOutput("x", x), ort.ErrInvalidArgument, `no output "x"; it has z`)
	requireError(t, b.BindOutputTo("x", ort.Location{}), ort.ErrInvalidArgument, `no output "x"`)
	requireError(t, b.BindInput("x", nil), ort.ErrInvalidArgument, "bind x")

	require.NoError(t, b.BindInput("x", x))
	require.NoError(t, b.BindInput("y", x))
	require.NoError(t, b.BindOutput("z", floats(t, make([]float32, 8), 2, 4)))
	require.Error(t, b.Run(nil), "an output of another shape")

	slot, err := b.Input("x")
	require.NoError(t, err)
	x.Close()
	requireError(t, slot.Set(x), ort.ErrClosed, "bind x: tensor")
	b.Close()
	b.Close()
	requireError(t, slot.Set(floats(t, make([]float32, 4), 1, 4)), ort.ErrClosed, "binding")
	_, err = b.Input("x")
	requireError(t, err, ort.ErrClosed, "binding")
}

// past and present are one buffer, as a KV cache has it.
func TestSharedBuffer(t *testing.T) {
	s := open(t, "increment", ort.SessionConfig{})
	b := bind(t, s)
	kv := floats(t, []float32{0, 10, 20}, 1, 3)
	require.NoError(t, b.BindInput("past", kv))
	require.NoError(t, b.BindOutput("present", kv))
	for range 5 {
		require.NoError(t, b.Run(nil))
	}
	require.Equal(t, []float32{5, 15, 25}, ort.Data[float32](kv))
}

// A mask over one buffer that grows by an element a step, as in decoding.
func TestGrowingInput(t *testing.T) {
	s := open(t, "sum", ort.SessionConfig{})
	b := bind(t, s)
	const capacity = 100
	ones := make([]int64, capacity)
	for i := range ones {
		ones[i] = 1
	}
	mask := tensor(t, ort.Int64, ones, 1, capacity)
	total := tensor(t, ort.Int64, []int64{0})
	require.NoError(t, b.BindOutput("total", total))
	slot, err := b.Input("mask")
	require.NoError(t, err)
	for n := int64(1); n <= capacity; n++ {
		require.NoError(t, mask.Reshape(1, n))
		require.NoError(t, slot.Set(mask))
		require.NoError(t, b.Run(nil))
		require.Equal(t, n, ort.Data[int64](total)[0])
	}
	requireError(t, mask.Reshape(1, capacity+1), ort.ErrInvalidArgument, "has 800")
}

func TestOutputsThatRuntimeAllocates(t *testing.T) {
	s := open(t, "add", ort.SessionConfig{})
	b := bind(t, s)
	require.NoError(t, b.BindOutputTo("z", ort.Location{}))
	results := map[int64]*ort.Tensor{}
	for rows := int64(1); rows <= 3; rows++ { // another shape each time, under one binding
		x := floats(t, make([]float32, 4*rows), rows, 4)
		ort.Data[float32](x)[0] = float32(rows)
		require.NoError(t, b.BindInput("x", x))
		require.NoError(t, b.BindInput("y", x))
		require.NoError(t, b.Run(nil))
		outputs, err := b.Outputs()
		require.NoError(t, err)
		require.Len(t, outputs, 1)
		results[rows] = outputs["z"]
		defer results[rows].Close()
	}
	b.Close()
	s.Close()
	for rows, z := range results {
		require.Equal(t, []int64{rows, 4}, z.Shape())
		require.Equal(t, float32(2*rows), ort.Data[float32](z)[0], "what a run gave stays, when others follow and when all is closed")
	}
}

func TestOutputsNamesOnlyItsOwn(t *testing.T) {
	s := open(t, "dtypes", ort.SessionConfig{})
	b := bind(t, s)
	for _, v := range s.Inputs() {
		x, err := ort.NewTensor(v.DType, 1)
		require.NoError(t, err)
		defer x.Close()
		require.NoError(t, b.BindInput(v.Name, x))
	}
	for _, v := range s.Outputs() { // two among tensors that are bound
		if v.Name == "y_int8" || v.Name == "y_bfloat16" {
			require.NoError(t, b.BindOutputTo(v.Name, ort.Location{}))
			continue
		}
		y, err := ort.NewTensor(v.DType, 1)
		require.NoError(t, err)
		defer y.Close()
		require.NoError(t, b.BindOutput(v.Name, y))
	}
	require.NoError(t, b.Run(nil))
	outputs, err := b.Outputs()
	require.NoError(t, err)
	require.Len(t, outputs, 2)
	require.Equal(t, ort.Int8, outputs["y_int8"].DType())
	require.Equal(t, ort.BFloat16, outputs["y_bfloat16"].DType())
	for _, y := range outputs {
		y.Close()
	}
	y := tensor(t, ort.Int8, []int8{0}, 1)
	require.NoError(t, b.BindOutput("y_int8", y), "from the device to a tensor")
	require.NoError(t, b.Run(nil))
	outputs, err = b.Outputs()
	require.NoError(t, err)
	require.Len(t, outputs, 1)
	outputs["y_bfloat16"].Close()
}

// A decode step: grow the mask, bind it, run.
func TestDecodeStepDoesNotAllocate(t *testing.T) {
	step := decodeStep(t)
	require.Zero(t, testing.AllocsPerRun(100, step))
}

func BenchmarkDecodeStep(b *testing.B) {
	step := decodeStep(b)
	b.ReportAllocs()
	for b.Loop() {
		step()
	}
}

func decodeStep(t testing.TB) func() {
	s := open(t, "sum", ort.SessionConfig{Threads: 1})
	binding := bind(t, s)
	c := control(t)
	const capacity = 64
	mask := tensor(t, ort.Int64, make([]int64, capacity), 1, capacity)
	total := tensor(t, ort.Int64, []int64{0})
	require.NoError(t, binding.BindOutput("total", total))
	slot, err := binding.Input("mask")
	require.NoError(t, err)
	n := int64(0)
	return func() {
		n = n%capacity + 1
		ort.Data[int64](mask)[0] = n
		if err := mask.Reshape(1, n); err != nil {
			t.Fatal(err)
		}
		if err := slot.Set(mask); err != nil {
			t.Fatal(err)
		}
		if err := binding.Run(c); err != nil {
			t.Fatal(err)
		}
		if got := ort.Data[int64](total)[0]; got != n {
			t.Fatalf("total is %d, want %d", got, n)
		}
	}
}

// One binding from many goroutines: calls take turns. Each has bindings of its own
// session elsewhere in the tests.
func TestBindingTakesTurns(t *testing.T) {
	s := open(t, "increment", ort.SessionConfig{Threads: 1})
	b := bind(t, s)
	kv := floats(t, []float32{0}, 1, 1)
	require.NoError(t, b.BindInput("past", kv))
	require.NoError(t, b.BindOutput("present", kv))
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for range 100 {
				if err := b.Run(nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	workers.Wait()
	require.Equal(t, []float32{400}, ort.Data[float32](kv))
}
