package calib

import (
	"fmt"
	"os"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/ort"
)

// spool keeps the values that one part of the graph gives to later ones: for each value a file, with the
// tensors of all batches. They are gigabytes, written once and read once or twice, soon after; the system
// keeps in memory what it has room for.
type spool struct {
	dir    string
	values map[*ir.Value]*spooled
}

// spooled is a value, batch after batch.
type spooled struct {
	file    *os.File
	size    int64
	batches []extent
}

type extent struct {
	dtype  ort.DType
	shape  []int64
	offset int64
}

func newSpool(dir string) *spool { return &spool{dir: dir, values: map[*ir.Value]*spooled{}} }

func (s *spool) close() {
	for v := range s.values {
		s.drop(v)
	}
}

// put appends the tensor of the next batch.
func (s *spool) put(v *ir.Value, t *ort.Tensor) error {
	p := s.values[v]
	if p == nil {
		f, err := tempFile(s.dir)
		if err != nil {
			return err
		}
		p = &spooled{file: f}
		s.values[v] = p
	}
	b := t.Bytes()
	if _, err := p.file.WriteAt(b, p.size); err != nil {
		return fmt.Errorf("calib: keep %s: %w", v.Name, err)
	}
	p.batches = append(p.batches, extent{t.DType(), append([]int64(nil), t.Shape()...), p.size})
	p.size += int64(len(b))
	return nil
}

// get reads the tensor of a batch, into the memory of reuse if that is not nil and large enough: to be given
// fresh pages for each batch costs more than to fill them. The caller closes what it gets; reuse is closed
// where it is not returned.
func (s *spool) get(v *ir.Value, batch int, reuse *ort.Tensor) (*ort.Tensor, error) {
	p := s.values[v]
	if p == nil || batch >= len(p.batches) {
		return nil, fmt.Errorf("calib: %s has not been computed", v.Name)
	}
	e := p.batches[batch]
	t := reuse
	if t == nil || t.DType() != e.dtype || t.Reshape(e.shape...) != nil {
		if t != nil {
			t.Close()
		}
		var err error
		if t, err = ort.NewTensor(e.dtype, e.shape...); err != nil {
			return nil, fmt.Errorf("calib: %w", err)
		}
	}
	if b := t.Bytes(); len(b) > 0 {
		if _, err := p.file.ReadAt(b, e.offset); err != nil {
			t.Close()
			return nil, fmt.Errorf("calib: read %s: %w", v.Name, err)
		}
	}
	return t, nil
}

// drop forgets a value.
func (s *spool) drop(v *ir.Value) {
	if p := s.values[v]; p != nil {
		p.file.Close()
		os.Remove(p.file.Name())
		delete(s.values, v)
	}
}

// tempFile is a file that nobody else sees. Where an open file can be removed it is at once, so that nothing is left
// behind by a process that is killed.
func tempFile(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "values")
	if err != nil {
		return nil, fmt.Errorf("calib: %w", err)
	}
	os.Remove(f.Name())
	return f, nil
}
