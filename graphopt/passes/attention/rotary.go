package attention

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/interp"
	"github.com/qwenrt/qwenrt/graphopt/internal/sample"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// table is where the cosines, or the sines, of a run come from.
type table struct {
	value *ir.Value // those of the run's positions; or, with positions, [rows, D/2] of all that there are
	// positions, [B,S] or one for the first token, choose rows of value. A RotaryEmbedding has them.
	positions *ir.Value
}

func (f *fuser) sameTable(a, b table) bool {
	return f.sameValue(a.value, b.value) && f.sameValue(a.positions, b.positions)
}

// findRotary finds the values that hold the cosines and sines: what keys are multiplied by on
// their way to the present.
func (f *fuser) findRotary(l *layer) (rotary [2]table, err error) {
	s := f.in.Fit(sample.Lengths{Batch: 1, Sequence: 2, Past: 1})
	// With ones in the first half of each key and zeros in the second, rotated keys are the
	// cosines followed by the sines.
	half := int(l.dim / 2)
	shape := []int64{s.Batch, s.Sequence, l.kvHeads, l.dim}
	probe := &interp.Tensor{DType: l.dtype, Shape: shape, F: make([]float64, s.Batch*s.Sequence*l.kvHeads*l.dim)}
	for i := range probe.F {
		if i%(2*half) < half {
			probe.F[i] = 1
		}
	}
	in, rng := f.in.Given(s), rand.New(rand.NewPCG(1, 1))
	in[l.k] = f.anchored(l.k, probe)
	in[l.pastKey] = noise(rng, l.dtype, 1, s.Batch, l.kvHeads, s.Past, l.dim)
	if contained(l.core) { // which may give the present keys, with everything else
		in[l.q] = f.anchored(l.q, noise(rng, l.dtype, 1, s.Batch, s.Sequence, l.heads, l.dim))
		in[l.v] = f.anchored(l.v, noise(rng, l.dtype, 1, s.Batch, s.Sequence, l.kvHeads, l.dim))
		in[l.pastVal] = noise(rng, l.dtype, 1, s.Batch, l.kvHeads, s.Past, l.dim)
	}
	e := interp.New(in)
	key, err := e.Value(l.key)
	if err != nil {
		return rotary, err
	}
	if want := []int64{s.Batch, l.kvHeads, s.Total(), l.dim}; !slices.Equal(key.Shape, want) {
		return rotary, fmt.Errorf("the present keys %q have shape %v, not %v", l.key.Name, key.Shape, want)
	}
	holds := func(v table, offset int) bool {
		t, err := f.angles(e, v, l, s)
		if err != nil {
			return false
		}
		for i, x := range t.F[:int(s.Sequence)*half] {
			if key.F[(int(s.Past)+i/half)*2*half+offset+i%half] != x {
				return false
			}
		}
		return true
	}
	for _, pair := range l.rotations() {
		for i, v := range pair {
			if rotary[i].value == nil && v.value != nil && holds(v, i*half) {
				rotary[i] = v
			}
		}
	}
	if rotary[0].value == nil || rotary[1].value == nil {
		return rotary, errors.New("no rotary embedding of the keys was found")
	}
	return rotary, nil
}

// rotations are the values that may hold cosines and sines: what meets the data on its way, and the tables
// of operators that rotate.
func (l *layer) rotations() (pairs [][2]table) {
	for _, v := range l.joining() {
		if v.Producer() != nil {
			pairs = append(pairs, [2]table{{value: v}, {value: v}})
		}
	}
	for _, v := range l.data {
		n := v.Producer()
		switch {
		case !l.cone[n]:
		case n.Is("", "RotaryEmbedding") && n.Input(3) != nil:
			pairs = append(pairs, [2]table{{n.Input(1), n.Input(3)}, {n.Input(2), n.Input(3)}})
		case n.Is(g.Microsoft, "RotaryEmbedding"):
			pairs = append(pairs, [2]table{{n.Input(2), n.Input(1)}, {n.Input(3), n.Input(1)}})
		}
	}
	return pairs
}

// angles computes a table of cosines or sines, [B,S,D/2]. In the graph it may have the full head size,
// with two halves that are the same.
func (f *fuser) angles(e *interp.Evaluator, of table, l *layer, s sample.Lengths) (*interp.Tensor, error) {
	if of.positions != nil {
		return f.chosen(e, of, l, s)
	}
	v := of.value
	shape, err := e.Shape(v)
	if err != nil {
		return nil, err
	}
	half := int(l.dim / 2)
	rows := int(s.Batch * s.Sequence)
	elements, err := ir.NumElements(shape.Shape)
	if err != nil || len(shape.Shape) == 0 || !shape.DType.Float() {
		return nil, fmt.Errorf("%q is no rotary table", v.Name)
	}
	width := int(shape.Shape[len(shape.Shape)-1])
	if width != half && width != 2*half || elements != int64(rows*width) && elements*s.Batch != int64(rows*width) {
		return nil, fmt.Errorf("the rotary table %q has shape %v for %d positions of size %d", v.Name, shape.Shape, s.Sequence, l.dim)
	}
	t, err := e.Value(v)
	if err != nil {
		return nil, err
	}
	out := &interp.Tensor{DType: t.DType, Shape: []int64{s.Batch, s.Sequence, int64(half)}, F: make([]float64, rows*half)}
	for r := range rows {
		from := t.F[r*width%len(t.F):] // one table for all rows of the batch, or one for each
		copy(out.F[r*half:(r+1)*half], from)
		for j := half; j < width; j++ {
			if from[j] != from[j-half] {
				return nil, fmt.Errorf("the two halves of the rotary table %q differ", v.Name)
			}
		}
	}
	return out, nil
}

// chosen is angles for a table of all positions.
func (f *fuser) chosen(e *interp.Evaluator, of table, l *layer, s sample.Lengths) (*interp.Tensor, error) {
	all, err := e.Value(of.value)
	if err != nil {
		return nil, err
	}
	at, err := e.Value(of.positions)
	if err != nil {
		return nil, err
	}
	half, rows := int(l.dim/2), int(s.Batch*s.Sequence)
	if len(all.Shape) != 2 || int(all.Shape[1]) != half || len(all.F) == 0 || len(at.I) != rows && len(at.I) != 1 {
		return nil, fmt.Errorf("the rotary table %q has shape %v for %v positions of size %d", of.value.Name, all.Shape, at.Shape, l.dim)
	}
	out := &interp.Tensor{DType: all.DType, Shape: []int64{s.Batch, s.Sequence, int64(half)}, F: make([]float64, rows*half)}
	for r := range rows {
		p := at.I[min(r, len(at.I)-1)]
		if len(at.I) < rows {
			p += int64(r) % s.Sequence
		}
		if p < 0 || p >= all.Shape[0] {
			return nil, fmt.Errorf("the rotary table %q has %d rows, none for position %d", of.value.Name, all.Shape[0], p)
		}
		copy(out.F[r*half:(r+1)*half], all.F[int(p)*half:])
	}
	return out, nil
}

// chunk is how many positions are evaluated at a time.
const chunk = 1024

// tables are the cosines and sines [positions, D/2] of all positions, as the old graph computes them.
func (f *fuser) tables(l *layer) (cos, sin *ir.Tensor, err error) {
	rows, half := f.unit.MaxPositions, int(l.dim/2)
	out := [2][]float32{make([]float32, int(rows)*half), make([]float32, int(rows)*half)}
	group, ctx := errgroup.WithContext(f.unit.Context())
	group.SetLimit(runtime.GOMAXPROCS(0))
	step := f.in.Fit(sample.Lengths{Batch: 1, Sequence: min(chunk, rows)}).Sequence // chunk, unless the graph fixes it
	if total := f.in.Fit(sample.Lengths{Batch: 1, Sequence: step}).Total(); step < chunk && rows/step*total > maxNumbers {
		return nil, nil, fmt.Errorf("%d tokens in each run behind a past, and %d positions: too many runs", step, rows)
	}
	for first := int64(0); first < rows; first += step {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			s := f.in.Fit(sample.Lengths{Batch: 1, Sequence: min(step, rows-first), Past: first})
			given, err := f.from(s, first)
			if err != nil {
				return err
			}
			e := interp.New(given)
			for i, v := range f.rotary {
				t, err := f.angles(e, v, l, s)
				if err != nil {
					return err
				}
				for j, x := range t.F[:int(min(s.Sequence, rows-first))*half] {
					out[i][int(first)*half+j] = float32(x)
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	if err := f.steady(l, out); err != nil {
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

// from are the inputs for a run of which the first token has a given position.
func (f *fuser) from(s sample.Lengths, first int64) (map[*ir.Value]*interp.Tensor, error) {
	given := f.in.Given(s)
	if s.Past == first {
		return given, nil
	}
	if f.in.Position == nil {
		return nil, fmt.Errorf("the graph has a past of %d tokens, and no position_ids from which other angles could be learnt", s.Past)
	}
	for i := range given[f.in.Position].I {
		given[f.in.Position].I[i] += first - s.Past
	}
	return given, nil
}

// steady makes sure that a position has the same angles whatever the length of the sequence, which
// rotary embedding that adapts to the length (dynamic NTK, LongRoPE) does not have: positions at both
// ends of a chunk are computed once more, each as the only one.
func (f *fuser) steady(l *layer, tables [2][]float32) error {
	rows, half := f.unit.MaxPositions, int(l.dim/2)
	for _, p := range []int64{0, 1, chunk / 2, rows / 2, rows - 1} {
		if p >= rows {
			continue
		}
		at, last := f.in.Fit(sample.Lengths{Batch: 1, Sequence: 1, Past: p}), f.in.Fit(sample.Lengths{Batch: 1, Sequence: 1, Past: rows - 1})
		if at.Past != p || at.Sequence != 1 {
			continue // the graph runs on one length alone
		}
		runs := []map[*ir.Value]*interp.Tensor{f.in.Given(at)}
		if f.in.Position != nil { // the position of one length, everything else of another
			long := f.in.Given(last)
			long[f.in.Position] = runs[0][f.in.Position]
			runs = append(runs, long)
		}
		for _, given := range runs {
			e := interp.New(given)
			for i, v := range f.rotary {
				t, err := f.angles(e, v, l, at)
				if err != nil {
					return err
				}
				for j, x := range t.F[:half] {
					if float32(x) != tables[i][int(p)*half+j] {
						return fmt.Errorf("the rotary embedding of position %d changes with the length of the sequence", p)
					}
				}
			}
		}
	}
	return nil
}
