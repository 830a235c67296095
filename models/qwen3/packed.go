package qwen3

import (
	"fmt"
	"strings"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/models/packed"
)

// microsoft is the domain of ONNX Runtime's own operators.
const microsoft = "com.microsoft"

// PackedWeight is a weight that the checkpoint has quantised.
type PackedWeight struct {
	Name          string // of the tensor in floating point that it stands for
	Rows, Columns int64
	Bits          int
	BlockSize     int
	Symmetric     bool
	Bytes         int64 // as MatMulNBits has it
}

// Packed lists the weights that the checkpoint has quantised, and how that was done; none where it is in floating point.
func (s *Source) Packed() (packed.Method, []PackedWeight, error) {
	if s.Config.Packed == nil {
		return "", nil, nil
	}
	var all []PackedWeight
	add := func(name string, shape []int64) error {
		module := strings.TrimSuffix(name, ".weight")
		if len(shape) != 2 || !packed.Has(s.weights, module) {
			return nil
		}
		m, err := s.Config.Packed.Open(s.weights, module, shape[0], shape[1])
		if err != nil {
			return fmt.Errorf("qwen3: %w", err)
		}
		all = append(all, PackedWeight{name, m.N, m.K, m.Bits, m.BlockSize, m.ZeroPoints == nil, m.Bytes()})
		return nil
	}
	for i := range s.Config.NumLayers {
		for _, t := range layerTensors {
			if err := add(layerPrefix(i)+t.name, t.shape(s.Config)); err != nil {
				return "", nil, err
			}
		}
	}
	if !s.Config.TiedEmbeddings {
		if err := add(headName, dims(s.Config.VocabSize, s.Config.HiddenSize)); err != nil {
			return "", nil, err
		}
	}
	return s.Config.Packed.Method, all, nil
}

// open is the quantised weight of a module of a layer; nil where it is in floating point.
func (b *builder) open(module string) *packed.Matrix {
	for _, t := range layerTensors {
		if strings.HasSuffix(module+".weight", "."+t.name) {
			return b.openShape(module, t.shape(b.cfg))
		}
	}
	return nil
}

func (b *builder) openShape(module string, shape []int64) *packed.Matrix {
	if b.cfg.Packed == nil || !packed.Has(b.weights, module) {
		return nil
	}
	m, err := b.cfg.Packed.Open(b.weights, module, shape[0], shape[1])
	if err != nil {
		b.fail(err)
		return nil
	}
	return m
}

// openHead is the quantised head; nil where it is in floating point, or the embedding.
func (b *builder) openHead() *packed.Matrix {
	if b.cfg.TiedEmbeddings {
		return nil
	}
	return b.openShape(strings.TrimSuffix(headName, ".weight"), dims(b.cfg.VocabSize, b.cfg.HiddenSize))
}

type mlpWeights struct{ gate, up, down *packed.Matrix }

// openMLP gives the weights of an MLP. The order in which down wants its inputs becomes the order of the outputs of gate
// and up, so that nothing has to be moved while the model runs.
func (b *builder) openMLP(weights string) mlpWeights {
	m := mlpWeights{b.open(weights + "gate_proj"), b.open(weights + "up_proj"), b.open(weights + "down_proj")}
	if m.gate == nil || m.up == nil || m.down == nil || m.down.Order == nil {
		return m
	}
	var errs [2]error
	m.gate, errs[0] = m.gate.WithRows(m.down.Order)
	m.up, errs[1] = m.up.WithRows(m.down.Order)
	for _, err := range errs {
		if err != nil {
			b.fail(err)
			return mlpWeights{}
		}
	}
	down := *m.down
	down.Order = nil
	m.down = &down
	return m
}

// product is x · W for a module, whose weight is m, or in floating point where that is nil.
func (b *builder) product(path string, x *ir.Value, module string, m *packed.Matrix) *ir.Value {
	if m == nil {
		return b.op("MatMul", path+"/MatMul", x, b.transposed(module+".weight"))
	}
	constant := func(suffix string, t *ir.Tensor) *ir.Value {
		return b.initializer(module+suffix, func() (*ir.Tensor, error) { return t, nil })
	}
	scales := b.initializer(module+".weight_scales", func() (*ir.Tensor, error) {
		if b.dtype != ir.Float32 && b.dtype != m.Scales.DType {
			return nil, fmt.Errorf("scales in %v are not exact in %v: export in fp32", m.Scales.DType, b.dtype)
		}
		return ir.Cast(m.Scales, b.dtype)
	})
	inputs := []*ir.Value{b.reorder(x, m.Order), constant(fmt.Sprintf(".weight_Q%d", m.Bits), m.Levels), scales}
	if m.ZeroPoints != nil {
		inputs = append(inputs, constant(".weight_zero_points", m.ZeroPoints))
	}
	return b.g.Add(ir.NodeSpec{
		Op: "MatMulNBits", Domain: microsoft, Name: path + "/MatMulNBits", Inputs: inputs, Outputs: []string{path + "/MatMulNBits/out"},
		Attrs: []*ir.Attr{
			ir.Int("K", m.K), ir.Int("N", m.N), ir.Int("bits", int64(m.Bits)), ir.Int("block_size", int64(m.BlockSize)),
			ir.Int("accuracy_level", int64(b.level)),
		},
	}).Output(0)
}

// reorder is x with its channels in another order. Products that want the same order read the same value, and so
// can be joined.
func (b *builder) reorder(x *ir.Value, order []int) *ir.Value {
	if order == nil {
		return x
	}
	key := fmt.Sprint(x.Name, order)
	if v := b.ordered[key]; v != nil {
		return v
	}
	path := fmt.Sprintf("%s/order_%d", x.Name, len(b.ordered))
	indices := make([]int64, len(order))
	for i, k := range order {
		indices[i] = int64(k)
	}
	at := b.g.AddInitializer(path+"/indices", ir.Int64Tensor(indices))
	v := b.g.Op("Gather", path+"/Gather", []*ir.Value{x, at}, ir.Int("axis", -1))
	b.ordered[key] = v
	return v
}

func (b *builder) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}
