package quantize

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// ErrBudget is reported for a mean number of bits that no choice of formats can reach.
var ErrBudget = errors.New("too few bits a weight")

// Budget says how many bits a model may take, and what they may be spent on.
type Budget struct {
	// Bits is the mean number of bits a weight, as Report.BitsPerWeight counts.
	Bits float64
	// Formats are the candidates. Default: CandidateFormats.
	Formats []Format
	// Effect measures what rounding does to the model. Default: a guess from the weights alone, the
	// relative error of the product: noise over signal of the weights.
	Effect Effect
}

// CandidateFormats are the formats that Allocate chooses from by default: INT4 in blocks of 128, 64, 32 and 16,
// and INT8 in blocks of 128 and 32, without zero points; and the same in INT4 with them, unless symmetric.
func CandidateFormats(symmetric bool) []Format {
	var all []Format
	for _, block := range []int{128, 64, 32, 16} {
		all = append(all, Format{4, block, true})
		if !symmetric {
			all = append(all, Format{4, block, false})
		}
	}
	return append(all, Format{8, 128, true}, Format{8, 32, true})
}

// Effect measures what it does to a model's predictions to round one tensor: for each probe, a number in
// proportion to the harm, such as the KL divergence of predictions from those of m. It gives as many numbers as there
// are probes. It may run the model, must leave m as it is, and takes one probe at a time: each needs memory of its
// own.
type Effect func(ctx context.Context, m *ir.Model, probes []Probe) ([]float64, error)

// Probe is a tensor to be rounded, all others staying as they are.
type Probe struct {
	Tensor string // name of the initializer
	Format Format
	// Rounded has the initializer's shape and type. It is computed when it is first read, and then kept.
	Rounded func() (*ir.Tensor, error)
}

// Allocation is how a budget is spent.
type Allocation struct {
	// Rules go behind those of the options, and settle the format of every weight that those leave open.
	Rules []Rule
	// Weights that the rules are about, in the order in which the graph reads them.
	Weights []Allocated
	Bits    float64 // mean, of the whole model
	Effect  float64 // sum over Weights
}

// Allocated is what one weight gets, and why.
type Allocated struct {
	Tensor string
	Format Format
	// Effect is that of the weight in this format: measured in one format, and from there in proportion to the mean
	// squared error. KL divergence is so, to second order, and that of several weights adds up.
	Effect float64
}

// Allocate chooses a format for each weight that no rule in o gives one, so that the model takes at most b.Bits a
// weight and what is lost is least: it spends the next bits where they take away most of the effect, per bit. Errors: those of
// NewPlan, ErrBudget.
func Allocate(ctx context.Context, m *ir.Model, o Options, b Budget) (*Allocation, error) {
	plan, err := NewPlan(m, o)
	if err != nil {
		return nil, err
	}
	a := allocator{plan: plan, formats: b.Formats}
	if len(a.formats) == 0 {
		a.formats = CandidateFormats(o.Symmetric)
	}
	if err := a.check(b); err != nil {
		return nil, fmt.Errorf("quantize: %w", err)
	}
	if err := a.find(); err != nil {
		return nil, err
	}
	if err := a.afford(b.Bits); err != nil {
		return nil, fmt.Errorf("quantize: %w", err)
	}
	if err := a.measure(ctx, m, b.Effect); err != nil {
		return nil, err
	}
	a.spend(b.Bits)
	return a.result(), nil
}

// allocator chooses formats.
type allocator struct {
	plan    *Plan
	formats []Format
	items   []*item
	fixed   int64 // bytes of all that is settled
}

// item is a weight whose format is open.
type item struct {
	w       *weight
	options []option // by size, each with less effect than the one before
	at      int      // the one chosen
}

// option is a format for a weight.
type option struct {
	format Format
	bytes  int64
	effect float64
}

func (a *allocator) check(b Budget) error {
	var faults []error
	if !(b.Bits > 0) || math.IsInf(b.Bits, 0) {
		faults = append(faults, fmt.Errorf("%v bits a weight: want a positive number", b.Bits))
	}
	for _, f := range a.formats {
		for _, err := range f.faults() {
			faults = append(faults, fmt.Errorf("candidate: %w", err))
		}
	}
	if len(faults) > 0 {
		return oneLine{faults}
	}
	return nil
}

// find lists the open weights.
func (a *allocator) find() error {
	p := a.plan
	a.fixed = p.before.bytes
	counted := map[*ir.Tensor]bool{}
	for _, w := range p.weights {
		if !counted[w.root] {
			counted[w.root] = true
			a.fixed -= w.before
		}
		if w.p == nil { // a scale for each output, and no format to choose
			return fmt.Errorf("quantize: %s is not in blocks: bits can be spent on INT4 and INT8 blocks alone", w.name)
		}
		if w.chosen {
			a.fixed += w.bytes(w.format)
			continue
		}
		a.items = append(a.items, &item{w: w})
	}
	if len(a.items) == 0 {
		return errors.New("quantize: rules settle the format of every weight: there is nothing to spend bits on")
	}
	return nil
}

// afford reports whether every item can have at least its smallest format. It is asked before anything is measured,
// which takes time.
func (a *allocator) afford(bits float64) error {
	least := a.fixed
	for _, it := range a.items {
		smallest := it.w.bytes(a.formats[0])
		for _, f := range a.formats[1:] {
			smallest = min(smallest, it.w.bytes(f))
		}
		least += smallest
	}
	if least > a.budget(bits) {
		return fmt.Errorf("%w: %.4g; the least that the formats reach is %.4g", ErrBudget, bits, float64(8*least)/float64(a.plan.before.weights))
	}
	return nil
}

// budget is what may be spent, in bytes.
func (a *allocator) budget(bits float64) int64 {
	return int64(bits * float64(a.plan.before.weights) / 8)
}

// measure finds what each format does to the items.
func (a *allocator) measure(ctx context.Context, m *ir.Model, effect Effect) error {
	coarsest := slices.MinFunc(a.formats, func(x, y Format) int { return cmp.Compare(bitsOf(x), bitsOf(y)) })
	probes := make([]Probe, len(a.items))
	for i, it := range a.items {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("quantize: %w", err)
		}
		if err := it.measure(a.formats); err != nil {
			return err
		}
		probes[i] = it.w.probe(coarsest)
	}
	if effect == nil {
		return nil
	}
	effects, err := effect(ctx, m, probes)
	if err != nil {
		return err
	}
	if len(effects) != len(probes) {
		return fmt.Errorf("quantize: %d effects of %d probes", len(effects), len(probes))
	}
	for i, it := range a.items {
		if err := it.scale(coarsest, effects[i]); err != nil {
			return err
		}
	}
	return nil
}

// bitsOf is the size of a weight in blocks that are full, with scales in float32.
func bitsOf(f Format) float64 {
	bits := float64(f.Bits) + 32/float64(f.BlockSize)
	if !f.Symmetric {
		bits += float64(f.Bits) / float64(f.BlockSize)
	}
	return bits
}

// measure fills in the options of an item, with relative errors as effects.
func (it *item) measure(formats []Format) error {
	for _, f := range formats {
		noise, err := it.w.noise(f)
		if err != nil {
			return err
		}
		it.options = append(it.options, option{f, it.w.bytes(f), noise})
	}
	return nil
}

// scale makes effects out of errors, given the effect of one format.
func (it *item) scale(at Format, effect float64) error {
	if math.IsNaN(effect) || math.IsInf(effect, 0) {
		return fmt.Errorf("quantize: the effect of %s is %v", it.w.name, effect)
	}
	i := slices.IndexFunc(it.options, func(o option) bool { return o.format == at })
	noise := it.options[i].effect
	for j := range it.options {
		if noise > 0 {
			it.options[j].effect *= max(effect, 0) / noise
		}
	}
	return nil
}

// noise is the mean squared error of w in a format, over its mean square, on a part of its rows.
func (w *weight) noise(f Format) (float64, error) {
	const tiles = 8 // of rows, evenly spread
	p := newProducer(w.name, w.p.source, form{w.method, w.scale, f}, w.scales)
	p.rows, p.stride = rowTile, 1
	p.errors = make([]errorSums, p.Shards())
	nowhere := make([]io.WriterAt, outputs)
	for i := range nowhere {
		nowhere[i] = discard{}
	}
	var sum errorSums
	shards := p.Shards()
	for i := range min(tiles, shards) {
		s := i * shards / min(tiles, shards)
		if err := p.Produce(s, nowhere); err != nil {
			return 0, err
		}
		sum.signal += p.errors[s].signal
		sum.noise += p.errors[s].noise
	}
	if sum.signal == 0 {
		return 0, nil
	}
	return sum.noise / sum.signal, nil
}

// discard takes what is computed for its error alone.
type discard struct{}

func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

// probe is w rounded to a format.
func (w *weight) probe(f Format) Probe {
	return Probe{w.name, f, func() (*ir.Tensor, error) {
		p := newProducer(w.name, w.p.source, form{w.method, w.scale, f}, w.scales)
		t, err := p.rounded()
		if err != nil {
			return nil, err
		}
		if w.turned {
			if t, err = ir.Transpose(t); err != nil {
				return nil, err
			}
		}
		return ir.Cast(t, w.root.DType)
	}}
}

// step is to give an item its next option.
type step struct {
	item  int
	gain  float64 // effect that it takes away, per byte
	bytes int64
}

// spend chooses options. Of each item only those on the lower convex hull of effect over size are looked at: along it
// each byte gains less than the one before, so that taking the best step of all, again and again, is the best choice
// for every budget that a step ends at.
func (a *allocator) spend(bits float64) {
	left := a.budget(bits) - a.fixed
	var steps []step
	for i, it := range a.items {
		it.options = hull(it.options)
		left -= it.options[0].bytes
		for j := 1; j < len(it.options); j++ {
			from, to := it.options[j-1], it.options[j]
			steps = append(steps, step{i, (from.effect - to.effect) / float64(to.bytes-from.bytes), to.bytes - from.bytes})
		}
	}
	slices.SortStableFunc(steps, func(x, y step) int { return cmp.Compare(y.gain, x.gain) })
	full := make([]bool, len(a.items)) // the next step is too large; so are those behind it
	for _, s := range steps {
		switch {
		case full[s.item]:
		case s.bytes > left:
			full[s.item] = true
		default:
			left -= s.bytes
			a.items[s.item].at++
		}
	}
}

// hull keeps the options on the lower convex hull of effect over size, by size.
func hull(options []option) []option {
	all := slices.Clone(options)
	slices.SortStableFunc(all, func(x, y option) int {
		return cmp.Or(cmp.Compare(x.bytes, y.bytes), cmp.Compare(x.effect, y.effect))
	})
	var keep []option
	for _, o := range all {
		if len(keep) > 0 && o.effect >= keep[len(keep)-1].effect {
			continue // larger, and no better
		}
		for len(keep) > 1 && slope(keep[len(keep)-2], keep[len(keep)-1]) <= slope(keep[len(keep)-2], o) {
			keep = keep[:len(keep)-1]
		}
		keep = append(keep, o)
	}
	return keep
}

// slope is how much effect a byte takes away between two options.
func slope(from, to option) float64 {
	return (from.effect - to.effect) / float64(to.bytes-from.bytes)
}

func (a *allocator) result() *Allocation {
	r := new(Allocation)
	bytes := a.fixed
	forms := map[string]int{} // of one tensor
	for _, w := range a.plan.weights {
		forms[w.name]++
	}
	for _, it := range a.items {
		o := it.options[it.at]
		bytes += o.bytes
		r.Effect += o.effect
		r.Weights = append(r.Weights, Allocated{it.w.name, o.format, o.effect})
		names := []string{it.w.name}
		if forms[it.w.name] > 1 { // the other form is not to be touched
			names = a.nodes(it.w)
		}
		for _, name := range names {
			r.Rules = append(r.Rules, Rule{
				Match: literal(name), Precision: precision(o.format.Bits), BlockSize: o.format.BlockSize, Symmetric: new(o.format.Symmetric),
			})
		}
	}
	r.Bits = float64(8*bytes) / float64(a.plan.before.weights)
	return r
}

// nodes are the names of the nodes that read w.
func (a *allocator) nodes(w *weight) []string {
	var names []string
	for _, s := range a.plan.sites {
		if s.w == w {
			names = append(names, s.node.Name)
		}
	}
	return names
}

func precision(bits int) Precision {
	if bits == 8 {
		return Int8
	}
	return Int4
}
