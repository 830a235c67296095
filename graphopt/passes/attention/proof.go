package attention

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/qwenrt/qwenrt/graphopt/internal/interp"
	"github.com/qwenrt/qwenrt/graphopt/internal/sample"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// trial is a run on which a cone is evaluated. The last row of its batch is padding from valid on.
type trial struct {
	sample.Lengths
	valid int64 // tokens of the last row, past included
}

// trials are the ways in which a cache is used: a prompt, a token behind a past, a chunk behind a past,
// prompts of two lengths, and a token for each of two rows.
var trials = []trial{
	{sample.Lengths{Batch: 1, Sequence: 4, Past: 0}, 4},
	{sample.Lengths{Batch: 1, Sequence: 1, Past: 3}, 4},
	{sample.Lengths{Batch: 1, Sequence: 3, Past: 2}, 5},
	{sample.Lengths{Batch: 2, Sequence: 3, Past: 0}, 2},
	{sample.Lengths{Batch: 2, Sequence: 1, Past: 2}, 3},
}

// trials are those that the graph can be run on: where it fixes lengths, with those.
func (f *fuser) trials() []trial {
	var fit []trial
	for _, t := range trials {
		l := f.in.Fit(t.Lengths)
		t = trial{l, max(l.Total()-(t.Total()-t.valid), 0)}
		if !slices.Contains(fit, t) {
			fit = append(fit, t)
		}
	}
	return fit
}

func (t trial) String() string {
	return fmt.Sprintf("with %d tokens after %d in %d rows", t.Sequence, t.Past, t.Batch)
}

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

// proofs are the layers looked at so far, and what they have in common.
type proofs struct {
	place    map[*ir.Node]int
	verdicts []verdict
	rotary   [2]table // cosines and sines of the layers to be fused
	shapes   []*interp.Evaluator
}

type verdict struct {
	layer *layer
	err   error
}

// prove evaluates the cone and compares it with attention as it is defined. The layers of a model
// are alike: where a cone is the same function of its anchors as one before, node by node, the
// verdict is the same.
func (f *fuser) prove(l *layer) error {
	for _, v := range f.verdicts {
		if f.alike(v.layer, l) {
			return v.err
		}
	}
	err := f.evaluate(l)
	f.verdicts = append(f.verdicts, verdict{l, err})
	return err
}

// What a graph of fixed lengths may ask for: numbers to hold, and multiplications of one run.
const (
	maxNumbers  = 1 << 26
	maxProducts = 1 << 29
)

// feasible makes sure that the trials end.
func (f *fuser) feasible(l *layer) error {
	for _, t := range f.trials() {
		width := l.heads * l.dim
		numbers := t.Batch * t.Total() * width
		if t.Batch*t.Total() > maxNumbers || numbers > maxNumbers || numbers*t.Sequence > maxProducts {
			return fmt.Errorf("%v: too many to be computed", t)
		}
	}
	return nil
}

func (f *fuser) evaluate(l *layer) error {
	if err := f.feasible(l); err != nil {
		return err
	}
	rotary, err := f.findRotary(l)
	if err != nil {
		return err
	}
	if f.rotary[0].value != nil && !(f.sameTable(f.rotary[0], rotary[0]) && f.sameTable(f.rotary[1], rotary[1])) {
		return errors.New("this layer's rotary embedding is not that of the others")
	}
	for _, t := range f.trials() {
		if err := f.try(l, t, rotary); err != nil {
			return fmt.Errorf("%v: %w", t, err)
		}
	}
	if f.unit.MaxPositions > 0 {
		if err := f.farBack(l, rotary); err != nil {
			return err
		}
	}
	if f.rotary[0].value == nil {
		f.rotary = rotary
	}
	return nil
}

// given are the model's inputs for one trial.
func (f *fuser) given(t trial) map[*ir.Value]*interp.Tensor {
	m := f.in.Given(t.Lengths)
	mask := m[f.in.Mask].I
	for i := t.valid; i < t.Total(); i++ {
		mask[(t.Batch-1)*t.Total()+i] = 0
	}
	return m
}

// noise are numbers within ±reach that are exact in every floating point type.
func noise(rng *rand.Rand, d ir.DType, reach float64, shape ...int64) *interp.Tensor {
	n, _ := ir.NumElements(shape)
	t := &interp.Tensor{DType: d, Shape: shape, F: make([]float64, n)}
	for i := range t.F {
		t.F[i] = float64(rng.IntN(257)-128) / 128 * reach
	}
	return t
}

// queryReach makes scores large enough for the softmax to tell keys apart: with numbers within ±1 it
// gives nearly equal weights, and a wrong scale would hardly show.
const queryReach = 8

// anchored gives a tensor [B,S,H,D] the dimensions that the anchor v has.
func (f *fuser) anchored(v *ir.Value, t *interp.Tensor) *interp.Tensor {
	s := t.Shape
	switch f.form(v, s[3]) {
	case sideBySide:
		s = []int64{s[0], s[1], s[2] * s[3]}
	case headRows:
		s = []int64{s[0], s[1] * s[2], s[3]}
	}
	return &interp.Tensor{DType: t.DType, Shape: s, F: t.F}
}

func (f *fuser) try(l *layer, t trial, rotary [2]table) error {
	rng := rand.New(rand.NewPCG(uint64(t.Sequence), uint64(t.Past)))
	x := operands{
		q:       noise(rng, l.dtype, queryReach, t.Batch, t.Sequence, l.heads, l.dim),
		k:       noise(rng, l.dtype, 1, t.Batch, t.Sequence, l.kvHeads, l.dim),
		v:       noise(rng, l.dtype, 1, t.Batch, t.Sequence, l.kvHeads, l.dim),
		pastKey: noise(rng, l.dtype, 1, t.Batch, l.kvHeads, t.Past, l.dim),
		pastVal: noise(rng, l.dtype, 1, t.Batch, l.kvHeads, t.Past, l.dim),
	}
	in := f.given(t)
	in[l.q], in[l.k], in[l.v] = f.anchored(l.q, x.q), f.anchored(l.k, x.k), f.anchored(l.v, x.v)
	in[l.pastKey], in[l.pastVal] = x.pastKey, x.pastVal
	e := interp.New(in)
	var err error
	if x.cos, err = f.angles(e, rotary[0], l, t.Lengths); err != nil {
		return err
	}
	if x.sin, err = f.angles(e, rotary[1], l, t.Lengths); err != nil {
		return err
	}
	want := attend(l, t, x)
	for i, v := range []*ir.Value{l.out, l.key, l.val} {
		got, err := e.Value(v)
		if err != nil {
			return err
		}
		if err := near(got, want[i], tolerance(l.dtype)); err != nil {
			return fmt.Errorf("%q is not that of causal attention: %w", v.Name, err)
		}
	}
	return nil
}

// near compares what was computed with what should be; NaN there stands for anything.
func near(got, want *interp.Tensor, tol float64) error {
	if !slices.Equal(got.Shape, want.Shape) {
		return fmt.Errorf("its shape is %v, not %v", got.Shape, want.Shape)
	}
	for i, w := range want.F {
		if math.IsNaN(w) {
			continue
		}
		if !(math.Abs(got.F[i]-w) <= tol*(1+math.Abs(w))) {
			return fmt.Errorf("element %d is %.4g, not %.4g", i, got.F[i], w)
		}
	}
	return nil
}

// operands of attention: q, k, v [B,S,H,D]; pasts [B,H,P,D]; cosines and sines [B,S,D/2].
type operands struct{ q, k, v, pastKey, pastVal, cos, sin *interp.Tensor }

// attend is the definition: rotate queries and keys, join keys and values with the past, and for each
// query take the softmax over all keys up to its own position. Padding gives NaN.
func attend(l *layer, t trial, x operands) [3]*interp.Tensor {
	B, S, P, D := int(t.Batch), int(t.Sequence), int(t.Past), int(l.dim)
	H, G, T := int(l.heads), int(l.kvHeads), int(t.Total())
	rotate := func(v []float64, row int) []float64 {
		y := make([]float64, D)
		for d := range D / 2 {
			a, b := v[d], v[d+D/2]
			cos, sin := x.cos.F[row*D/2+d], x.sin.F[row*D/2+d]
			y[d], y[d+D/2] = a*cos-b*sin, b*cos+a*sin
		}
		return y
	}
	keys := &interp.Tensor{Shape: []int64{t.Batch, l.kvHeads, t.Total(), l.dim}, F: make([]float64, B*G*T*D)}
	vals := &interp.Tensor{Shape: keys.Shape, F: make([]float64, B*G*T*D)}
	out := &interp.Tensor{Shape: []int64{t.Batch, t.Sequence, l.heads * l.dim}, F: make([]float64, B*S*H*D)}
	hidden := func(v []float64) {
		for i := range v {
			v[i] = math.NaN()
		}
	}
	for b := range B {
		valid := T
		if b == B-1 {
			valid = int(t.valid)
		}
		for h := range G {
			past, now := (b*G+h)*P*D, (b*G+h)*T*D
			copy(keys.F[now:], x.pastKey.F[past:past+P*D])
			copy(vals.F[now:], x.pastVal.F[past:past+P*D])
			for i := range S {
				at, row := now+(P+i)*D, ((b*S+i)*G+h)*D
				copy(keys.F[at:at+D], rotate(x.k.F[row:row+D], b*S+i))
				copy(vals.F[at:at+D], x.v.F[row:row+D])
			}
			hidden(keys.F[now+valid*D : now+T*D])
			hidden(vals.F[now+valid*D : now+T*D])
		}
		for i := range S {
			for h := range H {
				row := ((b*S+i)*H + h) * D
				if P+i >= valid {
					hidden(out.F[row : row+D])
					continue
				}
				head := (b*G + h/(H/G)) * T * D
				mix(out.F[row:row+D], rotate(x.q.F[row:row+D], b*S+i), keys.F[head:], vals.F[head:], P+i+1, float64(scale(l.dim)))
			}
		}
	}
	return [3]*interp.Tensor{out, keys, vals}
}

// mix sets out to the values of the first n positions, weighted by the softmax of their keys' scores.
func mix(out, query, keys, vals []float64, n int, scale float64) {
	D := len(out)
	weight := make([]float64, n)
	sum := 0.0
	for j := range n {
		for d := range D {
			weight[j] += query[d] * keys[j*D+d]
		}
		weight[j] = math.Exp(weight[j] * scale)
		sum += weight[j]
	}
	for j := range n {
		for d := range D {
			out[d] += weight[j] / sum * vals[j*D+d]
		}
	}
}

// farBack makes sure that the last token of a full context sees all of it: no window hides what is far
// back, be it by the mask or by cutting keys off. The trials are too short to show that, and the whole cone
// is too large to be evaluated at this length; but at one query the mask is one row. Every value
// of that length that joins the data must be the same for all keys, and what it is in the trials.
func (f *fuser) farBack(l *layer, rotary [2]table) error {
	total := f.unit.MaxPositions
	sizes := []int64{l.dim, l.dim / 2, l.heads, l.kvHeads, l.heads * l.dim, l.heads / l.kvHeads}
	for total > 2 && slices.Contains(sizes, total) { // so that a dimension of this size is that of the keys
		total--
	}
	one, all := f.in.Fit(sample.Lengths{Batch: 1, Sequence: 1, Past: 3}), f.in.Fit(sample.Lengths{Batch: 1, Sequence: 1, Past: total - 1})
	if one == all {
		return nil // the graph runs on one length alone, on which it was tried
	}
	if all.Sequence != 1 {
		return fmt.Errorf("%d tokens in each run: whether the last of them sees all keys was not found out", all.Sequence)
	}
	total = all.Total()
	near, far := interp.New(f.in.Given(one)), interp.New(f.in.Given(all))
	if keys, err := l.seen(far); err != nil || keys != total {
		return fmt.Errorf("of %d keys, not all take part in the scores", total)
	}
	for _, v := range l.joining() {
		if v == rotary[0].value || v == rotary[1].value {
			continue
		}
		shape, err := far.Shape(v)
		if err != nil {
			return fmt.Errorf("with %d keys: %w", total, err)
		}
		if !slices.Contains(shape.Shape, total) {
			continue
		}
		a, err := near.Value(v)
		if err != nil {
			return err
		}
		b, err := far.Value(v)
		if err != nil {
			return fmt.Errorf("with %d keys: %w", total, err)
		}
		if !uniform(a, b) {
			return fmt.Errorf("with %d keys, %q does not treat all of them alike: a sliding window?", total, v.Name)
		}
	}
	return nil
}

// seen is the number of keys that take part in the scores.
func (l *layer) seen(e *interp.Evaluator) (int64, error) {
	t, err := e.Shape(l.scores)
	if err != nil {
		return 0, err
	}
	axis := len(t.Shape) - 1
	if contained(l.core) {
		if past := l.pastKey.Uses(); slices.ContainsFunc(past, func(u ir.Use) bool { return u.Node == l.core }) {
			if t, err = e.Shape(l.key); err != nil { // the operator joins past and new keys itself
				return 0, err
			}
		}
		axis = len(t.Shape) / 2 // [B,H,T,D] or [B,T,H·D]
	}
	if axis < 0 || axis >= len(t.Shape) {
		return 0, nil
	}
	return t.Shape[axis], nil
}

// joining are the values of the cone that are not computed from the data themselves but meet it.
func (l *layer) joining() []*ir.Value {
	var found []*ir.Value
	for _, v := range l.data {
		n := v.Producer()
		if !l.cone[n] {
			continue
		}
		for _, w := range n.Inputs() {
			if w != nil && w.Constant() == nil && !slices.Contains(l.data, w) && !slices.Contains(found, w) {
				found = append(found, w)
			}
		}
	}
	return found
}

// uniform reports whether all elements of both tensors are one number.
func uniform(a, b *interp.Tensor) bool {
	for _, t := range []*interp.Tensor{a, b} {
		for i := range t.F {
			if t.F[i] != a.F[0] {
				return false
			}
		}
		for i := range t.I {
			if t.I[i] != a.I[0] {
				return false
			}
		}
	}
	return a.Len() > 0 && b.Len() > 0
}
