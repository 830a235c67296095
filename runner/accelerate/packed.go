package accelerate

import (
	"errors"

	"github.com/qwenrt/qwenrt/quantize"
)

// packedOption is where the manifest's export step says how the checkpoint had been quantised.
const packedOption = "packed"

// openPacked lists the weights that the checkpoint has quantised.
func (w *work) openPacked() error {
	method, weights, err := w.source.Packed()
	if err != nil {
		return err
	}
	w.method = string(method)
	for _, p := range weights {
		w.packed = append(w.packed, quantize.TensorReport{
			Tensor: p.Name, Method: quantize.Method(method), Bits: p.Bits, BlockSize: p.BlockSize, Symmetric: p.Symmetric,
			AccuracyLevel: w.set.AccuracyLevel, Weights: p.Rows * p.Columns, BytesBefore: p.Bytes, BytesAfter: p.Bytes,
		})
	}
	return nil
}

// mixed reports whether the model's weights come from a checkpoint that has quantised some of them.
func (w *work) mixed() bool {
	for _, s := range w.manifest.Steps {
		if s.Options[packedOption] != "" {
			return true
		}
	}
	return false
}

// restOptions makes options fit for what a packed checkpoint has in floating point. Channels are not evened out there:
// what reads them has its levels already.
func (w *work) restOptions(o *quantize.Options) error {
	switch {
	case w.set.integer():
		return errors.New("accelerate: the checkpoint is quantised already: what is left can be int4, int8 or none")
	case w.set.TargetBits > 0:
		return errors.New("accelerate: the checkpoint is quantised already: leave target bits out")
	case w.set.Precision == None:
		*o = quantize.Options{Rules: []quantize.Rule{{Match: "*", Keep: true}}}
	}
	o.Mixed = true
	return nil
}
