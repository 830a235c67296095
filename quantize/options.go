package quantize

import (
	"fmt"
	"path"
	"strings"
)

// Precision is what weights are stored in.
type Precision string

// The precisions. Both are weight-only block formats: activations stay as they are.
const (
	Int4 Precision = "int4"
	Int8 Precision = "int8"
)

// Precisions lists what ParsePrecision takes.
func Precisions() []Precision { return []Precision{Int4, Int8} }

// ParsePrecision reads a precision as a user writes it.
func ParsePrecision(s string) (Precision, error) {
	p := Precision(strings.ToLower(s))
	if _, err := p.bits(); err != nil {
		return "", fmt.Errorf("quantize: %w", err)
	}
	return p, nil
}

func (p Precision) bits() (int, error) {
	switch p {
	case Int4:
		return 4, nil
	case Int8:
		return 8, nil
	}
	return 0, fmt.Errorf("precision %q: it must be int4 or int8", string(p))
}

// Method is how the quantised form of a tensor is found.
type Method string

// The methods.
const (
	// RTN rounds each weight to the nearest level of a scale that spans the block: what ONNX
	// Runtime's own quantiser does, to the bit.
	RTN Method = "rtn"
)

// Options says what to quantise and how. The zero value is valid: INT4, round-to-nearest, blocks of
// 32 with zero points, accuracy level 4, embedding and head included and shared.
type Options struct {
	Precision Precision // default Int4
	Method    Method    // default RTN
	BlockSize int       // weights that share a scale: 16, 32, 64, 128 or 256. Default 32
	// Symmetric leaves the zero points out: a little smaller and faster, a little less exact.
	Symmetric bool
	// AccuracyLevel is MatMulNBits' attribute, the type in which a product is computed at least:
	// 1 float32, 2 float16, 3 bfloat16, 4 int8 (the fast one on CPU). Default 4.
	AccuracyLevel int
	// Exclude has globs as path.Match takes them; weights whose name one of them matches keep their
	// type. A glob that matches no weight is an error.
	Exclude []string
	// FloatEmbedding leaves the table that Gather reads in its type. A head tied to it is still
	// quantised, and then stored beside it.
	FloatEmbedding bool
}

// settings are Options with defaults filled in and checked.
type settings struct {
	Options
	format Format
}

// resolve fills in the defaults and reports all that is wrong at once.
func (o Options) resolve() (settings, error) {
	if o.Precision == "" {
		o.Precision = Int4
	}
	if o.Method == "" {
		o.Method = RTN
	}
	if o.BlockSize == 0 {
		o.BlockSize = 32
	}
	if o.AccuracyLevel == 0 {
		o.AccuracyLevel = 4
	}
	s := settings{Options: o, format: Format{Bits: 4, BlockSize: o.BlockSize, Symmetric: o.Symmetric}}
	var faults []error
	if bits, err := o.Precision.bits(); err != nil {
		faults = append(faults, err)
	} else {
		s.format.Bits = bits
	}
	if o.Method != RTN {
		faults = append(faults, fmt.Errorf("method %q: it must be rtn", string(o.Method)))
	}
	faults = append(faults, s.format.faults()...)
	if o.AccuracyLevel < 1 || o.AccuracyLevel > 4 {
		faults = append(faults, fmt.Errorf("accuracy level %d: it must be 1 to 4", o.AccuracyLevel))
	}
	for _, glob := range o.Exclude {
		if _, err := path.Match(glob, ""); err != nil {
			faults = append(faults, fmt.Errorf("exclude %q: not a valid glob", glob))
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
