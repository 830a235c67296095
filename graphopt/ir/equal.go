package ir

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"
)

// comparedBytes is about how much of each of two tensors is compared at a time.
const comparedBytes = 1 << 20

var errDiffer = errors.New("they differ")

// Equal reports whether two numeric tensors have the same type, shape and content, bit for bit. Views that both
// share are looked below, so that what is cast in both is compared as it is stored. Content is read in pieces on all cores, up
// to the first one that differs: weights that are not equal cost a few pieces, whatever their size.
func Equal(ctx context.Context, a, b *Tensor) (bool, error) {
	if a.DType != b.DType || !slices.Equal(a.Shape, b.Shape) || a.Data == nil || b.Data == nil {
		return false, nil
	}
	a, b = below(a, b)
	if a.Data == b.Data {
		return true, nil
	}
	if a.DType != b.DType || !slices.Equal(a.Shape, b.Shape) || a.Data.Len() != b.Data.Len() {
		return false, nil
	}
	step := comparedStep(a, b)
	group, during := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for off := int64(0); off < a.Data.Len() && during.Err() == nil; off += step {
		group.Go(func() error {
			if err := during.Err(); err != nil {
				return err
			}
			same, err := equalRange(a.Data, b.Data, off, min(step, a.Data.Len()-off))
			if err == nil && !same {
				err = errDiffer
			}
			return err
		})
	}
	err := group.Wait()
	if errors.Is(err, errDiffer) {
		return false, nil
	}
	if err == nil {
		err = ctx.Err() // it may have ended before the first piece
	}
	return err == nil, err
}

// below takes off the views that both tensors share and that keep what differs different.
func below(a, b *Tensor) (*Tensor, *Tensor) {
	for {
		x, y := uncast(a), uncast(b)
		if x == nil || y == nil || x.DType != y.DType || x.DType.Bits() >= a.DType.Bits() {
			x, y = untranspose(a), untranspose(b)
		}
		if x == nil || y == nil || a.Data == b.Data {
			return a, b
		}
		a, b = x, y
	}
}

// comparedStep is a number of bytes that both tensors are cheap to read in.
func comparedStep(a, b *Tensor) int64 {
	step := max(granule(a.Data), granule(b.Data), int64(a.DType.Bits()/8), 1)
	return max(comparedBytes/step, 1) * step
}

// equalRange compares one piece of two tensors.
func equalRange(a, b Data, off, n int64) (bool, error) {
	x, done, err := borrow(a, off, n)
	if err != nil {
		return false, err
	}
	defer done()
	y, done, err := borrow(b, off, n)
	if err != nil {
		return false, err
	}
	defer done()
	return bytes.Equal(x, y), nil
}

// borrow gives a range of data: without a copy where it lies in memory. done ends its use.
func borrow(d Data, off, n int64) (p []byte, done func(), err error) {
	if b, ok := d.(*Buffer); ok {
		return b.b[off : off+n], func() {}, nil
	}
	buf := scratch(int(n))
	if err := readFull(d, *buf, off); err != nil {
		release(buf)
		return nil, nil, err
	}
	return *buf, func() { release(buf) }, nil
}
