package runner

import (
	"fmt"

	"github.com/qwenrt/qwenrt/ort"
)

// cache is the KV cache of one sequence: for each layer keys and values [1, heads, C, head size].
//
// Where the graph allows it, past and present are one tensor of C tokens, of which the first length are
// in use; it grows in steps. Otherwise the present of each step is a new tensor that is the past of the next.
type cache struct {
	layout   *layout
	capacity int
	past     []*ort.Tensor // keys and values in turn
	present  []*ort.Tensor // of the step under way; nil where past and present are one
	in, out  []*ort.Slot
}

// cacheStep is the number of tokens by multiples of which a cache grows.
const cacheStep = 256

func (c *cache) open(b *ort.Binding, l *layout) error {
	c.layout = l
	for _, n := range l.layers {
		for _, names := range [][2]string{{n.pastKey, n.presentKey}, {n.pastValue, n.presentValue}} {
			in, err := b.Input(names[0])
			if err != nil {
				return err
			}
			out, err := b.Output(names[1])
			if err != nil {
				return err
			}
			c.in, c.out = append(c.in, in), append(c.out, out)
		}
	}
	c.past = make([]*ort.Tensor, len(c.in))
	c.present = make([]*ort.Tensor, len(c.in))
	return nil
}

func (c *cache) close() {
	for _, ts := range [][]*ort.Tensor{c.past, c.present} {
		for i, t := range ts {
			if t != nil {
				t.Close()
				ts[i] = nil
			}
		}
	}
}

func (c *cache) tensor(tokens int) (*ort.Tensor, error) {
	return ort.NewTensor(c.layout.kvType, 1, c.layout.kvHeads, int64(tokens), c.layout.headDim)
}

// next is the capacity to grow to for n tokens: a half more than there is, so that copying stays a
// small part of all work, in whole steps, and within the context.
func (c *cache) next(n, context int) int {
	n = max(n, c.capacity+c.capacity/2)
	return min((n+cacheStep-1)/cacheStep*cacheStep, max(context, n))
}

// grow makes room for capacity tokens and keeps the first length, one layer at a time.
func (c *cache) grow(capacity, length int) error {
	c.capacity = capacity
	if !c.layout.shared {
		return nil // tensors have the length of the sequence
	}
	for i, old := range c.past {
		t, err := c.tensor(capacity)
		if err != nil {
			return err
		}
		if old != nil {
			c.copy(t, old, length)
			old.Close()
		}
		c.past[i] = t
		if err := c.in[i].Set(t); err != nil {
			return err
		}
		if err := c.out[i].Set(t); err != nil {
			return err
		}
	}
	return nil
}

// copy takes the first n tokens of each head.
func (c *cache) copy(dst, src *ort.Tensor, n int) {
	if n == 0 {
		return
	}
	heads := int(c.layout.kvHeads)
	to, from := dst.Bytes(), src.Bytes()
	row := len(to) / heads / int(dst.Shape()[2])
	for h := range heads {
		a, b := h*len(to)/heads, h*len(from)/heads
		copy(to[a:a+n*row], from[b:b+n*row])
	}
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
func (c *cache) after() error {
	if c.layout.shared {
		return nil
	}
	for i := range c.past {
		c.past[i].Close()
		c.past[i], c.present[i] = c.present[i], nil
	}
	return nil
}

// truncate keeps the first n tokens.
func (c *cache) truncate(n int) error {
	if c.layout.shared {
		return nil
	}
	for i, old := range c.past {
		if old == nil || int(old.Shape()[2]) == n {
			continue
		}
		if int(old.Shape()[2]) < n {
			return fmt.Errorf("the cache holds %d tokens, not %d", old.Shape()[2], n)
		}
		t, err := c.tensor(n)
		if err != nil {
			return err
		}
		c.copy(t, old, n)
		old.Close()
		c.past[i] = t
	}
	return nil
}
