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

// The precisions. Half and Brain quantise nothing: they are None in another DType. Int4 and Int8 are weight-only
// block formats: activations keep their type. In the others products are computed in 8-bit integers, and embedding and head
// are stored as Int8.
const (
	None        Precision = "none" // the type of the export
	Half        Precision = "fp16"
	Brain       Precision = "bf16"
	Int4                  = Precision(quantize.Int4)
	Int8                  = Precision(quantize.Int8)
	DynamicInt8           = Precision(quantize.DynamicInt8) // activations are rounded while the model runs
	StaticInt8            = Precision(quantize.StaticInt8)  // activations have calibrated ranges
)

// Precisions lists all of them. As a user writes them they may have underscores for hyphens, and capitals.
func Precisions() []Precision { return append([]Precision{None, Half, Brain}, Quantized()...) }

// Quantized lists the precisions that quantise something.
func Quantized() []Precision { return []Precision{Int4, Int8, DynamicInt8, StaticInt8} }

// precisionNames are those of Precisions, for a message.
func precisionNames() string {
	var names []string
	for _, p := range Precisions() {
		names = append(names, string(p))
	}
	return choice(names)
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
	DefaultKVScales  = ChannelScales
)

// Config says what to build out of a checkpoint, and how to run it. The zero value is what runs best on this
// machine. The names of its fields in configuration files, which ReadConfig reads, are in their tags.
//
// What is built is decided by Precision and the fields down to Total, and by Attention, FusedKernels and KV, which are
// properties of the graph; Build and its parts look at these, and they name a folder in the cache. The others are
// settings of the session, and can change while the folder stays.
type Config struct {
	// Precision of the weights. Default: DefaultPrecision.
	Precision Precision `yaml:"precision"`
	// Method by which block formats are found, and Scale that of RTN. Default: DefaultMethod, DefaultScale.
	Method quantize.Method `yaml:"algorithm"`
	Scale  quantize.Scale  `yaml:"scale"`
	// BlockSize is how many weights share a scale: 16, 32, 64, 128 or 256. Default: DefaultBlockSize; for embedding and
	// head beside products in integers, IntegerBlockSize.
	BlockSize int `yaml:"block_size"`
	// Symmetric leaves zero points out. Default (nil): DefaultSymmetric.
	Symmetric *bool `yaml:"symmetric"`
	// HalfScales stores scales in float16, see quantize.Options.
	HalfScales bool `yaml:"half_scales"`
	// AccuracyLevel is the type in which products are computed, see quantize.Options. Default: DefaultAccuracy.
	AccuracyLevel int `yaml:"accuracy_level"`
	// Rules change the above for some weights, see quantize.Rule.
	Rules []quantize.Rule `yaml:"rules"`
	// TargetBits, if positive, is the mean number of bits a weight: formats of the weights that no rule gives one are
	// chosen by their effect on the model, see quantize.Allocate. Precision is then Int4. Candidates have zero points where
	// Symmetric does not say otherwise.
	TargetBits float64 `yaml:"target_bits"`
	// Calibration is the text for methods that need one, for SmoothQuant, StaticInt8, TargetBits and KV.
	Calibration Calibration `yaml:"calibration"`
	// SmoothQuant evens out activation channels. Default: see SmoothQuant.
	SmoothQuant SmoothQuant `yaml:"smoothquant"`
	// Integers is for DynamicInt8 and StaticInt8.
	Integers Integers `yaml:"integers"`
	// DType of weights, activations and KV cache: what Export and Build export, and what Optimize
	// converts to. Default: DefaultDType; a graph that is optimised stays as it is.
	DType DType `yaml:"dtype"`
	// Target is the execution provider for which the graph is optimised. Default: DefaultTarget.
	Target graphopt.Target `yaml:"target"`
	// Passes, if any are named, are the only ones that the optimiser runs; those in Disable it leaves
	// out. See passes.All. Default: all that serve the target.
	Passes  []string `yaml:"passes"`
	Disable []string `yaml:"disable"`
	// KeepFloat32 names operators and nodes that a conversion to DType leaves in fp32, and NarrowLogits
	// converts the logits too; see graphopt.Options.
	KeepFloat32  []string `yaml:"keep_fp32"`
	NarrowLogits bool     `yaml:"narrow_logits"`
	// Lenient goes on where the target has no kernel for DType, and reports it. Without, that is an
	// error before any work is done.
	Lenient bool `yaml:"lenient"`
	// Sequence and Total fix the lengths of a Core ML graph: new tokens of a run, and new and cached
	// tokens together. Default: they stay free.
	Sequence int64 `yaml:"sequence"`
	Total    int64 `yaml:"total"`

	// Attention is the form of attention. Default: DefaultAttention.
	Attention Attention `yaml:"attention"`
	// FusedKernels takes operators that do the work of several: norms, joined projections, activations.
	// Default (nil): they are taken.
	FusedKernels *bool `yaml:"fused_kernels"`
	// KV is the type of the KV cache, and KVScales what shares a scale where it is quantised. Default: that of the
	// activations, which DType decides; DefaultKVScales.
	KV       KVType   `yaml:"kv"`
	KVScales KVScales `yaml:"kv_scales"`

	// Device that runs the model. Default: Auto.
	Device Device `yaml:"device"`
	// DeviceID chooses among several of a kind.
	DeviceID int `yaml:"device_id"`
	// ProviderOptions are passed to the execution provider, in its own words.
	ProviderOptions map[string]string `yaml:"provider_options"`
	// ProviderLibrary is the shared library of a plug-in execution provider, whose name Device is.
	ProviderLibrary string `yaml:"provider_library"`
	// Threads of the CPU. Default: ort.DefaultThreads, the CPUs that this process may use.
	Threads int `yaml:"threads"`
	// Spin says how idle threads wait. Default: ONNX Runtime's way, which is SpinOn; with slots, SpinInRun.
	Spin Spin `yaml:"spin"`
	// Arena keeps memory of activations between runs. Default (nil): it does.
	Arena *bool `yaml:"arena"`
	// HugePages has packed weights lie on pages of 2 MB: decoding is faster, starting may be slower; see
	// ort.SessionConfig. Default (nil): they do, unless PrepackWeights maps them from disk.
	HugePages *bool `yaml:"huge_pages"`
	// Compile says what is done ahead of the first run. Default: DefaultCompile.
	Compile Compile `yaml:"compile"`
	// PrepackWeights keeps weights on disk in the form that kernels want, and maps them from there.
	PrepackWeights bool `yaml:"prepack_weights"`
	// PrefillChunk is how many tokens of a prompt are run at once. Default: runner.DefaultPrefillChunk.
	PrefillChunk int `yaml:"prefill_chunk"`
	// MaxContext bounds prompt and answer together. Default: what the model allows.
	MaxContext int `yaml:"max_context"`
	// Slots is how many generations share the runs of the session, and Queue how many more may wait for one of them; see
	// runner.Options. A graph that takes one sequence at a time does not open with slots. Default: each generation has runs
	// of its own; runner.DefaultQueue.
	Slots int `yaml:"slots"`
	Queue int `yaml:"queue"`
	// PrefixCache is the memory in bytes for what prompts have in common; see runner.Options. Default: none.
	PrefixCache int64 `yaml:"prefix_cache"`
	// SessionEntries are configuration entries of ONNX Runtime's sessions, which win over all of the above.
	SessionEntries map[string]string `yaml:"session_entries"`
	// Strict makes an error of what was asked for and cannot be applied. Without, it is reported.
	Strict bool `yaml:"strict"`
}

// Validate reports all that is wrong with c, in one line.
func (c Config) Validate() error {
	_, err := c.resolve()
	return err
}

// quantizes reports whether c stores weights or KV cache in another form than the graph's own type.
func (c Config) quantizes() bool {
	return c.KV.Quantized() || slices.Contains(Quantized(), normalised(c.Precision))
}

// normalised fills in the default, and lets hyphens be typed as underscores.
func normalised(p Precision) Precision {
	return Precision(strings.ReplaceAll(strings.ToLower(string(cmp.Or(p, DefaultPrecision))), "_", "-"))
}

// fused are the passes that FusedKernels stands for.
var fused = []string{"rmsnorm", "skip-norm", "projections", "qk-norm", "silu", "tied-head"}

// disabled are the passes to leave out.
func (c Config) disabled() []string {
	d := c.Disable
	if c.Attention == Plain {
		d = append(slices.Clone(d), "attention")
	}
	if c.FusedKernels != nil && !*c.FusedKernels {
		d = append(slices.Clone(d), fused...)
	}
	return d
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
	KV            KVType // empty: the type of the activations
	KVScales      KVScales

	SmoothQuant    SmoothQuant
	Int8Weights    quantize.Int8Weights
	LeastSNR       float64 // 0: no limit
	Range          quantize.RangeMethod
	SymmetricRange bool

	Convert      ir.DType // Undefined: the type stays
	KeepFloat32  []string
	NarrowLogits bool
	Lenient      bool
	Sequence     int64
	Total        int64
}

func (c Config) resolve() (settings, error) {
	s := settings{
		Precision: normalised(c.Precision),
		Method:    cmp.Or(c.Method, DefaultMethod),
		Scale:     cmp.Or(c.Scale, DefaultScale),
		BlockSize: cmp.Or(c.BlockSize, DefaultBlockSize),
		Symmetric: DefaultSymmetric,
		Target:    cmp.Or(c.Target, c.Device.target(), DefaultTarget),
		Passes:    c.Passes,
		Disable:   c.disabled(),

		HalfScales:    c.HalfScales,
		AccuracyLevel: cmp.Or(c.AccuracyLevel, DefaultAccuracy),
		Rules:         c.Rules,
		TargetBits:    c.TargetBits,
		ZeroPoints:    c.Symmetric == nil || !*c.Symmetric,
		Calibration:   c.Calibration,

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
	}
	var faults []string
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	if s.Precision == Half || s.Precision == Brain {
		if c.DType != "" && c.DType != DType(s.Precision) {
			fault("precision %s with dtype %s: leave one out", s.Precision, c.DType)
		}
		c.DType, s.Precision = DType(s.Precision), None
	}
	if !slices.Contains(Precisions(), s.Precision) {
		fault("precision %q: want %s", s.Precision, precisionNames())
		s.Precision, c.Integers = Int4, Integers{} // what else is wrong is found all the same
	}
	s.Convert = c.DType.ir()
	s.DType = cmp.Or(c.DType, c.Device.dtype())
	s.resolveSmoothing(c, fault)
	switch s.Precision {
	case None:
		if c.BlockSize != 0 || c.Symmetric != nil || c.Method != "" || c.Scale != "" || c.AccuracyLevel != 0 || len(c.Rules) > 0 || c.TargetBits != 0 {
			fault("precision none quantises nothing: leave out what is said about that")
		}
		s.BlockSize, s.Symmetric, s.Method, s.Scale, s.AccuracyLevel, s.ZeroPoints = 0, false, "", "", 0, false
	case Int4, Int8, DynamicInt8, StaticInt8:
		if err := s.quantization().Validate(); err != nil {
			fault("%s", strings.TrimPrefix(err.Error(), "quantize: "))
		}
		if c.TargetBits != 0 && (c.BlockSize != 0 || s.Precision != Int4) {
			fault("target bits choose precision and block size: leave those out")
		}
	}
	if !(s.TargetBits >= 0) || math.IsInf(s.TargetBits, 0) {
		fault("target bits %v: want a positive number", s.TargetBits)
	}
	s.resolveKV(c, fault)
	if k := s.Calibration; k.Samples < 0 || k.Length < 0 {
		fault("%d calibration samples of %d tokens: want positive numbers", k.Samples, k.Length)
	}
	if err := s.Calibration.GPTQ.Validate(); err != nil {
		fault("%s", strings.TrimPrefix(err.Error(), "quantize: "))
	}
	if s.Calibration.GPTQ != (quantize.GPTQOptions{}) && !s.Method.Compensates() {
		fault("damping is for gptq and awq+gptq")
	}
	if s.Calibration.Statistics != "" && !s.Method.Rescales() && !s.observes() {
		fault("statistics keep what awq, awq+gptq, smoothquant (auto, or an alpha) and products in integers observe: nothing is to be observed here")
	}
	if s.DType.ir() == ir.Undefined {
		fault("dtype %q: want fp32, fp16 or bf16", s.DType)
	}
	o := s.optimization()
	o.Lenient = true // whether the target has kernels is no fault of the Config; see supported
	if _, err := graphopt.ParseTarget(string(s.Target)); err != nil {
		fault("target %q: want cpu, cuda or coreml", s.Target)
		o.Target, o.Only, o.Disable = graphopt.CPU, nil, slices.Concat(o.Only, o.Disable) // names of passes are wrong for any
	}
	if err := graphopt.Check(passes.All(), o); err != nil {
		fault("%s", flat(err))
	}
	if (c.Sequence == 0) != (c.Total == 0) || c.Sequence < 0 || c.Total < c.Sequence {
		fault("sequence %d of total %d: want both, the second at least as large, or neither", c.Sequence, c.Total)
	}
	faults = append(faults, c.sessionFaults()...)
	if len(faults) > 0 {
		return settings{}, errors.New("accelerate: " + strings.Join(faults, "; "))
	}
	return s, nil
}

// calibrates reports whether the model is run on calibration text.
func (s settings) calibrates() bool {
	rule := func(r quantize.Rule) bool { return r.Method.Calibrated() }
	return s.Method.Calibrated() || s.observes() || s.TargetBits > 0 || s.KV != "" || slices.ContainsFunc(s.Rules, rule)
}

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
func flat(err error) string { return strings.ReplaceAll(oneLine(err), "graphopt: ", "") }

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
