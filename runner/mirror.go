package runner

import "github.com/qwenrt/qwenrt/ort"

// mirror is an input or an output of a session that this package writes or reads itself. It is bound where the session
// has it, so that a run copies nothing; where that is the memory of a device, it is written and read in a copy on the CPU.
type mirror struct {
	slot  *ort.Slot
	bound *ort.Tensor // nil: none yet
	seen  *ort.Tensor // on the CPU: bound itself, or as large as that was made
}

// make gives m memory at a place that the session has.
func (m *mirror) make(l *layout, at ort.Location, dtype ort.DType, shape ...int64) error {
	bound, err := l.session.NewTensor(at, dtype, shape...)
	if err != nil {
		return err
	}
	seen := bound
	if !bound.OnCPU() {
		if seen, err = ort.NewTensor(dtype, shape...); err != nil {
			bound.Close()
			return err
		}
	}
	m.close()
	m.bound, m.seen = bound, seen
	return nil
}

func (m *mirror) close() {
	if m.bound == nil {
		return
	}
	if m.seen != m.bound {
		m.seen.Close()
	}
	m.bound.Close()
	m.bound, m.seen = nil, nil
}

// bind binds the first elements of m in a shape.
func (m *mirror) bind(shape ...int64) error {
	if err := m.bound.Reshape(shape...); err != nil {
		return err
	}
	return m.slot.Set(m.bound)
}

// send brings what has been written, n elements from one on, to where the session reads it.
func (m *mirror) send(from, n int) error { return m.copy(m.bound, m.seen, from, n) }

// fetch brings what a run has written to where it can be read.
func (m *mirror) fetch(from, n int) error { return m.copy(m.seen, m.bound, from, n) }

func (m *mirror) copy(dst, src *ort.Tensor, from, n int) error {
	if dst == src {
		return nil
	}
	size := dst.DType().Bits() / 8
	return ort.CopyBytes(dst, from*size, src, from*size, n*size)
}
