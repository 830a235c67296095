package packed

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// ErrUnsupported is reported for formats of quantised weights that this package does not read.
var ErrUnsupported = errors.New("unsupported format of quantised weights")

// Method is how a checkpoint was quantised, which decides its format.
type Method string

// The methods.
const (
	GPTQ Method = "gptq"
	AWQ  Method = "awq"
)

// Config is what a checkpoint says of its quantised weights.
type Config struct {
	Method    Method
	Bits      int
	GroupSize int  // -1: all inputs of an output
	Symmetric bool // zero points are in the middle
	// Version is that of GPTQ's format: 1 stores z - 1, 2 stores z. Layers whose zero points are all one beside the
	// middle by that version are symmetric and of the other: some files say 1 and are 2.
	Version int
	// Mixed says that some layers have bits and group sizes of their own: those of a layer are read off its shapes.
	Mixed bool
}

// ParseConfig reads the member quantization_config of a config.json.
//
// Errors: ErrUnsupported.
func ParseConfig(data []byte) (*Config, error) {
	var f struct {
		Method    string          `json:"quant_method"`
		Bits      int             `json:"bits"`
		GroupSize *int            `json:"group_size"`
		Symmetric *bool           `json:"sym"`
		Format    string          `json:"checkpoint_format"`
		NewFormat string          `json:"format"` // later versions of GPTQModel
		PackType  string          `json:"pack_dtype"`
		Version   string          `json:"version"`
		ZeroPoint *bool           `json:"zero_point"`
		Dynamic   json.RawMessage `json:"dynamic"`
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("packed: quantization_config: %w", err)
	}
	c := &Config{Method: Method(strings.ToLower(f.Method)), Bits: f.Bits, GroupSize: 128, Symmetric: f.Symmetric != nil && *f.Symmetric, Version: 1}
	if f.GroupSize != nil {
		c.GroupSize = *f.GroupSize
	}
	c.Mixed = len(f.Dynamic) > 2 && string(f.Dynamic) != "null" // "{}" names no layer
	format := strings.ToLower(f.Format)
	if format == "" {
		format = strings.ToLower(f.NewFormat)
	}
	var why string
	switch c.Method {
	case GPTQ:
		switch format {
		case "", "gptq":
		case "gptq_v2":
			c.Version = 2
		default:
			why = fmt.Sprintf("checkpoint_format %q: want gptq or gptq_v2", format)
		}
		if c.Bits != 4 && c.Bits != 8 {
			why = fmt.Sprintf("gptq of %d bits: want 4 or 8", c.Bits)
		}
	case AWQ:
		c.Symmetric = false
		if version := strings.ToLower(f.Version); version != "" && version != "gemm" || version == "" && format != "" && format != "gemm" {
			why = fmt.Sprintf("awq of version %q: want gemm", version+format)
		}
		if c.Bits != 4 {
			why = fmt.Sprintf("awq of %d bits: want 4", c.Bits)
		}
		if f.ZeroPoint != nil && !*f.ZeroPoint {
			why = "awq without zero points"
		}
	default:
		why = fmt.Sprintf("quant_method %q: want gptq or awq", f.Method)
	}
	if c.GroupSize == 0 || c.GroupSize < -1 {
		why = fmt.Sprintf("group_size %d", c.GroupSize)
	}
	if f.PackType != "" && f.PackType != "int32" {
		why = fmt.Sprintf("pack_dtype %q: want int32", f.PackType)
	}
	if why != "" {
		return nil, fmt.Errorf("packed: %w: %s", ErrUnsupported, why)
	}
	return c, nil
}
