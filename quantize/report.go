package quantize

import "math"

// Report says what quantisation did to a model's weights.
type Report struct {
	Tensors []TensorReport `json:"tensors"`
	Kept    []Kept         `json:"kept,omitempty"`
	// Totals over all float weights, those that were kept included.
	Weights     int64 `json:"weights"`
	BytesBefore int64 `json:"bytes_before"`
	BytesAfter  int64 `json:"bytes_after"`
}

// TensorReport is what became of one weight.
type TensorReport struct {
	Tensor      string `json:"tensor"`
	Method      Method `json:"method"`
	Bits        int    `json:"bits"`
	BlockSize   int    `json:"block_size"`
	Symmetric   bool   `json:"symmetric"`
	Weights     int64  `json:"weights"`
	BytesBefore int64  `json:"bytes_before"`
	BytesAfter  int64  `json:"bytes_after"` // scales and zero points included
	// RMSE is the root of the mean squared difference to the source, and SNR that of signal to noise in
	// decibels. Of large tensors an evenly spread part is measured, good for about two digits. Both are 0
	// until the model has been saved; SNR is also 0 where there is no noise.
	RMSE float64 `json:"rmse"`
	SNR  float64 `json:"snr_db"`
}

// BitsPerWeight is the size after quantisation over all float weights.
func (r Report) BitsPerWeight() float64 {
	if r.Weights == 0 {
		return 0
	}
	return float64(8*r.BytesAfter) / float64(r.Weights)
}

// Report is what the plan has done, once it has been applied, and with what error, once the model has
// been saved.
func (p *Plan) Report() Report {
	r := Report{Kept: p.Kept(), Weights: p.before.weights, BytesBefore: p.before.bytes, BytesAfter: p.rest.bytes}
	for _, w := range p.weights {
		t := w.report()
		t.Method = p.set.Method
		r.Tensors = append(r.Tensors, t)
		r.BytesAfter += t.BytesAfter
	}
	return r
}

func (w *weight) report() TensorReport {
	f, n, k := w.format, w.p.n, w.p.k
	t := TensorReport{
		Tensor: w.name, Bits: f.Bits, BlockSize: f.BlockSize, Symmetric: f.Symmetric,
		Weights: n * k, BytesBefore: w.before,
		BytesAfter: n * (f.RowBytes(k) + f.Blocks(k)*int64(w.rows.DType.Bits()/8) + f.ZeroPointBytes(k)),
	}
	var sum errorSums
	for _, e := range w.p.errors {
		sum.count += e.count
		sum.signal += e.signal
		sum.noise += e.noise
	}
	if sum.count > 0 {
		t.RMSE = math.Sqrt(sum.noise / float64(sum.count))
	}
	if sum.noise > 0 {
		t.SNR = 10 * math.Log10(sum.signal/sum.noise)
	}
	return t
}
