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
	Tensor    string `json:"tensor"`
	Method    Method `json:"method"`
	Scale     Scale  `json:"scale,omitempty"` // of RTN
	Bits      int    `json:"bits"`
	BlockSize int    `json:"block_size"`
	Symmetric bool   `json:"symmetric"`
	// AccuracyLevel is that of the products; 0 where the weight is only looked up.
	AccuracyLevel int   `json:"accuracy_level,omitempty"`
	Weights       int64 `json:"weights"`
	BytesBefore   int64 `json:"bytes_before"`
	BytesAfter    int64 `json:"bytes_after"` // scales and zero points included
	// RMSE is the root of the mean squared difference to the source, and SNR that of signal to noise in
	// decibels. Of large tensors an evenly spread part is measured, good for about two digits. Both are 0
	// until the model has been saved; SNR is also 0 where there is no noise.
	RMSE float64 `json:"rmse"`
	SNR  float64 `json:"snr_db"`
	// ProductSNR is the ratio of signal to noise in decibels that is expected of the weight's products in
	// integers, where calibration has estimated it, and Reason why they are not computed in integers though
	// that is asked for.
	ProductSNR float64 `json:"product_snr_db,omitempty"`
	Reason     string  `json:"reason,omitempty"`
	// Loss is the squared error of the products relative to the products, where calibration has measured it.
	Loss float64 `json:"loss,omitempty"`
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
	decisions := p.Decisions()
	for i, w := range p.weights {
		t := w.report()
		if w.asked != "" {
			t.ProductSNR, t.Reason = p.set.Int8.Expected[w.name], w.reason
		}
		t.AccuracyLevel = decisions[i].AccuracyLevel
		r.Tensors = append(r.Tensors, t)
		r.BytesAfter += t.BytesAfter
	}
	return r
}

// bytes is the size of w in a format, with scales and zero points.
func (w *weight) bytes(f Format) int64 {
	n, k := w.rows.Shape[0], w.rows.Shape[1]
	if w.c != nil {
		return w.c.bytes()
	}
	return n * (f.RowBytes(k) + f.Blocks(k)*int64(w.scales.Bits()/8) + f.ZeroPointBytes(k))
}

func (w *weight) report() TensorReport {
	f, n, k := w.format, w.rows.Shape[0], w.rows.Shape[1]
	t := TensorReport{
		Tensor: w.name, Method: w.method, Scale: w.scale, Bits: f.Bits, BlockSize: f.BlockSize, Symmetric: f.Symmetric,
		Weights: n * k, BytesBefore: w.before,
		BytesAfter: w.bytes(f),
	}
	var errors []errorSums
	if w.c != nil {
		errors = w.c.errors
	} else if errors = w.p.errors; w.p.ready != nil {
		t.RMSE, t.SNR, t.Loss = w.p.ready.RMSE, w.p.ready.SNR, w.p.ready.Loss
		return t
	}
	var sum errorSums
	for _, e := range errors {
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
