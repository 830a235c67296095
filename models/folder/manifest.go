package folder

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Schema is the version of qwenrt.json that this package writes. It rises when a reader of the old
// one would misunderstand the new; members that may be ignored are added without.
const Schema = 1

var (
	// ErrNoManifest means that a folder has no qwenrt.json: another program made it.
	ErrNoManifest = errors.New("no " + ManifestName)
	// ErrNewer means that a qwenrt.json was written by a later version of this program.
	ErrNewer = errors.New("written by a later qwenrt; update this one, or make the folder again")
)

// Manifest is qwenrt.json: what was done to a model. It holds no times and no paths, so that the
// same work on the same checkpoint gives the same bytes.
type Manifest struct {
	Schema       int               `json:"schema"`
	Source       Source            `json:"source"`
	Steps        []Step            `json:"steps"` // in order
	Quantization []QuantizedTensor `json:"quantization,omitempty"`
	Weights      *Weights          `json:"weights,omitempty"` // of a quantised model
	Smoothing    []Smoothing       `json:"smoothing,omitempty"`
	KVCache      KVCache           `json:"kv_cache"`
	Versions     Versions          `json:"versions"`
}

// Source is the checkpoint that a model comes from.
type Source struct {
	Name string `json:"name"`           // of the folder or of the hub's repository
	Hash string `json:"hash,omitempty"` // of its content, see qwen3.Source.Hash
}

// Step is one command of the recipe.
type Step struct {
	Command string            `json:"command"` // export, optimize, quantize
	Options map[string]string `json:"options,omitempty"`
	Passes  []Pass            `json:"passes,omitempty"` // in the order in which they ran
}

// Pass is a graph pass that ran in a step.
type Pass struct {
	Name  string `json:"name"`
	Count int    `json:"count"` // places in the graph that it changed
}

// QuantizedTensor is how one weight is stored.
type QuantizedTensor struct {
	Name      string `json:"name"`
	Method    string `json:"method"` // such as rtn
	Bits      int    `json:"bits"`
	BlockSize int    `json:"block_size,omitempty"` // 0: one scale a channel or a tensor
	Symmetric bool   `json:"symmetric"`
	// Scale is how scales were found, such as mse; AccuracyLevel that of the products, 0 where there are none.
	Scale         string `json:"scale,omitempty"`
	AccuracyLevel int    `json:"accuracy_level,omitempty"`
	Bytes         int64  `json:"bytes,omitempty"` // scales and zero points included
	// RMSE is the error of the weights, SNR that of signal to noise in decibels, and Loss, where calibration has
	// measured it, the squared error of the product relative to the product.
	RMSE float64 `json:"rmse,omitempty"`
	SNR  float64 `json:"snr_db,omitempty"`
	Loss float64 `json:"loss,omitempty"`
	// ProductSNR is what is expected of the products in integers, and Reason why they are not computed in integers.
	ProductSNR float64 `json:"product_snr_db,omitempty"`
	Reason     string  `json:"reason,omitempty"`
}

// Smoothing is how the channels of one tensor of activations were evened out.
type Smoothing struct {
	Input  string  `json:"input"`
	Into   string  `json:"into"` // what took the inverse: norm, values or product
	Alpha  float64 `json:"alpha"`
	Before float64 `json:"before_db"` // expected ratio of signal to noise of the products
	After  float64 `json:"after_db"`
}

// Weights are a model's float weights before and after quantisation; rotary tables are none of them.
type Weights struct {
	Count         int64   `json:"count"`
	BytesBefore   int64   `json:"bytes_before"`
	BytesAfter    int64   `json:"bytes_after"`
	BitsPerWeight float64 `json:"bits_per_weight"`
}

// KVCache is the type of the KV cache's inputs and outputs.
type KVCache struct {
	DType string `json:"dtype"` // such as float32
	// Bits of a number, of which there are two in a byte where they are 4, and what shares a scale: channel or tensor.
	// Absent where the cache is not quantised.
	Bits   int    `json:"bits,omitempty"`
	Scales string `json:"scales,omitempty"`
}

// Versions are those of the program that made the folder and of the model file.
type Versions struct {
	Qwenrt string `json:"qwenrt"`
	Opset  int64  `json:"opset"`
	IR     int64  `json:"ir"`
}

// Write writes dir/qwenrt.json. Schema is set.
func (m *Manifest) Write(dir string) error {
	out := *m
	out.Schema = Schema
	if err := writeJSON(filepath.Join(dir, ManifestName), out); err != nil {
		return fmt.Errorf("folder: %w", err)
	}
	return nil
}

// maxManifest is above any manifest: one entry a tensor, some thousands of them.
const maxManifest = 16 << 20

// ReadManifest reads dir/qwenrt.json.
//
// Errors: ErrNoManifest, ErrNewer.
func ReadManifest(dir string) (*Manifest, error) {
	path := filepath.Join(dir, ManifestName)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("folder: %s: %w", dir, ErrNoManifest)
	case err != nil:
		return nil, fmt.Errorf("folder: %w", err)
	case !info.Mode().IsRegular() || info.Size() > maxManifest:
		return nil, fmt.Errorf("folder: %s: not a manifest", path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("folder: %w", err)
	}
	m, err := parseManifest(data)
	if err != nil {
		return nil, fmt.Errorf("folder: %s: %w", path, err)
	}
	return m, nil
}

func parseManifest(data []byte) (*Manifest, error) {
	// The version first: a later one may have given the other members another form.
	var head struct{ Schema int }
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, err
	}
	if head.Schema < 1 {
		return nil, fmt.Errorf("schema is %d, want 1 to %d", head.Schema, Schema)
	}
	if head.Schema > Schema {
		return nil, fmt.Errorf("schema %d: %w", head.Schema, ErrNewer)
	}
	m := &Manifest{}
	return m, json.Unmarshal(data, m)
}

// writeJSON writes v indented, with keys of maps in order and without escapes for HTML.
func writeJSON(path string, v any) error {
	var b bytes.Buffer
	if err := encodeJSON(&b, v); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o666)
}

func encodeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
