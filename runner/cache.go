package runner

import "github.com/qwenrt/qwenrt/ort"

// cache is the KV cache of one sequence: for each layer keys and values [1, heads, C, head size].
//
// Where the graph allows it, past and present are one tensor of C tokens, of which the first ones are in
// use; it grows in steps. Otherwise the present of each step is a new tensor that is the past of the next.
type cache struct {
	layout   *layout
	capacity int           // tokens
	past     []*ort.Tensor // keys and values in turn
	present  []*ort.Tensor // of the step under way; nil where past and present are one
	in, out  []*ort.Slot
}

// cacheStep is the number of tokens by multiples of which a cache grows.
const cacheStep = 256

func (c *cache) open(b *ort.Binding, l *layout) (err error) {
	c.layout = l
	if c.in, c.out, err = l.cacheSlots(b); err != nil {
		return err
	}
	c.past = make([]*ort.Tensor, len(c.in))
	c.present = make([]*ort.Tensor, len(c.in))
	return nil
}

// cacheSlots gives the slots of pasts and presents, keys and values in turn.
func (l *layout) cacheSlots(b *ort.Binding) (in, out []*ort.Slot, err error) {
	for _, n := range l.layers {
		for _, names := range [][2]string{{n.pastKey, n.presentKey}, {n.pastValue, n.presentValue}} {
			i, err := b.Input(names[0])
			if err != nil {
				return nil, nil, err
			}
			o, err := b.Output(names[1])
			if err != nil {
				return nil, nil, err
			}
			in, out = append(in, i), append(out, o)
		}
	}
	return in, out, nil
}

func (c *cache) close() {
	closeAll(c.past)
	closeAll(c.present)
}

func closeAll(ts []*ort.Tensor) {
	for i, t := range ts {
		if t != nil {
			t.Close()
			ts[i] = nil
		}
	}
}

// newCache makes keys or values of a layer, for n sequences of at most so many tokens.
func (l *layout) newCache(n, tokens int) (*ort.Tensor, error) {
	return l.session.NewTensor(l.at.kv, l.kvType, int64(n), l.kvHeads, int64(tokens), l.kvWidth)
}

func (c *cache) tensor(tokens int) (*ort.Tensor, error) {
	return c.layout.newCache(1, tokens)
}

// next is the capacity to grow to for n tokens of at most context: a half more than there is, so that
// copying stays a small part of all work, in whole steps.
func (c *cache) next(n, context int) int { return grown(c.capacity, n, context) }

func grown(capacity, n, context int) int {
	n = max(n, capacity+capacity/2)
	return min((n+cacheStep-1)/cacheStep*cacheStep, context)
}

// grow makes room for capacity tokens and keeps the first length. It replaces one tensor at a time, so
// that little more than the new cache is in memory. When it fails, tensors may differ in capacity: the
// cache counts as having none, and grows again before it is used.
func (c *cache) grow(capacity, length int) error {
	c.capacity = 0
	for i := 0; c.layout.shared && i < len(c.past); i++ { // others have the length of the sequence
		t, err := c.resized(i, capacity, length)
		if err != nil {
			return err
		}
		if err := c.place(i, t); err != nil {
			return err
		}
	}
	c.capacity = capacity
	return nil
}

// place makes t past and present of i.
func (c *cache) place(i int, t *ort.Tensor) error {
	c.past[i] = t
	if err := c.in[i].Set(t); err != nil {
		return err
	}
	return c.out[i].Set(t)
}

// resized moves the first length tokens of a past to a new tensor, and closes the old one.
func (c *cache) resized(i, capacity, length int) (*ort.Tensor, error) {
	t, err := c.tensor(capacity)
	if err != nil {
		return nil, err
	}
	if old := c.past[i]; old != nil {
		if err := c.layout.copyTokens(t, 0, old, 0, length); err != nil {
			t.Close()
			return nil, err
		}
		old.Close()
	}
	return t, nil
}

// copyTokens copies n tokens of each head of src, from one on, to dst.
func (l *layout) copyTokens(dst *ort.Tensor, to int, src *ort.Tensor, from, n int) error {
	row := l.rowBytes()
	dstHead, srcHead := int(dst.Shape()[2])*row, int(src.Shape()[2])*row
	for h := range int(l.kvHeads) {
		if err := ort.CopyBytes(dst, h*dstHead+to*row, src, h*srcHead+from*row, n*row); err != nil {
			return err
		}
	}
	return nil
}

// clone takes the first n tokens of another cache, for which there is room.
func (c *cache) clone(other *cache, n int) error {
	for i, src := range other.past {
		if c.layout.shared {
			if err := c.layout.copyTokens(c.past[i], 0, src, 0, n); err != nil {
				return err
			}
			continue
		}
		same, err := src.View(0, src.Shape()...) // no step writes to a past that is not shared with a present
		if err != nil {
			return err
		}
		c.past[i] = same
	}
	return nil
}

// before prepares a step from past to total tokens. A shared cache needs nothing.
func (c *cache) before(past, total int) error {
	if c.layout.shared {
		return nil
	}
	for i := range c.past {
		if c.past[i] == nil {
			t, err := c.tensor(past)
			if err != nil {
				return err
			}
			c.past[i] = t
		}
		if err := c.in[i].Set(c.past[i]); err != nil {
			return err
		}
		if c.present[i] != nil { // of a step that failed
			c.present[i].Close()
			c.present[i] = nil
		}
		t, err := c.tensor(total)
		if err != nil {
			return err
		}
		c.present[i] = t
		if err := c.out[i].Set(t); err != nil {
			return err
		}
	}
	return nil
}

// after makes the present of a step the past of the next.
func (c *cache) after() {
	if c.layout.shared {
		return
	}
	for i := range c.past {
		c.past[i].Close()
		c.past[i], c.present[i] = c.present[i], nil
	}
}

// truncate cuts a cache of length tokens back to n. When it fails, nothing has changed.
func (c *cache) truncate(length, n int) error {
	if c.layout.shared || n == length {
		return nil
	}
	short := make([]*ort.Tensor, len(c.past))
	for i, old := range c.past {
		t, err := c.tensor(n)
		if err == nil {
			short[i] = t
			err = c.layout.copyTokens(t, 0, old, 0, n)
		}
		if err != nil {
			closeAll(short)
			return err
		}
	}
	closeAll(c.past)
	c.past = short
	return nil
}

// begin prepares an empty cache to be filled with n tokens. A shared one has room for them.
func (c *cache) begin(n int) error {
	if c.layout.shared {
		return nil
	}
	closeAll(c.past)
	for i := range c.past {
		t, err := c.tensor(n)
		if err != nil {
			return err
		}
		c.past[i] = t
	}
	return nil
}

// read calls f, head by head, with tokens from to to of the keys or values i: as they lie in the cache, or a copy where
// that is on a device.
func (c *cache) read(i, from, to int, f func(head int, span []byte)) error {
	t := c.past[i]
	if !t.OnCPU() {
		copied, err := c.staging(to - from)
		if err != nil {
			return err
		}
		defer copied.Close()
		if err := c.layout.copyTokens(copied, 0, t, from, to-from); err != nil {
			return err
		}
		t, from, to = copied, 0, to-from
	}
	c.layout.spans(t, from, to, f)
	return nil
}

// write calls f, head by head, to fill in tokens from to to of the keys or values i.
func (c *cache) write(i, from, to int, f func(head int, span []byte)) error {
	t := c.past[i]
	if t.OnCPU() {
		c.layout.spans(t, from, to, f)
		return nil
	}
	filled, err := c.staging(to - from)
	if err != nil {
		return err
	}
	defer filled.Close()
	c.layout.spans(filled, 0, to-from, f)
	return c.layout.copyTokens(t, from, filled, 0, to-from)
}

// staging is memory of the CPU for n tokens of a layer's keys or values on a device.
func (c *cache) staging(n int) (*ort.Tensor, error) {
	return ort.NewTensor(c.layout.kvType, 1, c.layout.kvHeads, int64(n), c.layout.kvWidth)
}

// spans calls f with where tokens from to to lie in keys or values that are on the CPU, head by head.
func (l *layout) spans(t *ort.Tensor, from, to int, f func(head int, span []byte)) {
	b, row := t.Bytes(), l.rowBytes()
	for h := range int(l.kvHeads) {
		f(h, b[(h*int(t.Shape()[2])+from)*row:][:(to-from)*row])
	}
}

// rowBytes is what one token's keys or values take in one head.
func (l *layout) rowBytes() int { return int(l.kvWidth) * l.kvType.Bits() / 8 }
