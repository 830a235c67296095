package runner

import (
	"strconv"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/ort"
)

// feed is what a run takes and gives beside the KV cache, bound to the session once: input_ids [batch, n],
// attention_mask [batch, total], position_ids [batch, n], logits [batch, rows, vocabulary].
type feed struct {
	r       *Runner
	binding *ort.Binding
	control *control
	graph   int        // as what a provider may capture the runs; 0 where they have no marks
	done    chan error // of a run on the runner's thread

	ids, mask, positions, logits mirror
	keep                         *ort.Tensor // nil: a run gives all rows

	batch, n, total, rows int // as bound; 0 where nothing is
	asked                 int // of rows, the last ones
	sized                 int // rows of logits, of all of the batch, that there is memory for
	wide                  []float32
}

// open makes room for size tokens a run, in a batch or not. Its runs give all rows of logits.
func (f *feed) open(r *Runner, size int, c *control) (err error) {
	f.r, f.control = r, c
	l := r.layout
	if r.thread != nil {
		f.graph, f.done = noGraph, make(chan error, 1)
	}
	if f.binding, err = r.session.NewBinding(); err != nil {
		return err
	}
	if f.ids.slot, err = f.binding.Input(inputIDs); err != nil {
		return err
	}
	if f.mask.slot, err = f.binding.Input(attentionMask); err != nil {
		return err
	}
	if f.logits.slot, err = f.binding.Output(logitsOutput); err != nil {
		return err
	}
	if err = f.ids.make(l, l.at.ids, ort.Int64, 1, int64(size)); err != nil {
		return err
	}
	if l.positions {
		if f.positions.slot, err = f.binding.Input(positionIDs); err != nil {
			return err
		}
		if err = f.positions.make(l, l.at.positions, ort.Int64, 1, int64(size)); err != nil {
			return err
		}
	}
	if l.logits != ort.Float32 {
		f.wide = make([]float32, l.vocab)
	}
	return nil
}

// bindKeep has runs give the rows of logits that are asked for alone, where the graph can.
func (f *feed) bindKeep() (err error) {
	if !f.r.layout.keep {
		return nil
	}
	if f.keep, err = ort.NewTensor(ort.Int64, 1); err != nil {
		return err
	}
	return f.binding.BindInput(logitsToKeep, f.keep)
}

func (f *feed) close() {
	if f.binding != nil {
		f.binding.Close()
	}
	if f.control != nil {
		f.control.Close()
	}
	for _, m := range []*mirror{&f.ids, &f.mask, &f.positions, &f.logits} {
		m.close()
	}
	if f.keep != nil {
		f.keep.Close()
	}
}

// growMask makes an attention mask of n ones. A run binds as much of it as it has tokens.
func (f *feed) growMask(n int) error {
	if err := f.mask.make(f.r.layout, f.r.layout.at.mask, ort.Int64, 1, int64(n)); err != nil {
		return err
	}
	f.total = 0
	for i, m := 0, ort.Data[int64](f.mask.seen); i < n; i++ {
		m[i] = 1
	}
	return f.mask.send(0, n)
}

// shape binds what has not the shape that the next run wants. Of the logits of each sequence of the batch, the last
// rows are asked for.
func (f *feed) shape(batch, n, total, rows int) error {
	if f.batch != batch || f.n != n {
		f.n = 0 // until it is true again
		if err := f.ids.bind(int64(batch), int64(n)); err != nil {
			return err
		}
		if f.positions.bound != nil {
			if err := f.positions.bind(int64(batch), int64(n)); err != nil {
				return err
			}
		}
	}
	if f.batch != batch || f.total != total {
		f.total = 0
		if err := f.mask.bind(int64(batch), int64(total)); err != nil {
			return err
		}
	}
	f.asked = rows
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

func (f *feed) bindLogits(batch, rows int) error {
	l := f.r.layout
	if batch*rows > f.sized {
		if err := f.logits.make(l, l.at.logits, l.logits, int64(batch), int64(rows), l.vocab); err != nil {
			return err
		}
		f.sized = batch * rows
	}
	return f.logits.bind(int64(batch), int64(rows), l.vocab)
}

// run runs the session on what is bound, and fetches the rows of logits that were asked for.
func (f *feed) run() error {
	if err := f.ids.send(0, f.batch*f.n); err != nil {
		return err
	}
	if f.positions.bound != nil {
		if err := f.positions.send(0, f.batch*f.n); err != nil {
			return err
		}
	}
	if err := f.runSession(); err != nil {
		return err
	}
	v := int(f.r.layout.vocab)
	return f.logits.fetch(f.first()*v, f.batch*f.asked*v)
}

func (f *feed) runSession() error {
	if f.graph != f.control.graph {
		if err := f.control.AddRunConfigEntry(graphKey, strconv.Itoa(f.graph)); err != nil {
			return err
		}
		f.control.graph = f.graph
	}
	if f.r.thread != nil {
		return f.r.thread.run(f)
	}
	return f.binding.Run(f.control.RunControl)
}

// first is the first row of those asked for. A batch asks for all.
func (f *feed) first() int { return f.batch * (f.rows - f.asked) }

// row gives row i of the logits asked for, counted through the batch, as float32: in place, or widened.
func (f *feed) row(i int) []float32 {
	v := int(f.r.layout.vocab)
	i += f.first()
	if f.wide == nil {
		return ort.Data[float32](f.logits.seen)[i*v : (i+1)*v : (i+1)*v]
	}
	half := ort.Data[uint16](f.logits.seen)[i*v : (i+1)*v]
	ir.WidenHalf(f.wide, half, f.r.layout.logits == ort.BFloat16)
	return f.wide
}
