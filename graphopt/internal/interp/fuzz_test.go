package interp_test

import (
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/internal/interp"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// reader takes numbers off a fuzzer's bytes.
type reader []byte

func (r *reader) next(n int) int {
	if len(*r) == 0 {
		return 0
	}
	b := (*r)[0]
	*r = (*r)[1:]
	return int(b) % n
}

var (
	fuzzOps = []string{
		"Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Mod", "Equal", "Less", "And", "Or", "Not", "IsNaN", "Neg", "Abs",
		"Sqrt", "Floor", "Identity", "Cast", "CastLike", "Where", "ConstantOfShape", "Range", "Shape", "Size", "Reshape",
		"Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile", "Transpose", "Concat", "Split", "Slice", "Gather", "GatherND",
		"ScatterND", "Trilu", "CumSum", "MatMul", "ReduceSum", "ReduceMean", "ReduceMax", "ReduceProd", "Softmax",
	}
	fuzzAttrs = []string{"axis", "to", "keepdims", "allowzero", "upper", "exclusive", "start", "end", "perm", "axes", "noop_with_empty_axes"}
	fuzzInts  = []int64{0, 1, 2, 3, -1, -2, 4, 7, 16, 1000, 1 << 24, 1 << 40, math.MaxInt64, math.MinInt64, math.MaxInt32, -1000}
	fuzzTypes = []ir.DType{ir.Int64, ir.Float32, ir.Int64, ir.Bool, ir.Int32, ir.Float16}
)

// graph makes a graph of constants and of up to 24 nodes on them.
func (r *reader) graph() []*ir.Value {
	m := ir.NewModel("fuzz", 10, 21)
	pool := []*ir.Value{m.Graph.AddInput("x", nil)}
	for range 1 + r.next(6) {
		d := fuzzTypes[r.next(len(fuzzTypes))]
		n := r.next(5)
		t := &interp.Tensor{DType: d, Shape: []int64{int64(n)}}
		if r.next(4) == 0 && n == 4 {
			t.Shape = []int64{2, 2}
		}
		if r.next(4) == 0 && n == 1 {
			t.Shape = []int64{}
		}
		for range n {
			v := fuzzInts[r.next(len(fuzzInts))]
			switch {
			case d == ir.Float16:
				t.F = append(t.F, float64(v%2048)/2)
			case d.Float():
				t.F = append(t.F, float64(v)/2)
			case d == ir.Bool:
				t.I = append(t.I, v&1)
			case d == ir.Int32:
				t.I = append(t.I, int64(int32(v)))
			default:
				t.I = append(t.I, v)
			}
		}
		c, err := t.IR()
		if err != nil {
			panic(err)
		}
		pool = append(pool, m.Graph.AddInitializer(m.Graph.Fresh("c"), c))
	}
	for range r.next(24) {
		spec := ir.NodeSpec{Op: fuzzOps[r.next(len(fuzzOps))]}
		for range r.next(6) {
			var v *ir.Value
			if i := r.next(len(pool) + 1); i < len(pool) {
				v = pool[i]
			}
			spec.Inputs = append(spec.Inputs, v)
		}
		for range r.next(3) {
			name, i := fuzzAttrs[r.next(len(fuzzAttrs))], fuzzInts[r.next(len(fuzzInts))]
			if name == "perm" || name == "axes" {
				spec.Attrs = append(spec.Attrs, ir.Ints(name, i, fuzzInts[r.next(len(fuzzInts))]))
			} else {
				spec.Attrs = append(spec.Attrs, ir.Int(name, i))
			}
		}
		if spec.Op == "Split" {
			spec.Outputs = []string{"p", "q", ""}[:1+r.next(3)]
		}
		for _, o := range m.Graph.Add(spec).Outputs() {
			if o != nil {
				pool = append(pool, o)
			}
		}
	}
	return pool
}

// No graph makes the evaluator panic, run long or give a tensor that is not in itself consistent; and
// shapes that are computed alone are those of the content.
func FuzzEvaluate(f *testing.F) {
	for i := range byte(20) {
		seed := make([]byte, 200)
		for j := range seed {
			seed[j] = byte(j)*(2*i+1) + i*i
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := reader(b)
		pool := r.graph()
		x := interp.Floats([]int64{2, 3}, 1, -2, 0.5, 0, 3, -1)
		full, shapes := interp.New(map[*ir.Value]T{pool[0]: x}), interp.New(map[*ir.Value]T{pool[0]: x})
		full.MaxElements = 1 << 12
		for _, v := range pool {
			got, err := full.Value(v)
			if err != nil {
				require.NotContains(t, err.Error(), "runtime error", "caught by a check, not by a panic")
				continue
			}
			n, err := ir.NumElements(got.Shape)
			require.NoError(t, err)
			require.EqualValues(t, n, got.Len())
			shape, err := shapes.Shape(v)
			if errors.Is(err, interp.ErrUnsupported) {
				continue // content that is needed on the way may be larger than it is allowed to be
			}
			require.NoError(t, err)
			require.Equal(t, got.DType, shape.DType)
			require.True(t, slices.Equal(got.Shape, shape.Shape), "%v and %v", got.Shape, shape.Shape)
			c, err := got.IR()
			require.NoError(t, err)
			_, err = interp.FromIR(c)
			require.NoError(t, err)
		}
	})
}
