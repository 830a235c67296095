package attention

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/qwenrt/qwenrt/graphopt/internal/interp"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// sample is one set of lengths on which a cone is evaluated.
type sample struct{ seq, past int64 }

// A prompt, a token behind a past, and a chunk behind a past: the three ways a cache is used.
var samples = []sample{{4, 0}, {1, 3}, {3, 2}}

func scale(dim int64) float32 { return float32(1 / math.Sqrt(float64(dim))) }

// tolerance is the largest difference, of outputs of magnitude one, that rounding explains.
func tolerance(d ir.DType) float64 {
	switch d {
	case ir.Float16:
		return 1e-2
	case ir.BFloat16:
		return 8e-2
	}
	return 1e-4
}

// prove evaluates the cone and compares it with attention as it is defined.
func (f *fuser) prove(l *layer) error {
	if err := f.findRotary(l); err != nil {
		return err
	}
	for _, s := range samples {
		if err := f.proveSample(l, s); err != nil {
			return fmt.Errorf("with %d tokens after %d: %w", s.seq, s.past, err)
		}
	}
	return nil
}

// given are the model's inputs at some lengths: one sequence, without padding.
func (f *fuser) given(s sample) map[*ir.Value]*interp.Tensor {
	ones := make([]int64, s.past+s.seq)
	for i := range ones {
		ones[i] = 1
	}
	pos := make([]int64, s.seq)
	for i := range pos {
		pos[i] = s.past + int64(i)
	}
	m := map[*ir.Value]*interp.Tensor{
		f.ids:  interp.Ints([]int64{1, s.seq}, make([]int64, s.seq)...),
		f.mask: interp.Ints([]int64{1, s.past + s.seq}, ones...),
	}
	if f.position != nil {
		m[f.position] = interp.Ints([]int64{1, s.seq}, pos...)
	}
	for _, in := range f.graph.Inputs() {
		if in.Type != nil && len(in.Type.Shape) == 4 {
			m[in] = interp.ShapeOnly(in.Type.DType, 1, in.Type.Shape[1].Size, s.past, in.Type.Shape[3].Size)
		}
	}
	return m
}

func noise(rng *rand.Rand, d ir.DType, shape ...int64) *interp.Tensor {
	n, _ := ir.NumElements(shape)
	t := &interp.Tensor{DType: d, Shape: shape, F: make([]float64, n)}
	for i := range t.F {
		t.F[i] = float64(rng.IntN(257)-128) / 128 // exact in every floating point type
	}
	return t
}

// spread gives an anchor its shape: four dimensions behind a norm, three behind a product.
func spread(v *ir.Value, t *interp.Tensor) *interp.Tensor {
	if v.Producer().Is("", "SimplifiedLayerNormalization") {
		return t
	}
	s := t.Shape
	return &interp.Tensor{DType: t.DType, Shape: []int64{s[0], s[1], s[2] * s[3]}, F: t.F}
}

func (f *fuser) proveSample(l *layer, s sample) error {
	rng := rand.New(rand.NewPCG(uint64(s.seq), uint64(s.past)))
	q := noise(rng, l.dtype, 1, s.seq, l.heads, l.dim)
	k := noise(rng, l.dtype, 1, s.seq, l.kvHeads, l.dim)
	v := noise(rng, l.dtype, 1, s.seq, l.kvHeads, l.dim)
	pk := noise(rng, l.dtype, 1, l.kvHeads, s.past, l.dim)
	pv := noise(rng, l.dtype, 1, l.kvHeads, s.past, l.dim)
	in := f.given(s)
	in[l.q], in[l.k], in[l.v] = spread(l.q, q), spread(l.k, k), spread(l.v, v)
	in[l.pastKey], in[l.pastVal] = pk, pv
	e := interp.New(in)
	cos, err := e.Value(f.rotary[0])
	if err != nil {
		return err
	}
	sin, err := e.Value(f.rotary[1])
	if err != nil {
		return err
	}
	if err := plausible(cos.F, sin.F, int(s.seq), int(l.dim)); err != nil {
		return err
	}
	want := attend(l, s, q, k, v, pk, pv, cos.F, sin.F)
	for i, got := range []*ir.Value{l.out, l.key, l.val} {
		t, err := e.Value(got)
		if err != nil {
			return err
		}
		if err := close(t, want[i], tolerance(l.dtype)); err != nil {
			return fmt.Errorf("%q is not that of causal attention: %w", got.Name, err)
		}
	}
	return nil
}

func close(got, want *interp.Tensor, tol float64) error {
	if fmt.Sprint(got.Shape) != fmt.Sprint(want.Shape) {
		return fmt.Errorf("its shape is %v, not %v", got.Shape, want.Shape)
	}
	for i := range want.F {
		if !(math.Abs(got.F[i]-want.F[i]) <= tol*(1+math.Abs(want.F[i]))) {
			return fmt.Errorf("element %d is %g, not %g", i, got.F[i], want.F[i])
		}
	}
	return nil
}

// plausible checks that cos and sin are rotations, up to a common factor (YaRN scales them), whose
// two halves are the same, as tables of half the width need it.
func plausible(cos, sin []float64, seq, dim int) error {
	if len(cos) != seq*dim || len(sin) != seq*dim {
		return fmt.Errorf("the rotary tables have %d values for %d positions of size %d", len(cos), seq, dim)
	}
	for i := range seq {
		for j := range dim / 2 {
			a, b := i*dim+j, i*dim+j+dim/2
			if cos[a] != cos[b] || sin[a] != sin[b] {
				return fmt.Errorf("the two halves of the rotary tables differ")
			}
		}
	}
	return nil
}

// attend is the definition: rotate queries and keys, join keys and values with the past, and for each
// query take the softmax over all keys up to its own position.
func attend(l *layer, s sample, q, k, v, pk, pv *interp.Tensor, cos, sin []float64) [3]*interp.Tensor {
	S, P, D := int(s.seq), int(s.past), int(l.dim)
	H, G := int(l.heads), int(l.kvHeads)
	total := P + S
	rotate := func(x []float64, row int) []float64 {
		y := make([]float64, D)
		for d := range D {
			other := -x[(d+D/2)%D]
			if d >= D/2 {
				other = x[d-D/2]
			}
			y[d] = x[d]*cos[row*D+d] + other*sin[row*D+d]
		}
		return y
	}
	keys := &interp.Tensor{Shape: []int64{1, l.kvHeads, int64(total), l.dim}, F: make([]float64, G*total*D)}
	vals := &interp.Tensor{Shape: keys.Shape, F: make([]float64, G*total*D)}
	for h := range G {
		copy(keys.F[h*total*D:], pk.F[h*P*D:(h+1)*P*D])
		copy(vals.F[h*total*D:], pv.F[h*P*D:(h+1)*P*D])
		for i := range S {
			at, row := (h*total+P+i)*D, (i*G+h)*D
			copy(keys.F[at:at+D], rotate(k.F[row:row+D], i))
			copy(vals.F[at:at+D], v.F[row:row+D])
		}
	}
	out := &interp.Tensor{Shape: []int64{1, s.seq, l.heads * l.dim}, F: make([]float64, S*H*D)}
	for i := range S {
		for h := range H {
			row := (i*H + h) * D
			query := rotate(q.F[row:row+D], i)
			group := h / (H / G)
			n := P + i + 1
			score := make([]float64, n)
			sum := 0.0
			for j := range n {
				at := (group*total + j) * D
				for d := range D {
					score[j] += query[d] * keys.F[at+d]
				}
				score[j] = math.Exp(score[j] * float64(scale(l.dim)))
				sum += score[j]
			}
			for j := range n {
				at := (group*total + j) * D
				for d := range D {
					out.F[row+d] += score[j] / sum * vals.F[at+d]
				}
			}
		}
	}
	return [3]*interp.Tensor{out, keys, vals}
}

// findRotary finds the values that hold the cosines and sines: what keys are multiplied by on
// their way to the present. All layers must use the same two.
func (f *fuser) findRotary(l *layer) error {
	s := sample{2, 1}
	// With ones in the first half of each key and zeros in the second, rotated keys are the
	// cosines followed by the sines.
	probe := &interp.Tensor{DType: l.dtype, Shape: []int64{1, s.seq, l.kvHeads, l.dim}, F: make([]float64, s.seq*l.kvHeads*l.dim)}
	for i := range probe.F {
		if int64(i)%l.dim < l.dim/2 {
			probe.F[i] = 1
		}
	}
	in := f.given(s)
	in[l.k] = spread(l.k, probe)
	in[l.pastKey] = noise(rand.New(rand.NewPCG(1, 1)), l.dtype, 1, l.kvHeads, s.past, l.dim)
	e := interp.New(in)
	key, err := e.Value(l.key)
	if err != nil {
		return err
	}
	half := int(l.dim / 2)
	D, total := int(l.dim), int(s.seq+s.past)
	expect := func(v *ir.Value, offset int) bool {
		t, err := e.Value(v)
		if err != nil || len(t.F) != int(s.seq)*D {
			return false
		}
		for i := range int(s.seq) {
			for j := range half {
				if t.F[i*D+j] != key.F[((total-int(s.seq)+i)*D)+offset+j] {
					return false
				}
			}
		}
		return true
	}
	var cos, sin *ir.Value
	for _, n := range f.graph.Nodes() {
		if !l.cone[n] || !n.Is("", "Mul") {
			continue
		}
		for _, v := range n.Inputs() {
			if v == nil || v.Producer() == nil || l.leads(l.k, v) || l.leads(l.q, v) {
				continue
			}
			if cos == nil && expect(v, 0) {
				cos = v
			}
			if sin == nil && expect(v, half) {
				sin = v
			}
		}
	}
	if cos == nil || sin == nil {
		return fmt.Errorf("no rotary embedding of the keys was found")
	}
	if f.rotary[0] != nil && f.rotary != [2]*ir.Value{cos, sin} {
		return fmt.Errorf("this layer's rotary embedding is not that of the others")
	}
	f.rotary = [2]*ir.Value{cos, sin}
	return nil
}

// chunk is how many positions are evaluated at a time.
const chunk = 1024

// tables are the cosines and sines [positions, D/2] of all positions, as the old graph computes them.
func (f *fuser) tables(l *layer) (cos, sin *ir.Tensor, err error) {
	rows, half, dim := f.unit.MaxPositions, int(l.dim/2), int(l.dim)
	out := [2][]float32{make([]float32, int(rows)*half), make([]float32, int(rows)*half)}
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for first := int64(0); first < rows; first += chunk {
		group.Go(func() error {
			s := sample{seq: min(chunk, rows-first), past: first}
			e := interp.New(f.given(s))
			for i, v := range f.rotary {
				t, err := e.Value(v)
				if err != nil {
					return err
				}
				if len(t.F) != int(s.seq)*dim {
					return fmt.Errorf("the rotary table has %d values for %d positions of size %d", len(t.F), s.seq, dim)
				}
				for r := range int(s.seq) {
					for j := range half {
						out[i][(int(first)+r)*half+j] = float32(t.F[r*dim+j])
					}
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	var typed [2]*ir.Tensor
	for i := range out {
		if typed[i], err = ir.Cast(ir.Float32Tensor(out[i], rows, int64(half)), l.dtype); err != nil {
			return nil, nil, err
		}
	}
	return typed[0], typed[1], nil
}
