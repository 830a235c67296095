package ir

import "slices"

// Cast gives t in another floating point type, rounded to nearest, converted while it is read. A
// cast back is the data itself, as it was stored: what a narrower type in between would have
// rounded is not lost, and reading costs nothing. Reading fails with ErrOverflow at a finite number that
// the narrower type does not hold.
func Cast(t *Tensor, to DType) (*Tensor, error) {
	if t.DType == to {
		return t, nil
	}
	if !t.DType.Float() || !to.Float() || t.Data == nil {
		return nil, errorf("cannot cast weights from %v to %v", t.DType, to)
	}
	if under := uncast(t); under != nil && under.DType == to {
		return under, nil
	}
	return &Tensor{DType: to, Shape: t.Shape, Data: &castData{t.Data, t.DType, to}}, nil
}

type castData struct {
	src      Data
	from, to DType
}

func (c *castData) Len() int64 {
	return c.src.Len() / int64(c.from.Bits()/8) * int64(c.to.Bits()/8)
}

func (c *castData) Granule() int64 {
	return max(1, granule(c.src)/int64(c.from.Bits()/8)) * int64(c.to.Bits()/8)
}

func (c *castData) ReadAt(p []byte, off int64) (int, error) {
	size, from := int64(c.to.Bits()/8), int64(c.from.Bits()/8)
	if err := checkRead(c, p, off, size); err != nil {
		return 0, err
	}
	n, at := int64(len(p))/size, off/size*from
	var src []byte
	if b, ok := c.src.(*Buffer); ok {
		src = b.b[at : at+n*from]
	} else {
		buf := scratch(int(n * from))
		defer release(buf)
		if err := readFull(c.src, *buf, at); err != nil {
			return 0, err
		}
		src = *buf
	}
	if i, x := convert(p, src, c.from, c.to); i >= 0 {
		return 0, errorf("element %d is %g: %w: %v", at/from+int64(i), x, ErrOverflow, c.to)
	}
	return len(p), nil
}

// checkRead refuses reads of views that do not keep to whole elements, or leave the data.
func checkRead(d Data, p []byte, off, size int64) error {
	if n := int64(len(p)); off < 0 || n > d.Len()-off || off%size != 0 || n%size != 0 {
		return errorf("read of %d bytes at %d of %d bytes in elements of %d", n, off, d.Len(), size)
	}
	return nil
}

// Transpose gives the transposed view of a matrix. The transposition of a transposition is the
// matrix itself, so a weight that was stored as [out, in] is read in that order again at no cost.
// A cast matrix is transposed below the cast, where its elements are as they are stored.
func Transpose(t *Tensor) (*Tensor, error) {
	if len(t.Shape) != 2 || t.Data == nil || t.DType.Bits()%8 != 0 {
		return nil, errorf("cannot transpose %v%v", t.DType, t.Shape)
	}
	if under := uncast(t); under != nil {
		under, err := Transpose(under)
		if err != nil {
			return nil, err
		}
		return Cast(under, t.DType)
	}
	if under := untranspose(t); under != nil {
		return under, nil
	}
	shape := []int64{t.Shape[1], t.Shape[0]}
	d := &transposeData{src: t.Data, rows: t.Shape[0], cols: t.Shape[1], size: int64(t.DType.Bits() / 8)}
	return &Tensor{DType: t.DType, Shape: shape, Data: d}, nil
}

// uncast is the tensor of which t is a cast, nil if it is none.
func uncast(t *Tensor) *Tensor {
	c, ok := t.Data.(*castData)
	if !ok {
		return nil
	}
	return &Tensor{DType: c.from, Shape: t.Shape, Data: c.src}
}

// untranspose is the matrix of which t is the transposition, nil if it is none: t may have been
// reshaped since.
func untranspose(t *Tensor) *Tensor {
	d, ok := t.Data.(*transposeData)
	if !ok || !slices.Equal(t.Shape, []int64{d.cols, d.rows}) {
		return nil
	}
	return &Tensor{DType: t.DType, Shape: []int64{d.rows, d.cols}, Data: d.src}
}

// transposeData is a matrix [rows, cols] seen as [cols, rows].
type transposeData struct {
	src              Data
	rows, cols, size int64
}

func (d *transposeData) Len() int64 { return d.src.Len() }

// Granule is tile rows of the result: so many columns of the source are read in whole cache lines.
func (d *transposeData) Granule() int64 { return d.rows * d.size * min(tile, d.cols) }

// tile is the side of the squares in which matrices are transposed: small enough for the first
// level cache, and a cache line or more wide on both sides.
const tile = 32

// ReadAt reads whole elements. Reads of many whole rows are the cheap ones.
func (d *transposeData) ReadAt(p []byte, off int64) (int, error) {
	size := d.size
	if err := checkRead(d, p, off, size); err != nil || len(p) == 0 {
		return 0, err
	}
	buf := scratch(int(2 * tile * tile * size))
	defer release(buf)
	in, out := (*buf)[:tile*tile*size], (*buf)[tile*tile*size:]
	end := off + int64(len(p))
	first, last := off/size/d.rows, (end-1)/size/d.rows // columns of the source
	for c := first; c <= last; c += tile {
		for r := int64(0); r < d.rows; r += tile {
			w, h := min(tile, last+1-c), min(tile, d.rows-r)
			for i := range h {
				if err := d.readLine(in[i*tile*size:][:w*size], ((r+i)*d.cols+c)*size); err != nil {
					return 0, err
				}
			}
			transposeSquare(out, in, int(size))
			for i := range w {
				// column c+i of the source from row r on, cut to what p holds of it
				at := ((c+i)*d.rows + r) * size
				lo, hi := max(at, off), min(at+h*size, end)
				if lo < hi {
					copy(p[lo-off:hi-off], out[i*tile*size+lo-at:])
				}
			}
		}
	}
	return len(p), nil
}

func (d *transposeData) readLine(p []byte, off int64) error {
	if b, ok := d.src.(*Buffer); ok {
		copy(p, b.b[off:])
		return nil
	}
	return readFull(d.src, p, off)
}

// transposeSquare transposes tile × tile elements. Elements of two and four bytes, which weights
// have, go in blocks of 4×4 and 2×2 through 64-bit words.
func transposeSquare(out, in []byte, size int) {
	switch size {
	case 2:
		for r := 0; r < tile; r += 4 {
			for c := 0; c < tile; c += 4 {
				transpose4x4(out[2*(c*tile+r):], in[2*(r*tile+c):])
			}
		}
	case 4:
		for r := 0; r < tile; r += 2 {
			for c := 0; c < tile; c += 2 {
				transpose2x2(out[4*(c*tile+r):], in[4*(r*tile+c):])
			}
		}
	default:
		for r := range tile {
			for c := range tile {
				copy(out[size*(c*tile+r):][:size], in[size*(r*tile+c):])
			}
		}
	}
}

// transpose4x4 transposes 16-bit elements in rows of tile.
func transpose4x4(out, in []byte) {
	const row, even = 2 * tile, 0x0000ffff_0000ffff
	in, out = in[:3*row+8], out[:3*row+8]
	a, b, c, d := le.Uint64(in), le.Uint64(in[row:]), le.Uint64(in[2*row:]), le.Uint64(in[3*row:])
	// columns 0 and 2, 1 and 3 of two rows; then of four
	ab02, ab13 := a&even|b&even<<16, a>>16&even|b&^even
	cd02, cd13 := c&even|d&even<<16, c>>16&even|d&^even
	le.PutUint64(out, ab02&0xffffffff|cd02<<32)
	le.PutUint64(out[row:], ab13&0xffffffff|cd13<<32)
	le.PutUint64(out[2*row:], ab02>>32|cd02>>32<<32)
	le.PutUint64(out[3*row:], ab13>>32|cd13>>32<<32)
}

// transpose2x2 transposes 32-bit elements in rows of tile.
func transpose2x2(out, in []byte) {
	const row = 4 * tile
	in, out = in[:row+8], out[:row+8]
	a, b := le.Uint64(in), le.Uint64(in[row:])
	le.PutUint64(out, a&0xffffffff|b<<32)
	le.PutUint64(out[row:], a>>32|b>>32<<32)
}

// Concat joins tensors of one type along axis; the other dimensions must agree. Casts and
// transposed matrices are joined below those views, so they stay readable in stored order.
func Concat(axis int, ts ...*Tensor) (*Tensor, error) {
	if len(ts) == 0 {
		return nil, errorf("nothing to join")
	}
	first := ts[0]
	if axis < 0 || axis >= len(first.Shape) {
		return nil, errorf("no axis %d in shape %v", axis, first.Shape)
	}
	if under := each(ts, uncast); under != nil && sameType(under) && sameType(ts) {
		joined, err := Concat(axis, under...)
		if err != nil {
			return nil, err
		}
		return Cast(joined, first.DType)
	}
	if under := each(ts, untranspose); under != nil {
		joined, err := Concat(1-axis, under...)
		if err != nil {
			return nil, err
		}
		return Transpose(joined)
	}
	shape := append([]int64(nil), first.Shape...)
	shape[axis] = 0
	for _, t := range ts {
		if t.DType != first.DType || len(t.Shape) != len(shape) || t.Data == nil || t.DType.Bits()%8 != 0 {
			return nil, errorf("cannot join %v%v with %v%v", first.DType, first.Shape, t.DType, t.Shape)
		}
		for i := range shape {
			if i != axis && t.Shape[i] != shape[i] {
				return nil, errorf("cannot join %v and %v along axis %d", first.Shape, t.Shape, axis)
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

// each applies f to all; nil if it gives nil for any.
func each(ts []*Tensor, f func(*Tensor) *Tensor) []*Tensor {
	out := make([]*Tensor, len(ts))
	for i, t := range ts {
		if out[i] = f(t); out[i] == nil {
			return nil
		}
	}
	return out
}

func sameType(ts []*Tensor) bool {
	return !slices.ContainsFunc(ts, func(t *Tensor) bool { return t.DType != ts[0].DType })
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
	if err := checkRead(c, p, off, 1); err != nil {
		return 0, err
	}
	for done := int64(0); done < int64(len(p)); {
		row, at := (off+done)/c.stride, (off+done)%c.stride
		for _, part := range c.parts {
			n := min(part.start+part.width-at, int64(len(p))-done)
			if n <= 0 {
				continue
			}
			if err := readFull(part.data, p[done:done+n], row*part.width+at-part.start); err != nil {
				return int(done), err
			}
			done, at = done+n, at+n
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
		return nil, errorf("%d elements of shape %v do not fill %v", t.Len(), t.Shape, shape)
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
