package quantize

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Smoothing says how the channels of one tensor of activations were evened out.
type Smoothing struct {
	Input   string   `json:"input"`   // the activations
	Tensors []string `json:"tensors"` // the weights that they are multiplied with
	// Into is what took the inverse: norm, values or product. Empty: there was no such place, or no gain.
	Into  string  `json:"into,omitempty"`
	Alpha float64 `json:"alpha"` // 0 where nothing was done
	// The signal-to-noise ratio that is expected of the products in the precision asked for, in decibels,
	// as the model was and as it is now. 0: there is no noise, or no signal.
	Before float64 `json:"before_db"`
	After  float64 `json:"after_db"`
}

// Expected is, by name of the weight, the ratio of signal to noise that is expected of its products, for
// Int8Options.
func Expected(all []Smoothing) map[string]float64 {
	expected := map[string]float64{}
	for _, s := range all {
		for _, t := range s.Tensors {
			if s.Before != 0 {
				expected[t] = s.After
			}
		}
	}
	return expected
}

// SmoothOptions say for which precision activations are evened out, and how. The zero value is SmoothQuant
// for the precision of Options, with alpha searched.
type SmoothOptions struct {
	// Options are those of the quantisation to come. Of StaticInt8 the ranges may still be missing.
	Options Options
	// Alpha is how much of the difficulty moves from activations to weights, 0 to 1. Default (nil):
	// searched for each tensor of activations.
	Alpha *float64
	// Off leaves the model as it is; what is found then serves to look at it.
	Off bool
	// Range is how the ranges of static INT8 are found. Default: RangeMinMax.
	Range RangeMethod
	// SymmetricRange centres the ranges of static INT8 on 0.
	SymmetricRange bool
}

// Smoother evens out activation channels of very different magnitude, which 8 bits with one scale cannot
// hold, without changing the function (Xiao et al., SmoothQuant, 2022, arXiv:2211.10438): channel j of a
// product's input is divided by
//
//	s_j = max|x_j|^α / max|w_j|^(1-α)
//
// and input channel j of its weights multiplied by it. The division goes into the norm that gives the
// input; for the output projection into the weights that give V, and for the down projection into those
// of the up projection.
//
// It is given what calibration sees, one product's input after the other (Add), and then changes the
// model (Fold). The α that is chosen has the smallest expected error of the product in closed form,
// errors of rounding taken as independent and evenly spread: the step of the activations through the
// weights, and the steps of the weights times the activations' energy. Some outputs of each weight,
// evenly spread, stand for all.
type Smoother struct {
	options     SmoothOptions
	folder      *folder
	groups      []*group
	byName      map[string]*group
	activations map[string]Activation
	rows        int64 // of each weight that stand for all
}

// group is a tensor of activations and the products that read it.
type group struct {
	fold                // weights and, where x can be scaled, how
	movable   bool      // x can be scaled
	factors   []float32 // of the scales; nil: none
	result    Smoothing
	done      bool
	precision noisePrecision
}

// NewSmoother finds the products of m. It reads no weight.
func NewSmoother(m *ir.Model, o SmoothOptions) (*Smoother, error) {
	set, err := o.Options.resolve()
	if err != nil {
		return nil, err
	}
	if o.Range, err = ParseRangeMethod(string(cmp.Or(o.Range, RangeMinMax))); err != nil {
		return nil, err
	}
	if a := o.Alpha; a != nil && !(*a >= 0 && *a <= 1) {
		return nil, fmt.Errorf("quantize: alpha %v: it must be 0 to 1", *a)
	}
	plan, err := newPlan(m, set)
	if err != nil {
		return nil, err
	}
	s := &Smoother{options: o, folder: newFolder(plan), byName: map[string]*group{}, activations: map[string]Activation{}, rows: searchRows}
	s.find()
	return s, nil
}

// find lists the inputs of products. Those of tables that are looked up too are left out: they cannot be
// scaled, and stay in blocks.
func (s *Smoother) find() {
	for _, site := range s.folder.plan.sites {
		if site.node.Is("", "Gather") || site.w.lookup {
			continue
		}
		x := site.node.Input(0)
		g := s.byName[x.Name]
		if g == nil {
			g = &group{fold: fold{x: x}, result: Smoothing{Input: x.Name}, precision: s.folder.plan.noisePrecision(site)}
			s.byName[x.Name] = g
			s.groups = append(s.groups, g)
		}
		if !slices.Contains(g.weights, site.w) {
			g.weights = append(g.weights, site.w)
			g.result.Tensors = append(g.result.Tensors, site.w.name)
		}
	}
	for _, f := range s.folder.folds() {
		if g := s.byName[f.x.Name]; g != nil {
			g.fold, g.movable = f, true
		}
	}
}

// Inputs are the products' inputs, in graph order: what Add wants to know of.
func (s *Smoother) Inputs() []*ir.Value {
	all := make([]*ir.Value, len(s.groups))
	for i, g := range s.groups {
		all[i] = g.x
	}
	return all
}

// WantsTokens reports whether Add needs some of the activations themselves.
func (s *Smoother) WantsTokens() bool { return s.static() && s.options.Range.wantsTokens() }

func (s *Smoother) static() bool { return s.options.Options.Precision == StaticInt8 }

// Add takes what calibration saw of one of Inputs, by its name. It is not kept.
func (s *Smoother) Add(input string, o *Observation) error {
	g := s.byName[input]
	if g == nil {
		return fmt.Errorf("quantize: %s is no input of a product", input)
	}
	if err := o.check(g.k()); err != nil {
		return fmt.Errorf("quantize: activations %s: %w", input, err)
	}
	if err := s.search(g, o); err != nil {
		return err
	}
	if s.static() {
		var factors []float32
		if g.factors != nil {
			factors = spread(g.fold, g.factors)
		}
		s.activations[input] = o.activation(s.options.Range, s.options.SymmetricRange, factors)
	}
	g.done = true
	return nil
}

// k is the number of channels.
func (g *group) k() int64 { return g.weights[0].k() }

// spread gives each channel its scale.
func spread[T any](f fold, scales []T) []T {
	all := make([]T, len(f.share))
	for i, at := range f.share {
		all[i] = scales[at]
	}
	return all
}

// Fold changes the model; plans made for it before are of no use any more. It reports on all inputs that
// were added, in graph order.
func (s *Smoother) Fold() ([]Smoothing, error) {
	var all []Smoothing
	for _, g := range s.groups {
		if g.factors != nil {
			s.folder.scale(g.fold, g.factors)
		}
		if g.done {
			all = append(all, g.result)
		}
	}
	return all, s.folder.commit()
}

// Activations are, for StaticInt8, the ranges of the inputs that were added, by name.
func (s *Smoother) Activations() map[string]Activation { return s.activations }

// search finds the factors of a group.
func (s *Smoother) search(g *group, x *Observation) error {
	fit, judge := x.halves()
	if g.precision.integers == StaticInt8 { // the one range is to hold all that was seen
		fit, judge = x.Extremes, []Extremes{x.Extremes}
	}
	e, err := newNoise(g, x.MeanSquare, judge, s.rows)
	if err != nil {
		return err
	}
	plain, signal := e.of(slices.Repeat([]float64{1}, int(g.k()))), e.signal()
	g.result.Before = decibels(signal, plain)
	g.result.After = g.result.Before
	if s.options.Off || !g.movable {
		return nil
	}
	tried := alphas(s.options.Alpha)
	noises := make([]float64, len(tried))
	parallel(len(tried), 1, func(i, _ int) {
		noises[i] = e.of(spread(g.fold, smoothFactors(g.fold, tried[i], fit, e.largest)))
	})
	best := slices.Index(noises, slices.Min(noises))
	if s.options.Alpha == nil && !(noises[best] < plain) {
		return nil
	}
	g.result.Into, g.result.Alpha, g.result.After = string(g.kind), tried[best], decibels(signal, noises[best])
	g.factors = make([]float32, g.scales)
	for i, f := range smoothFactors(g.fold, tried[best], x.Extremes, e.largest) {
		g.factors[i] = float32(f)
	}
	return nil
}

// alphas are those that are tried.
func alphas(given *float64) []float64 {
	if given != nil {
		return []float64{*given}
	}
	const steps = 20
	all := make([]float64, steps+1)
	for i := range all {
		all[i] = float64(i) / steps
	}
	return all
}

// maxFactor bounds how far a channel is moved from the middle of all: far beyond what helps, and far
// from the limits of float32.
const maxFactor = 1 << 14

// smoothFactors are SmoothQuant's, around 1. Channels that are always 0 keep their size; those that no
// weight reads are made as small as may be.
func smoothFactors(f fold, alpha float64, seen Extremes, weights []float64) []float64 {
	x, w := make([]float64, f.scales), make([]float64, f.scales)
	for i, at := range f.share {
		x[at] = max(x[at], float64(seen.Max[i]), -float64(seen.Min[i]))
		w[at] = max(w[at], weights[i])
	}
	logs := make([]float64, f.scales)
	sum, n := 0.0, 0
	for i := range logs {
		if x[i] > 0 && w[i] > 0 {
			logs[i] = alpha*math.Log(x[i]) - (1-alpha)*math.Log(w[i])
			sum += logs[i]
			n++
		}
	}
	mean := sum / max(1, float64(n))
	s := make([]float64, f.scales)
	for i := range s {
		switch {
		case x[i] == 0:
			s[i] = 1
		case w[i] == 0:
			s[i] = maxFactor
		default:
			s[i] = min(max(math.Exp(logs[i]-mean), 1.0/maxFactor), maxFactor)
		}
	}
	return s
}

func decibels(signal, noise float64) float64 {
	if signal <= 0 || noise <= 0 {
		return 0
	}
	return 10 * math.Log10(signal/noise)
}
