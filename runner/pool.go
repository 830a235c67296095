package runner

import "github.com/qwenrt/qwenrt/ort"

// pool is the KV cache of a batch: for each layer keys and values [places, heads, C, head size]. The cache
// of place i is a view of it, [1, heads, C, head size], and that of the first n places is one too.
type pool struct {
	layout   *layout
	places   int
	capacity int // tokens
	tensors  []*ort.Tensor
}

func (p *pool) close() {
	closeAll(p.tensors)
	p.capacity = 0
}

// view is the cache i of n places from at on.
func (p *pool) view(i, at, n int) (*ort.Tensor, error) {
	l := p.layout
	place := int(l.kvHeads) * p.capacity * l.rowBytes()
	return p.tensors[i].View(at*place, int64(n), l.kvHeads, int64(p.capacity), l.kvWidth)
}

// grow makes room for capacity tokens in each place, and keeps what the sequences have. It replaces one
// tensor at a time. When it fails, tensors may differ in capacity: the pool counts as having none, and
// grows again before it is used.
func (p *pool) grow(capacity int, places []*Sequence) (err error) {
	if p.tensors == nil {
		p.tensors = make([]*ort.Tensor, 2*len(p.layout.layers))
	}
	p.capacity = capacity
	defer func() {
		if err != nil {
			p.capacity = 0
		}
	}()
	for i, old := range p.tensors {
		if p.tensors[i], err = p.layout.newCache(p.places, capacity); err != nil {
			p.tensors[i] = old
			return err
		}
		if old != nil {
			old.Close() // the views keep its memory
		}
		for at, s := range places {
			if s == nil {
				continue
			}
			s.cache.capacity = 0
			if err := p.put(s, i, at); err != nil {
				return err
			}
		}
	}
	for _, s := range places {
		if s == nil {
			continue
		}
		if err := s.lent(capacity); err != nil {
			return err
		}
	}
	return nil
}

// put gives s its part of cache i, and moves there what it has.
func (p *pool) put(s *Sequence, i, at int) error {
	v, err := p.view(i, at, 1)
	if err != nil {
		return err
	}
	old := s.cache.past[i]
	if old != nil {
		if err := p.layout.copyTokens(v, 0, old, 0, s.Len()); err != nil {
			v.Close()
			return err
		}
	}
	if err := s.cache.place(i, v); err != nil {
		return err
	}
	if old != nil {
		old.Close()
	}
	return nil
}

// lend gives a new sequence the place at.
func (p *pool) lend(s *Sequence, at int) error {
	if p.capacity == 0 {
		return nil
	}
	for i := range p.tensors {
		if err := p.put(s, i, at); err != nil {
			return err
		}
	}
	return s.lent(p.capacity)
}

// lent says that the cache of s has room for so many tokens by now.
func (s *Sequence) lent(capacity int) error {
	s.cache.capacity = capacity
	return s.growMask(capacity)
}

// batch is the step in which the first places of a pool take a token each. Its shapes change with the number of places
// alone: attention_mask is [places, C], and its rows have ones for as many tokens as a place has.
type batch struct {
	feed
	pool    *pool // nil: not open
	in, out []*ort.Slot
	bound   int   // places of the cache that are bound
	graphs  int   // mark of runs with one place, behind which those of more follow; 0: none
	ones    []int // in each row of the mask
}

// open is for a pool as large as it is now.
func (b *batch) open(r *Runner, p *pool, c *control) (err error) {
	if err := b.feed.open(r, p.places, c); err != nil {
		return err
	}
	b.graphs = r.newGraphs(p.places)
	if b.in, b.out, err = r.layout.cacheSlots(b.binding); err != nil {
		return err
	}
	if err := b.mask.make(r.layout, r.layout.at.mask, ort.Int64, int64(p.places), int64(p.capacity)); err != nil {
		return err
	}
	if err := b.bindLogits(p.places, 1); err != nil { // for all at once, or their place would change
		return err
	}
	b.pool, b.ones = p, make([]int, p.places)
	return b.mask.send(0, p.places*p.capacity) // zeros
}

// close lets go of the pool's memory, too.
func (b *batch) close() {
	b.feed.close()
	*b = batch{}
}

// fill sets the inputs of a step with a token for each row, to be written at that position.
func (b *batch) fill(tokens []int32, at []int) error {
	n := len(tokens)
	if err := b.bind(n); err != nil {
		return err
	}
	if err := b.shape(n, 1, b.pool.capacity, 1); err != nil {
		return err
	}
	for i := range n {
		ort.Data[int64](b.ids.seen)[i] = int64(tokens[i])
		if b.positions.bound != nil {
			ort.Data[int64](b.positions.seen)[i] = int64(at[i])
		}
		if err := b.extend(i, at[i]+1); err != nil {
			return err
		}
	}
	return nil
}

// extend makes the first n entries of a row of the mask ones, and the others zeros. It writes those that change.
func (b *batch) extend(row, n int) error {
	from, to, value := b.ones[row], n, int64(1)
	if n < from {
		from, to, value = n, from, 0
	}
	first := row * b.pool.capacity
	for i, m := from, ort.Data[int64](b.mask.seen)[first:]; i < to; i++ {
		m[i] = value
	}
	if err := b.mask.send(first+from, to-from); err != nil {
		return err
	}
	b.ones[row] = n
	return nil
}

// bind binds the cache of the first n places.
func (b *batch) bind(n int) error {
	if b.bound == n {
		return nil
	}
	b.bound = 0
	for i := range b.in {
		v, err := b.pool.view(i, 0, n)
		if err != nil {
			return err
		}
		err = b.in[i].Set(v)
		if err == nil {
			err = b.out[i].Set(v)
		}
		v.Close() // the binding keeps the memory
		if err != nil {
			return err
		}
	}
	b.bound = n
	if b.graphs > 0 {
		b.graph = b.graphs + n - 1
	}
	return nil
}
