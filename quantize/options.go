package quantize

import (
	"cmp"
	"fmt"
	"strings"
)

// Precision is what weights are stored in.
type Precision string

// The precisions. Int4 and Int8 are weight-only block formats: activations stay as they are. In the two
// others products are computed in 8-bit integers; embedding and head are in blocks of 8 bits.
const (
	Int4        Precision = "int4"
	Int8        Precision = "int8"
	DynamicInt8 Precision = "dynamic-int8" // activations are rounded while the model runs
	StaticInt8  Precision = "static-int8"  // activations have calibrated ranges
)

// Precisions lists what ParsePrecision takes.
func Precisions() []Precision { return []Precision{Int4, Int8, DynamicInt8, StaticInt8} }

// ParsePrecision reads a precision as a user writes it, with hyphens or underscores.
func ParsePrecision(s string) (Precision, error) {
	return exported(parse("precision", strings.ReplaceAll(s, "_", "-"), Precisions()))
}

// integer reports whether products are computed in integers.
func (p Precision) integer() bool { return p == DynamicInt8 || p == StaticInt8 }

// integers is p where products are computed in integers, and empty for block formats.
func (p Precision) integers() Precision {
	if p.integer() {
		return p
	}
	return ""
}

func (p Precision) bits() (int, error) {
	switch p {
	case Int4:
		return 4, nil
	case Int8, DynamicInt8, StaticInt8:
		return 8, nil
	}
	return 0, fmt.Errorf("precision %q: it must be %s", string(p), list(Precisions()))
}

// Method is how the quantised form of a tensor is found.
type Method string

// The methods.
const (
	// RTN rounds each weight to the nearest level of its block's scale, see [Scale].
	RTN Method = "rtn"
	// HQQ finds scale and zero point by half-quadratic optimisation of an error in which large
	// differences count for little (Badri and Shaji, Half-Quadratic Quantization, 2023), and then
	// rounds to nearest.
	HQQ Method = "hqq"
)

// Methods lists what ParseMethod takes.
func Methods() []Method { return []Method{RTN, HQQ, GPTQ, AWQ, AWQGPTQ} }

// ParseMethod reads a method as a user writes it.
func ParseMethod(s string) (Method, error) { return exported(parse("method", s, Methods())) }

// Scale is how RTN finds the scale of a block, and its zero point.
type Scale string

// The scales.
const (
	// ScaleMax spans the block, from its smallest to its largest weight: what ONNX Runtime's own
	// quantiser does, to the bit.
	ScaleMax Scale = "max"
	// ScaleMSE is the scale with the smallest mean squared error, searched among narrower ones and,
	// without zero points, of both signs.
	ScaleMSE Scale = "mse"
)

// Scales lists what ParseScale takes.
func Scales() []Scale { return []Scale{ScaleMax, ScaleMSE} }

// ParseScale reads a scale as a user writes it.
func ParseScale(s string) (Scale, error) { return exported(parse("scale", s, Scales())) }

// parse is the value of known that s names. Flags are typed by hand: case does not matter, nor whether words are
// joined by a hyphen, an underscore or a plus.
func parse[T ~string](what, s string, known []T) (T, error) {
	joints := strings.NewReplacer("_", "-", "+", "-")
	for _, v := range known {
		if joints.Replace(strings.ToLower(s)) == joints.Replace(string(v)) {
			return v, nil
		}
	}
	return "", fmt.Errorf("%s %q: it must be %s", what, s, list(known))
}

// exported prefixes the error of an exported function.
func exported[T any](v T, err error) (T, error) {
	if err != nil {
		err = fmt.Errorf("quantize: %w", err)
	}
	return v, err
}

// list gives values in words: a, b or c.
func list[T ~string](all []T) string {
	var b strings.Builder
	for i, v := range all {
		switch {
		case i > 0 && i == len(all)-1:
			b.WriteString(" or ")
		case i > 0:
			b.WriteString(", ")
		}
		b.WriteString(string(v))
	}
	return b.String()
}

// Options says what to quantise and how. The zero value is valid: INT4, round-to-nearest with the best
// scales, blocks of 32 with zero points, accuracy level 4, embedding and head included and shared.
type Options struct {
	Precision Precision // default Int4
	Method    Method    // default RTN
	Scale     Scale     // of RTN. Default ScaleMSE
	BlockSize int       // weights that share a scale: 16, 32, 64, 128 or 256. Default 32; 128 beside integers
	// Symmetric leaves the zero points out: a little smaller and faster, a little less exact.
	Symmetric bool
	// HalfScales stores the scales of a float32 graph in float16 and widens them by a Cast, which ONNX Runtime computes
	// while it loads the model: half a bit a weight less at blocks of 32, and the error that float16 adds is a
	// hundredth of that of 4 bits. Without graph optimisation, which computes the Cast, the products run slowly.
	HalfScales bool
	// AccuracyLevel is MatMulNBits' attribute, the type in which a product is computed at least:
	// 1 float32, 2 float16, 3 bfloat16, 4 int8 (the fast one on CPU). Default 4.
	AccuracyLevel int
	// Rules change the above for some weights. A rule that matches no weight is an error.
	Rules []Rule
	// FloatEmbedding leaves the table that Gather reads in its type. A head tied to it is still
	// quantised, and then stored beside it.
	FloatEmbedding bool
	// Mixed takes a graph some of whose weights are quantised already: these stay as they are, and it is no error if
	// no others are left.
	Mixed bool
	// Int8 is what DynamicInt8 and StaticInt8 need beside.
	Int8 Int8Options
}

// Validate reports all that is wrong with o, in one line. What depends on a model, NewPlan finds.
func (o Options) Validate() error {
	_, err := o.resolve()
	return err
}

// settings are Options with defaults filled in and checked.
type settings struct {
	Options
	base recipe // of weights that no rule matches
}

// resolve fills in the defaults and reports all that is wrong at once.
func (o Options) resolve() (settings, error) {
	o.Precision = cmp.Or(o.Precision, Int4)
	o.Method = cmp.Or(o.Method, RTN)
	o.Scale = cmp.Or(o.Scale, ScaleMSE)
	if o.Precision.integer() {
		o.BlockSize = cmp.Or(o.BlockSize, 128)
	}
	o.BlockSize = cmp.Or(o.BlockSize, 32)
	o.Int8.Weights = cmp.Or(o.Int8.Weights, SignedInt8)
	o.AccuracyLevel = cmp.Or(o.AccuracyLevel, 4)
	s := settings{Options: o, base: recipe{
		form:     form{o.Method, o.Scale, Format{Bits: 4, BlockSize: o.BlockSize, Symmetric: o.Symmetric}},
		integers: o.Precision.integers(), level: o.AccuracyLevel,
	}}
	valid := recipe{form: form{RTN, ScaleMax, Format{Bits: 4, BlockSize: 32}}, level: 4} // so that a rule's faults are its own
	var faults []error
	if bits, err := o.Precision.bits(); err != nil {
		faults = append(faults, err)
	} else {
		s.base.format.Bits = bits
	}
	faults = append(faults, s.base.faults()...)
	faults = append(faults, o.Int8.faults(o)...)
	for _, r := range o.Rules {
		faults = append(faults, r.faults()...)
		for _, err := range r.apply(valid).faults() {
			faults = append(faults, fmt.Errorf("rule %q: %w", r, err))
		}
		if r.Precision == StaticInt8 && o.Precision != StaticInt8 {
			faults = append(faults, fmt.Errorf("rule %q: ranges of activations are found for a model in static-int8 alone", r))
		}
	}
	if len(faults) > 0 {
		return settings{}, fmt.Errorf("quantize: %w", oneLine{faults})
	}
	return s, nil
}

// oneLine joins errors with semicolons: a user sees one line.
type oneLine struct{ all []error }

func (e oneLine) Error() string {
	words := make([]string, len(e.all))
	for i, err := range e.all {
		words[i] = err.Error()
	}
	return strings.Join(words, "; ")
}

// Unwrap lets errors.Is see each of them.
func (e oneLine) Unwrap() []error { return e.all }
