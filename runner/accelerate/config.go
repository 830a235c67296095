package accelerate

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/kernels"
	"github.com/qwenrt/qwenrt/graphopt/passes"
	"github.com/qwenrt/qwenrt/quantize"
)

// Precision is what weights are stored in.
type Precision string

// The precisions. Int4 and Int8 are weight-only block formats: activations keep their type. In the others products are
// computed in 8-bit integers, and embedding and head are stored as Int8.
const (
	None        Precision = "none" // the type of the export
	Int4                  = Precision(quantize.Int4)
	Int8                  = Precision(quantize.Int8)
	DynamicInt8           = Precision(quantize.DynamicInt8) // activations are rounded while the model runs
)

// Precisions lists what ParsePrecision takes.
func Precisions() []Precision { return []Precision{None, Int4, Int8, DynamicInt8} }

// ParsePrecision reads a precision as a user writes it, with hyphens or underscores.
func ParsePrecision(s string) (Precision, error) {
	p := Precision(strings.ReplaceAll(strings.ToLower(s), "_", "-"))
	if !slices.Contains(Precisions(), p) {
		return "", fmt.Errorf("accelerate: precision %q: want %s", s, precisionNames())
	}
	return p, nil
}

// precisionNames are those of Precisions, for a message.
func precisionNames() string {
	var names []string
	for _, p := range Precisions() {
		names = append(names, string(p))
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

// DType is the type of activations, KV cache and weights that are not quantised.
type DType string

// The types that a checkpoint is exported in.
const (
	FP32 DType = "fp32"
	FP16 DType = "fp16"
	BF16 DType = "bf16"
)

// What a zero Config stands for: what ONNX Runtime's CPU kernels run fastest at the usual quality of
// INT4. Blocks of 32 are also onnxruntime-genai's default; zero points would cost an eighth of a bit
// a weight.
const (
	DefaultPrecision = Int4
	DefaultMethod    = quantize.RTN
	DefaultScale     = quantize.ScaleMSE
	DefaultBlockSize = 32
	IntegerBlockSize = 128 // a quarter of fp32, and little more
	DefaultSymmetric = true
	DefaultAccuracy  = 4
	DefaultDType     = FP32
	DefaultTarget    = graphopt.CPU
)

// Config says what to build. The zero value is what runs best on a CPU.
type Config struct {
	// Precision of the weights. Default: DefaultPrecision.
	Precision Precision
	// Method by which block formats are found, and Scale that of RTN. Default: DefaultMethod, DefaultScale.
	Method quantize.Method
	Scale  quantize.Scale
	// BlockSize is how many weights share a scale: 16, 32, 64, 128 or 256. Default: DefaultBlockSize; for embedding and
	// head beside products in integers, IntegerBlockSize.
	BlockSize int
	// Symmetric leaves zero points out. Default (nil): DefaultSymmetric.
	Symmetric *bool
	// HalfScales stores scales in float16, see quantize.Options.
	HalfScales bool
	// AccuracyLevel is the type in which products are computed, see quantize.Options. Default: DefaultAccuracy.
	AccuracyLevel int
	// Rules change the above for some weights, see quantize.Rule.
	Rules []quantize.Rule
	// TargetBits, if positive, is the mean number of bits a weight: formats of the weights that no rule gives one are
	// chosen by their effect on the model, see quantize.Allocate. Precision is then Int4. Candidates have zero points where
	// Symmetric does not say otherwise.
	TargetBits float64
	// Calibration is the text for methods that need one, and for TargetBits.
	Calibration Calibration
	// Int8Weights is the range of levels of weights whose products are computed in integers. Default:
	// quantize.SignedInt8.
	Int8Weights quantize.Int8Weights
	// DType of weights, activations and KV cache: what Export and Build export, and what Optimize
	// converts to. Default: DefaultDType; a graph that is optimised stays as it is.
	DType DType
	// Target is the execution provider for which the graph is optimised. Default: DefaultTarget.
	Target graphopt.Target
	// Passes, if any are named, are the only ones that the optimiser runs; those in Disable it leaves
	// out. See passes.All. Default: all that serve the target.
	Passes, Disable []string
	// KeepFloat32 names operators and nodes that a conversion to DType leaves in fp32, and NarrowLogits
	// converts the logits too; see graphopt.Options.
	KeepFloat32  []string
	NarrowLogits bool
	// Lenient goes on where the target has no kernel for DType, and reports it. Without, that is an
	// error before any work is done.
	Lenient bool
	// Sequence and Total fix the lengths of a Core ML graph: new tokens of a run, and new and cached
	// tokens together. Default: they stay free.
	Sequence, Total int64
}

// Validate reports all that is wrong with c, in one line.
func (c Config) Validate() error {
	_, err := c.resolve()
	return err
}

// settings are a Config with its defaults filled in. They decide, with the checkpoint, what a build
// gives, and so they name it in the cache.
type settings struct {
	Precision Precision
	Method    quantize.Method
	Scale     quantize.Scale
	BlockSize int
	Symmetric bool
	DType     DType
	Target    graphopt.Target
	Passes    []string
	Disable   []string

	HalfScales    bool
	AccuracyLevel int
	Rules         []quantize.Rule
	TargetBits    float64
	ZeroPoints    bool // candidates for TargetBits may have them
	Calibration   Calibration
	Int8Weights   quantize.Int8Weights

	Convert      ir.DType // Undefined: the type stays
	KeepFloat32  []string
	NarrowLogits bool
	Lenient      bool
	Sequence     int64
	Total        int64
}

func (c Config) resolve() (settings, error) {
	s := settings{
		Precision: cmp.Or(c.Precision, DefaultPrecision),
		Method:    cmp.Or(c.Method, DefaultMethod),
		Scale:     cmp.Or(c.Scale, DefaultScale),
		BlockSize: cmp.Or(c.BlockSize, DefaultBlockSize),
		Symmetric: DefaultSymmetric,
		DType:     cmp.Or(c.DType, DefaultDType),
		Target:    cmp.Or(c.Target, DefaultTarget),
		Passes:    c.Passes,
		Disable:   c.Disable,

		HalfScales:    c.HalfScales,
		AccuracyLevel: cmp.Or(c.AccuracyLevel, DefaultAccuracy),
		Rules:         c.Rules,
		TargetBits:    c.TargetBits,
		ZeroPoints:    c.Symmetric == nil || !*c.Symmetric,
		Calibration:   c.Calibration,

		Convert:      c.DType.ir(),
		KeepFloat32:  c.KeepFloat32,
		NarrowLogits: c.NarrowLogits,
		Lenient:      c.Lenient,
		Sequence:     c.Sequence,
		Total:        c.Total,
	}
	if c.Symmetric != nil {
		s.Symmetric = *c.Symmetric
	}
	if s.integer() {
		s.BlockSize = cmp.Or(c.BlockSize, IntegerBlockSize)
		s.Int8Weights = cmp.Or(c.Int8Weights, quantize.SignedInt8)
	}
	var faults []string
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	switch s.Precision {
	case None:
		if c.BlockSize != 0 || c.Symmetric != nil || c.Method != "" || c.Scale != "" || c.AccuracyLevel != 0 || len(c.Rules) > 0 || c.TargetBits != 0 {
			fault("precision none quantises nothing: leave out what is said about that")
		}
		s.BlockSize, s.Symmetric, s.Method, s.Scale, s.AccuracyLevel, s.ZeroPoints = 0, false, "", "", 0, false
	case Int4, Int8, DynamicInt8:
		if err := s.quantization().Validate(); err != nil {
			fault("%s", strings.TrimPrefix(err.Error(), "quantize: "))
		}
		if c.TargetBits != 0 && (c.BlockSize != 0 || s.Precision != Int4) {
			fault("target bits choose precision and block size: leave those out")
		}
	default:
		fault("precision %q: want %s", s.Precision, precisionNames())
	}
	if s.integer() && (s.DType != FP32 || s.Target != graphopt.CPU) {
		fault("precision %s is for dtype fp32 and target cpu", s.Precision)
	}
	if !s.integer() && c.Int8Weights != "" {
		fault("int8 weights %s: precision %s computes no products in integers", c.Int8Weights, s.Precision)
	}
	if !(s.TargetBits >= 0) || math.IsInf(s.TargetBits, 0) {
		fault("target bits %v: want a positive number", s.TargetBits)
	}
	if k := s.Calibration; k.Samples < 0 || k.Length < 0 {
		fault("%d calibration samples of %d tokens: want positive numbers", k.Samples, k.Length)
	}
	if err := s.Calibration.GPTQ.Validate(); err != nil {
		fault("%s", strings.TrimPrefix(err.Error(), "quantize: "))
	}
	if s.DType.ir() == ir.Undefined {
		fault("dtype %q: want fp32, fp16 or bf16", s.DType)
	}
	if _, err := graphopt.ParseTarget(string(s.Target)); err != nil {
		fault("target %q: want cpu, cuda or coreml", s.Target)
	} else {
		o := s.optimization()
		o.Lenient = true // whether the target has kernels is no fault of the Config; see supported
		if err := graphopt.Check(passes.All(), o); err != nil {
			fault("%s", flat(err))
		}
	}
	if (c.Sequence == 0) != (c.Total == 0) || c.Sequence < 0 || c.Total < c.Sequence {
		fault("sequence %d of total %d: want both, the second at least as large, or neither", c.Sequence, c.Total)
	}
	if len(faults) > 0 {
		return settings{}, errors.New("accelerate: " + strings.Join(faults, "; "))
	}
	return s, nil
}

// integer reports whether products are computed in integers.
func (s settings) integer() bool { return s.Precision == DynamicInt8 }

func (s settings) quantization() quantize.Options {
	return quantize.Options{
		Int8:      quantize.Int8Options{Weights: s.Int8Weights},
		Precision: quantize.Precision(s.Precision), Method: s.Method, Scale: s.Scale,
		BlockSize: s.BlockSize, Symmetric: s.Symmetric, HalfScales: s.HalfScales, AccuracyLevel: s.AccuracyLevel, Rules: slices.Clone(s.Rules),
	}
}

// candidates are the formats that TargetBits may be spent on.
func (s settings) candidates() []quantize.Format { return quantize.CandidateFormats(!s.ZeroPoints) }

func (s settings) optimization() graphopt.Options {
	o := graphopt.Options{
		Target: s.Target, Only: s.Passes, Disable: s.Disable,
		DType: s.Convert, KeepFloat32: s.KeepFloat32, NarrowLogits: s.NarrowLogits, Lenient: s.Lenient,
	}
	if s.Sequence > 0 {
		o.Static = graphopt.Lengths{Batch: 1, Sequence: s.Sequence, Total: s.Total}
	}
	return o
}

// supported reports, before any work is done, whether the target can compute what is asked for.
func (c Config) supported() error {
	s, err := c.resolve()
	if err != nil {
		return err
	}
	if err := graphopt.Check(passes.All(), s.optimization()); err != nil {
		return fmt.Errorf("accelerate: %s: %w", flat(err), kernels.ErrNoKernel)
	}
	return nil
}

// flat makes one line of an error of graphopt.
func flat(err error) string {
	return strings.ReplaceAll(strings.ReplaceAll(err.Error(), "\n", "; "), "graphopt: ", "")
}

func (d DType) ir() ir.DType {
	switch d {
	case FP32:
		return ir.Float32
	case FP16:
		return ir.Float16
	case BF16:
		return ir.BFloat16
	}
	return ir.Undefined
}
