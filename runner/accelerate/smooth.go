package accelerate

import (
	"cmp"
	"context"
	"strconv"
	"strings"

	"github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/models/folder"
	"github.com/qwenrt/qwenrt/quantize"
	"github.com/qwenrt/qwenrt/quantize/calib"
)

// SmoothQuant says whether activation channels are evened out before weights are quantised: one of the values below,
// or an alpha from 0 to 1 for all activations, see quantize.Smoother. Default: SmoothAuto where products are
// computed in integers; SmoothWeights for block formats, and SmoothOff for methods that rescale themselves.
type SmoothQuant string

// The values that are no numbers.
const (
	SmoothAuto    SmoothQuant = "auto"    // by activations on calibration text, with alpha searched
	SmoothWeights SmoothQuant = "weights" // by weights alone, where they show outliers, see quantize.Equalize
	SmoothOff     SmoothQuant = "off"
)

// DefaultLeastSNR is the ratio of signal to noise, in decibels, below which a product is not computed in integers.
// Those of qwen3-tiny have 24 to 40 once they are smoothed; without, its twin with outliers has -5 to 18 and predicts
// another token at every fourth position.
const DefaultLeastSNR = 18

// alpha is the number; nil where it is none.
func (s SmoothQuant) alpha() *float64 {
	a, err := strconv.ParseFloat(string(s), 64)
	if err != nil {
		return nil
	}
	return &a
}

// Integers is what precisions whose products are computed in integers take beside. The zero value is the default.
type Integers struct {
	// Weights is the range of their levels. Default: quantize.SignedInt8.
	Weights quantize.Int8Weights `yaml:"weights"`
	// LeastSNR is the ratio of signal to noise in decibels that is expected of a product in integers, at least; weights of
	// those that have less are stored in blocks of 8 bits. 0 is no limit. Default (nil): DefaultLeastSNR; without
	// smoothing none.
	LeastSNR *float64 `yaml:"least_snr"`
	// Range is how StaticInt8 finds the ranges of activations. Default: quantize.RangeMinMax.
	Range quantize.RangeMethod `yaml:"range"`
	// SymmetricRange centres them on 0.
	SymmetricRange bool `yaml:"symmetric_range"`
}

// integer reports whether products are computed in integers.
func (s settings) integer() bool { return s.Precision == DynamicInt8 || s.Precision == StaticInt8 }

// observes reports whether activations are to be seen before weights are quantised: to even them out, for their ranges,
// or for the noise of products in integers.
func (s settings) observes() bool {
	off := s.SmoothQuant == SmoothOff || s.SmoothQuant == SmoothWeights
	return !off || s.Precision == StaticInt8 || s.LeastSNR != 0
}

// resolveSmoothing fills in the defaults and reports what does not go together.
func (s *settings) resolveSmoothing(c Config, fault func(string, ...any)) {
	s.SmoothQuant = SmoothQuant(strings.ToLower(string(c.SmoothQuant)))
	switch {
	case s.SmoothQuant != "":
	case s.Precision == None, s.Method.Rescales():
		s.SmoothQuant = SmoothOff
	case s.integer():
		s.SmoothQuant = SmoothAuto
	default:
		s.SmoothQuant = SmoothWeights
	}
	switch s.SmoothQuant {
	case SmoothAuto, SmoothWeights, SmoothOff:
	default:
		if a := s.SmoothQuant.alpha(); a == nil || !(*a >= 0 && *a <= 1) {
			fault("smoothquant %q: want auto, weights, off, or an alpha from 0 to 1", string(s.SmoothQuant))
		}
	}
	if s.Precision == None && s.SmoothQuant != SmoothOff {
		fault("precision none has nothing to smooth")
	}
	if s.integer() {
		s.resolveIntegers(c.Integers, fault)
	} else if c.Integers != (Integers{}) {
		fault("precision %s computes no products in integers: leave out what is said about those", s.Precision)
	}
}

func (s *settings) resolveIntegers(c Integers, fault func(string, ...any)) {
	if s.DType != FP32 || s.Target != graphopt.CPU {
		fault("precision %s is for dtype fp32 and target cpu", s.Precision)
	}
	s.Int8Weights = quantize.Int8Weights(strings.ToLower(string(cmp.Or(c.Weights, quantize.SignedInt8))))
	if s.SmoothQuant != SmoothOff {
		s.LeastSNR = DefaultLeastSNR
	}
	if c.LeastSNR != nil {
		s.LeastSNR = *c.LeastSNR
	}
	if s.LeastSNR-s.LeastSNR != 0 {
		fault("least signal to noise %v: want decibels", s.LeastSNR)
	}
	if s.Precision != StaticInt8 {
		if c.Range != "" || c.SymmetricRange {
			fault("precision %s finds ranges while the model runs: they are calibrated for %s", s.Precision, StaticInt8)
		}
		return
	}
	var err error
	if s.Range, err = quantize.ParseRangeMethod(string(cmp.Or(c.Range, quantize.RangeMinMax))); err != nil {
		fault("%s", strings.TrimPrefix(err.Error(), "quantize: "))
	}
	s.SymmetricRange = c.SymmetricRange
}

// smooth makes the model fit for its precision, and finds out what products in integers need to know of activations.
func (w *work) smooth(ctx context.Context, o *quantize.Options) error {
	s := w.set
	options := quantize.SmoothOptions{
		Options: *o, Alpha: s.SmoothQuant.alpha(), Off: s.SmoothQuant == SmoothOff, Range: s.Range, SymmetricRange: s.SymmetricRange,
	}
	if s.SmoothQuant == SmoothWeights {
		changed, err := quantize.Equalize(ctx, w.model, options)
		if err != nil {
			return err
		}
		w.report.Smoothing, options.Off = changed, true
	}
	if !s.observes() {
		return nil
	}
	smoother, err := quantize.NewSmoother(w.model, options)
	if err != nil {
		return err
	}
	if err := w.observe(ctx, smoother); err != nil {
		return err
	}
	found, err := smoother.Fold()
	if err != nil {
		return err
	}
	w.report.Smoothing = append(w.report.Smoothing, found...)
	o.Int8.Activations = smoother.Activations()
	o.Int8.Expected, o.Int8.LeastSNR = quantize.Expected(found), s.LeastSNR
	return nil
}

func (w *work) observe(ctx context.Context, s *quantize.Smoother) error {
	c := w.set.Calibration
	defer func() { w.set.Calibration = c }()
	if c.Samples == 0 {
		w.set.Calibration.Samples = calib.SmoothSamples
	}
	samples, err := w.samples(ctx)
	if err != nil {
		return err
	}
	return calib.Smooth(ctx, w.model, s, samples, calib.Options{
		Dir: w.stage.Dir(), Statistics: c.Statistics,
		Progress: func(p calib.Progress) {
			w.events.tensor(TensorProgress{Phase: Phase(p.Phase), Tensor: p.Tensor, Done: p.Done, Total: p.Total})
		},
	})
}

// smoothOptions adds the settings of this file to those that the manifest records.
func (s settings) smoothOptions(o map[string]string) {
	o["smoothquant"] = string(s.SmoothQuant)
	if s.integer() {
		o["int8_weights"] = string(s.Int8Weights)
		o["least_snr_db"] = strconv.FormatFloat(s.LeastSNR, 'g', -1, 64)
	}
	if s.Precision == StaticInt8 {
		o["range"], o["symmetric_range"] = string(s.Range), strconv.FormatBool(s.SymmetricRange)
	}
}

// recordSmoothing writes down what was evened out.
func (w *work) recordSmoothing() {
	for _, s := range w.report.Smoothing {
		if s.Into != "" {
			w.manifest.Smoothing = append(w.manifest.Smoothing, folder.Smoothing{
				Input: s.Input, Into: s.Into, Alpha: digits(s.Alpha), Before: digits(s.Before), After: digits(s.After),
			})
		}
	}
}
