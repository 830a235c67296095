package bench

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Model is what records say of a model.
type Model struct {
	File   string // path of the .onnx file
	Type   string // architecture, number of weights, and how most of them are stored: "qwen3 0.60B int4 b32"
	Size   int64  // bytes of all constants, shared ones counted once
	Params int64  // weights, shared ones counted once; scales, zero points and tables not
	// Hash is the SHA-256, in hexadecimal, of the .onnx file and the files beside it whose names
	// begin with its name, in the order of their names: the data files.
	Hash string
}

// Describe reads a model folder or an .onnx file. It reads all of the files once.
func Describe(path string) (Model, error) {
	st, err := os.Stat(path)
	if err == nil && st.IsDir() {
		path = filepath.Join(path, "model.onnx")
	}
	m := Model{File: path}
	if err == nil {
		err = m.count()
	}
	if err == nil {
		m.Hash, err = hash(path)
	}
	if err != nil {
		return Model{}, fmt.Errorf("bench: %w", err)
	}
	return m, nil
}

// count fills in Type, Size and Params.
func (m *Model) count() error {
	model, err := ir.Load(m.File)
	if err != nil {
		return err
	}
	defer model.Close()
	seen := map[*byte]bool{}
	forms := map[string]int64{}
	var form string // the one with the most weights; the first of equals
	for _, v := range model.Graph.Initializers() {
		b, err := v.Const.Bytes()
		if err != nil {
			return err
		}
		if len(b) == 0 || seen[&b[0]] {
			continue
		}
		seen[&b[0]] = true
		m.Size += int64(len(b))
		n, f := weights(v, v.Const)
		m.Params += n
		if forms[f] += n; forms[f] > forms[form] {
			form = f
		}
	}
	m.Type = strings.TrimSpace(fmt.Sprintf("%s %s %s", architecture(filepath.Dir(m.File)), shortCount(m.Params), form))
	return nil
}

// weightOperand is the operand that holds the weights of operators whose other constants are scales,
// zero points and tables.
var weightOperand = map[string]int{
	"MatMulNBits":           1,
	"GatherBlockQuantized":  0,
	"DequantizeLinear":      0,
	"MatMulInteger":         1,
	"DynamicQuantizeMatMul": 1,
	"GroupQueryAttention":   -1,
}

// weights gives the number of weights that a constant holds for the first of its readers, and
// their form.
func weights(v *ir.Value, t *ir.Tensor) (n int64, form string) {
	uses := v.Uses()
	if len(uses) == 0 {
		return 0, ""
	}
	node, at := uses[0].Node, uses[0].Index
	operand, quantized := weightOperand[node.OpType]
	switch {
	case quantized && at != operand, t.Len() == 1: // scales and such, an epsilon
		return 0, ""
	case node.OpType == "MatMulNBits":
		return node.Int("N", 0) * node.Int("K", 0), blockForm(node)
	case node.OpType == "GatherBlockQuantized":
		return t.ByteLen() * 8 / max(node.Int("bits", 4), 1), blockForm(node)
	case node.OpType == "Reshape" && at == 0 && !t.DType.Float(): // a table that is read in two shapes
		return weights(node.Output(0), t)
	case quantized || t.DType.Float():
		return t.Len(), t.DType.String()
	}
	return 0, ""
}

func blockForm(n *ir.Node) string {
	return fmt.Sprintf("int%d b%d", n.Int("bits", 4), n.Int("block_size", 0))
}

// architecture is the model_type of config.json, "model" where there is none.
func architecture(dir string) string {
	const limit = 1 << 20 // far above any config.json
	var config struct {
		ModelType string `json:"model_type"`
	}
	if f, err := os.Open(filepath.Join(dir, "config.json")); err == nil {
		defer f.Close()
		if json.NewDecoder(io.LimitReader(f, limit)).Decode(&config) == nil && config.ModelType != "" {
			return config.ModelType
		}
	}
	return "model"
}

// shortCount is a number of weights as in the names of models.
func shortCount(n int64) string {
	if n < 1e9/2 {
		return fmt.Sprintf("%.2fM", float64(n)/1e6)
	}
	return fmt.Sprintf("%.2fB", float64(n)/1e9)
}

// hash reads rather than maps the files, so that they do not count as this process's memory.
func hash(path string) (string, error) {
	dir, name := filepath.Split(path)
	entries, err := os.ReadDir(filepath.Clean(dir))
	if err != nil {
		return "", err
	}
	h := sha256.New()
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), name) {
			continue
		}
		if err := copyTo(h, filepath.Join(dir, e.Name())); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// copyTo copies a regular file, and nothing else: opening a named pipe would wait for its writer.
func copyTo(w io.Writer, path string) error {
	if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return errors.Join(err, f.Close())
}
