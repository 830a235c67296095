package ir

import (
	"fmt"
	"io"
)

// Cast gives t in another floating point type, converted while it is read.
func Cast(t *Tensor, to DType) (*Tensor, error) {
	if t.DType == to {
		return t, nil
	}
	if !t.DType.Float() || !to.Float() {
		return nil, fmt.Errorf("ir: cannot cast weights from %v to %v", t.DType, to)
	}
	if c, ok := t.Data.(*castData); ok && c.src.DType == to {
		return &Tensor{DType: to, Shape: t.Shape, Data: c.src.Data}, nil
	}
	return &Tensor{DType: to, Shape: t.Shape, Data: &castData{t, to}}, nil
}

type castData struct {
	src *Tensor
	to  DType
}

func (c *castData) Len() int64 { return c.src.Len() * int64(c.to.Bits()/8) }
func (c *castData) Granule() int64 {
	return max(1, granule(c.src.Data)/int64(c.src.DType.Bits()/8)) * int64(c.to.Bits()/8)
}

func (c *castData) ReadAt(p []byte, off int64) (int, error) {
	size := int64(c.to.Bits() / 8)
	if off%size != 0 || int64(len(p))%size != 0 {
		return 0, fmt.Errorf("ir: read of %d bytes at %d splits an element of %v", len(p), off, c.to)
	}
	if c.to == Float32 {
		if dst, ok := floatsAt(p, len(p)/4); ok {
			return len(p), c.src.ReadFloat32(dst, off/size)
		}
	}
	buf := scratch(4 * (len(p) / int(size)))
	defer release(buf)
	v, _ := floatsAt(*buf, len(p)/int(size)) // pool buffers are aligned
	if err := c.src.ReadFloat32(v, off/size); err != nil {
		return 0, err
	}
	encodeFloats(p, v, c.to)
	return len(p), nil
}

// Transpose gives the transposed view of a matrix. The transposition of a transposition is the
// matrix itself, so a weight that was stored as [out, in] is read in that order again at no cost.
func Transpose(t *Tensor) (*Tensor, error) {
	if len(t.Shape) != 2 || t.Data == nil || t.DType.Bits()%8 != 0 {
		return nil, fmt.Errorf("ir: cannot transpose %v%v", t.DType, t.Shape)
	}
	switch d := t.Data.(type) {
	case *transposeData:
		return d.src, nil
	case *castData:
		if _, ok := d.src.Data.(*transposeData); ok {
			inner, err := Transpose(d.src)
			if err != nil {
				return nil, err
			}
			return Cast(inner, d.to)
		}
	}
	return &Tensor{DType: t.DType, Shape: []int64{t.Shape[1], t.Shape[0]}, Data: &transposeData{src: t}}, nil
}

// transposeData is a matrix [r, c] seen as [c, r].
type transposeData struct{ src *Tensor }

func (d *transposeData) elem() int64    { return int64(d.src.DType.Bits() / 8) }
func (d *transposeData) Len() int64     { return d.src.Data.Len() }
func (d *transposeData) Granule() int64 { return d.src.Shape[0] * d.elem() }

// tile is how many source rows are transposed at a time: their strip stays in cache, and each
// destination row receives whole cache lines.
const tile = 32

// ReadAt reads whole elements. Reads of many whole rows are the cheap ones.
func (d *transposeData) ReadAt(p []byte, off int64) (int, error) {
	size := d.elem()
	if off%size != 0 || int64(len(p))%size != 0 || off < 0 || off+int64(len(p)) > d.Len() {
		return 0, fmt.Errorf("ir: read of %d bytes at %d of a transposed matrix of %d bytes", len(p), off, d.Len())
	}
	if len(p) == 0 {
		return 0, nil
	}
	rows, cols := d.src.Shape[0], d.src.Shape[1] // of the source
	first, last := off/size/rows, (off+int64(len(p))-1)/size/rows
	width := last - first + 1
	strip := scratch(int(tile * width * size))
	defer release(strip)
	for r := int64(0); r < rows; r += tile {
		n := min(tile, rows-r)
		for i := range n {
			line := (*strip)[i*width*size : (i+1)*width*size]
			if _, err := d.src.Data.ReadAt(line, ((r+i)*cols+first)*size); err != nil && err != io.EOF {
				return 0, err
			}
		}
		for c := range width {
			// the n elements of destination row first+c from column r on, cut to what p holds
			at := ((first+c)*rows+r)*size - off
			lo, hi := max(0, -at/size), min(n, (int64(len(p))-at)/size)
			gather(p, at, *strip, c*size, width*size, size, lo, hi)
		}
	}
	return len(p), nil
}

// gather sets elements lo to hi of the row at p[at:] from src[from:] with a stride in bytes.
func gather(p []byte, at int64, src []byte, from, stride, size, lo, hi int64) {
	switch size {
	case 4:
		for i := lo; i < hi; i++ {
			put32(p[at+4*i:], le32(src[from+i*stride:]))
		}
	case 2:
		for i := lo; i < hi; i++ {
			put16(p[at+2*i:], le16(src[from+i*stride:]))
		}
	default:
		for i := lo; i < hi; i++ {
			copy(p[at+size*i:at+size*(i+1)], src[from+i*stride:])
		}
	}
}

// Concat joins tensors of one type along axis; the other dimensions must agree. Matrices that are
// transposed views are joined below the transposition, so they stay readable in stored order.
func Concat(axis int, ts ...*Tensor) (*Tensor, error) {
	if len(ts) == 0 {
		return nil, fmt.Errorf("ir: nothing to join")
	}
	first := ts[0]
	if axis < 0 || axis >= len(first.Shape) {
		return nil, fmt.Errorf("ir: no axis %d in shape %v", axis, first.Shape)
	}
	if inner, ok := concatBelow(axis, ts); ok {
		return inner()
	}
	shape := append([]int64(nil), first.Shape...)
	shape[axis] = 0
	for _, t := range ts {
		if t.DType != first.DType || len(t.Shape) != len(shape) || t.Data == nil || t.DType.Bits()%8 != 0 {
			return nil, fmt.Errorf("ir: cannot join %v%v with %v%v", first.DType, first.Shape, t.DType, t.Shape)
		}
		for i := range shape {
			if i != axis && t.Shape[i] != shape[i] {
				return nil, fmt.Errorf("ir: cannot join %v and %v along axis %d", first.Shape, t.Shape, axis)
			}
		}
		shape[axis] += t.Shape[axis]
	}
	c := &concatData{parts: make([]concatPart, len(ts))}
	inner := int64(first.DType.Bits() / 8)
	for _, d := range shape[axis+1:] {
		inner *= d
	}
	for i, t := range ts {
		c.parts[i] = concatPart{t.Data, t.Shape[axis] * inner, c.stride}
		c.stride += t.Shape[axis] * inner
		c.total += t.Data.Len()
	}
	return &Tensor{DType: first.DType, Shape: shape, Data: c}, nil
}

// concatBelow moves a concatenation of matrices below casts and transpositions that all share.
func concatBelow(axis int, ts []*Tensor) (func() (*Tensor, error), bool) {
	under := make([]*Tensor, len(ts))
	switch d := ts[0].Data.(type) {
	case *transposeData:
		for i, t := range ts {
			td, ok := t.Data.(*transposeData)
			if !ok {
				return nil, false
			}
			under[i] = td.src
		}
		return func() (*Tensor, error) {
			joined, err := Concat(1-axis, under...)
			if err != nil {
				return nil, err
			}
			return Transpose(joined)
		}, true
	case *castData:
		for i, t := range ts {
			cd, ok := t.Data.(*castData)
			if !ok || cd.to != d.to || cd.src.DType != d.src.DType {
				return nil, false
			}
			under[i] = cd.src
		}
		return func() (*Tensor, error) {
			joined, err := Concat(axis, under...)
			if err != nil {
				return nil, err
			}
			return Cast(joined, d.to)
		}, true
	}
	return nil, false
}

type concatPart struct {
	data  Data
	width int64 // bytes of one row of this part
	start int64 // where they begin in a joined row
}

// concatData joins rows of its parts; joined along the first axis there is one row.
type concatData struct {
	parts  []concatPart
	stride int64 // bytes of one joined row
	total  int64
}

func (c *concatData) Len() int64 { return c.total }
func (c *concatData) Granule() int64 {
	if c.stride == c.total { // one row: joined along the first axis
		return 1
	}
	return c.stride
}

func (c *concatData) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > c.total {
		return 0, fmt.Errorf("ir: read of %d bytes at %d of %d joined bytes", len(p), off, c.total)
	}
	for done := int64(0); done < int64(len(p)); {
		row, at := (off+done)/c.stride, (off+done)%c.stride
		for _, part := range c.parts {
			if at < part.start || at >= part.start+part.width {
				continue
			}
			n := min(part.start+part.width-at, int64(len(p))-done)
			if _, err := part.data.ReadAt(p[done:done+n], row*part.width+at-part.start); err != nil && err != io.EOF {
				return int(done), err
			}
			done, at = done+n, at+n
			if done == int64(len(p)) {
				break
			}
		}
	}
	return len(p), nil
}

// Reshape gives t another shape over the same data; the number of elements must agree.
func Reshape(t *Tensor, shape ...int64) (*Tensor, error) {
	n, err := NumElements(shape)
	if err != nil {
		return nil, err
	}
	if n != t.Len() {
		return nil, fmt.Errorf("ir: %d elements of shape %v do not fill %v", t.Len(), t.Shape, shape)
	}
	return &Tensor{DType: t.DType, Shape: shape, Data: t.Data, Strings: t.Strings}, nil
}

// granule is the number of bytes in multiples of which data is cheapest to read; 1 if it does not matter.
func granule(d Data) int64 {
	if g, ok := d.(interface{ Granule() int64 }); ok {
		if n := g.Granule(); n > 0 {
			return n
		}
	}
	return 1
}
