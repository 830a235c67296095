// Package sample gives the inputs of a decoder with a KV cache at chosen lengths, so that parts of
// its graph can be evaluated.
//
//	in := sample.Find(graph)
//	e := interp.New(in.Given(sample.Lengths{Batch: 1, Sequence: 4, Past: 2}))
//
// Inputs are known by the names that exporters agree on: input_ids [B,S], attention_mask [B,P+S],
// position_ids [B,S] and a past of four dimensions [B,H,P,D], heads H and size D fixed, for each layer's
// keys and values. The
// package knows nothing of what lies between inputs and outputs.
package sample

import (
	"github.com/qwenrt/qwenrt/graphopt/internal/interp"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Inputs are the inputs of a graph by the parts they play; nil where there is none.
type Inputs struct {
	IDs, Mask, Position *ir.Value
	Past                []*ir.Value // of all layers, keys and values

	all []*ir.Value
}

// Find looks up the inputs of a graph.
func Find(g *ir.Graph) *Inputs {
	in := &Inputs{all: g.Inputs()}
	for _, v := range in.all {
		rank := 0
		if v.Type != nil {
			rank = len(v.Type.Shape)
		}
		switch {
		case v.Name == "input_ids" && rank == 2:
			in.IDs = v
		case v.Name == "attention_mask" && rank == 2:
			in.Mask = v
		case v.Name == "position_ids" && rank == 2:
			in.Position = v
		case rank == 4 && v.Const == nil && v.Type.DType.Float() && v.Type.Shape[1].Size > 0 && v.Type.Shape[3].Size > 0:
			in.Past = append(in.Past, v)
		}
	}
	return in
}

// Lengths are the sizes of one run: Sequence new tokens behind Past tokens in the cache, in each of
// Batch rows.
type Lengths struct{ Batch, Sequence, Past int64 }

// Total is the number of tokens of a row after the run.
func (l Lengths) Total() int64 { return l.Sequence + l.Past }

// maxTokens bounds the tokens of a run: files may claim any lengths.
const maxTokens = 1 << 20

// Fit replaces those of the lengths that the graph has fixed. Lengths on which nothing could be computed are
// left as they were asked for; the graph then fails on them, as it would on any.
func (in *Inputs) Fit(asked Lengths) Lengths {
	l := in.fit(asked)
	if l.Batch < 1 || l.Sequence < 1 || l.Past < 0 || l.Batch > maxTokens || l.Sequence > maxTokens || l.Past > maxTokens {
		return asked
	}
	if l.Batch*l.Total() > maxTokens {
		return asked
	}
	return l
}

func (in *Inputs) fit(l Lengths) Lengths {
	fixed := func(length *int64, v *ir.Value, axis int) bool {
		if v == nil || v.Type.Shape[axis].Size < 0 {
			return false
		}
		*length = v.Type.Shape[axis].Size
		return true
	}
	var past *ir.Value
	if len(in.Past) > 0 {
		past = in.Past[0]
	}
	_ = fixed(&l.Batch, in.IDs, 0) || fixed(&l.Batch, in.Mask, 0) || fixed(&l.Batch, in.Position, 0) || fixed(&l.Batch, past, 0)
	sequence := fixed(&l.Sequence, in.IDs, 1) || fixed(&l.Sequence, in.Position, 1)
	before := fixed(&l.Past, past, 2)
	if total := int64(0); fixed(&total, in.Mask, 1) {
		switch {
		case !before:
			l.Past = max(total-l.Sequence, 0)
		case !sequence:
			l.Sequence = max(total-l.Past, 1)
		}
	}
	return l
}

// Given are the inputs for one run without padding: positions count on from the past. What tokens and
// caches hold is left open, so that nothing can be concluded from it; so are inputs that play
// none of the parts, whose free dimensions are told apart by their names.
func (in *Inputs) Given(l Lengths) map[*ir.Value]*interp.Tensor {
	m := make(map[*ir.Value]*interp.Tensor, len(in.all))
	sizes := in.sizes(l)
	free := int64(1009) // far from any length
	for _, v := range in.all {
		if v.Type == nil || !v.Type.HasShape() {
			continue
		}
		shape := make([]int64, len(v.Type.Shape))
		for i, d := range v.Type.Shape {
			size, ok := sizes[d.Param]
			switch {
			case d.Size >= 0:
				shape[i] = d.Size
			case ok:
				shape[i] = size
			default:
				free += 2 * (l.Batch + l.Sequence)
				shape[i] = free
				if d.Param != "" {
					sizes[d.Param] = free
				}
			}
		}
		m[v] = interp.ShapeOnly(v.Type.DType, shape...)
	}
	if in.IDs != nil {
		m[in.IDs] = interp.ShapeOnly(in.IDs.Type.DType, l.Batch, l.Sequence)
	}
	if in.Mask != nil {
		m[in.Mask] = rows(in.Mask, l.Batch, l.Total(), func(int64) int64 { return 1 })
	}
	if in.Position != nil {
		m[in.Position] = rows(in.Position, l.Batch, l.Sequence, func(i int64) int64 { return l.Past + i })
	}
	for _, p := range in.Past {
		m[p].Shape[0], m[p].Shape[2] = l.Batch, l.Past
	}
	return m
}

// sizes gives the dimension names of the known inputs their sizes.
func (in *Inputs) sizes(l Lengths) map[string]int64 {
	m := map[string]int64{}
	name := func(v *ir.Value, dims ...int64) {
		if v == nil {
			return
		}
		for i, d := range v.Type.Shape {
			if d.Param != "" && dims[i] >= 0 {
				m[d.Param] = dims[i]
			}
		}
	}
	for _, p := range in.Past {
		name(p, l.Batch, -1, l.Past, -1)
	}
	name(in.Mask, l.Batch, l.Total())
	name(in.Position, l.Batch, l.Sequence)
	name(in.IDs, l.Batch, l.Sequence)
	return m
}

func rows(v *ir.Value, batch, n int64, at func(i int64) int64) *interp.Tensor {
	t := &interp.Tensor{DType: v.Type.DType, Shape: []int64{batch, n}, I: make([]int64, batch*n)}
	for i := range t.I {
		t.I[i] = at(int64(i) % n)
	}
	return t
}
