package runner

import (
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/ort"
)

// feed is what a run takes and gives beside the KV cache, bound to the session once: input_ids [batch, n],
// attention_mask [batch, total], position_ids [batch, n], logits [batch, rows, vocabulary].
type feed struct {
	r       *Runner
	binding *ort.Binding
	control *ort.RunControl

	ids, mask, positions, keep, logits    *ort.Tensor
	idsIn, maskIn, positionsIn, logitsOut *ort.Slot

	batch, n, total, rows int // as bound; 0 where nothing is
	sized                 int // rows of logits, of all of the batch, that there is memory for
	wide                  []float32
}

// open makes room for size tokens a run, in a batch or not.
func (f *feed) open(r *Runner, size int) (err error) {
	f.r = r
	if f.binding, err = r.session.NewBinding(); err != nil {
		return err
	}
	if f.control, err = ort.NewRunControl(); err != nil {
		return err
	}
	if f.idsIn, err = f.binding.Input(inputIDs); err != nil {
		return err
	}
	if f.maskIn, err = f.binding.Input(attentionMask); err != nil {
		return err
	}
	if f.logitsOut, err = f.binding.Output(logitsOutput); err != nil {
		return err
	}
	if f.ids, err = ort.NewTensor(ort.Int64, 1, int64(size)); err != nil {
		return err
	}
	if r.layout.positions {
		if f.positionsIn, err = f.binding.Input(positionIDs); err != nil {
			return err
		}
		if f.positions, err = ort.NewTensor(ort.Int64, 1, int64(size)); err != nil {
			return err
		}
	}
	if r.layout.keep {
		if f.keep, err = ort.NewTensor(ort.Int64, 1); err != nil {
			return err
		}
		if err = f.binding.BindInput(logitsToKeep, f.keep); err != nil {
			return err
		}
	}
	if r.layout.logits != ort.Float32 {
		f.wide = make([]float32, r.layout.vocab)
	}
	return nil
}

func (f *feed) close() {
	if f.binding != nil {
		f.binding.Close()
	}
	if f.control != nil {
		f.control.Close()
	}
	closeAll([]*ort.Tensor{f.ids, f.mask, f.positions, f.keep, f.logits})
}

// growMask makes an attention mask of n ones. A run binds as much of it as it has tokens.
func (f *feed) growMask(n int) error {
	mask, err := ort.NewTensor(ort.Int64, 1, int64(n))
	if err != nil {
		return err
	}
	for i, m := 0, ort.Data[int64](mask); i < len(m); i++ {
		m[i] = 1
	}
	if f.mask != nil {
		f.mask.Close()
	}
	f.mask, f.total = mask, 0
	return nil
}

// shape binds what has not the shape that the next run wants, with the last rows of logits of each sequence
// of the batch.
func (f *feed) shape(batch, n, total, rows int) error {
	if f.batch != batch || f.n != n {
		f.n = 0 // until it is true again
		if err := rebind(f.ids, f.idsIn, batch, n); err != nil {
			return err
		}
		if f.positions != nil {
			if err := rebind(f.positions, f.positionsIn, batch, n); err != nil {
				return err
			}
		}
	}
	if f.batch != batch || f.total != total {
		f.total = 0
		if err := rebind(f.mask, f.maskIn, batch, total); err != nil {
			return err
		}
	}
	if f.keep != nil {
		ort.Data[int64](f.keep)[0] = int64(rows)
	} else {
		rows = n
	}
	if f.batch != batch || f.rows != rows {
		f.rows = 0
		if err := f.bindLogits(batch, rows); err != nil {
			return err
		}
	}
	f.batch, f.n, f.total, f.rows = batch, n, total, rows
	return nil
}

func rebind(t *ort.Tensor, slot *ort.Slot, batch, n int) error {
	if err := t.Reshape(int64(batch), int64(n)); err != nil {
		return err
	}
	return slot.Set(t)
}

func (f *feed) bindLogits(batch, rows int) error {
	if batch*rows > f.sized {
		t, err := ort.NewTensor(f.r.layout.logits, int64(batch), int64(rows), f.r.layout.vocab)
		if err != nil {
			return err
		}
		if f.logits != nil {
			f.logits.Close()
		}
		f.logits, f.sized = t, batch*rows
	} else if err := f.logits.Reshape(int64(batch), int64(rows), f.r.layout.vocab); err != nil {
		return err
	}
	return f.logitsOut.Set(f.logits)
}

// row gives row i of the logits, counted through the batch, as float32: in place, or widened.
func (f *feed) row(i int) []float32 {
	v := int(f.r.layout.vocab)
	if f.wide == nil {
		return ort.Data[float32](f.logits)[i*v : (i+1)*v : (i+1)*v]
	}
	half := ort.Data[uint16](f.logits)[i*v : (i+1)*v]
	ir.WidenHalf(f.wide, half, f.r.layout.logits == ort.BFloat16)
	return f.wide
}
