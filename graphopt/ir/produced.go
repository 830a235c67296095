package ir

import (
	"io"
	"iter"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Producer computes the data of several tensors in one pass over what they have in common, as
// quantisation makes packed weights and scales of one matrix. Shards are independent of each
// other and run on several goroutines.
type Producer interface {
	Shards() int
	// Produce writes the shard's part of each result into out, at offsets within that result.
	Produce(shard int, out []io.WriterAt) error
}

// Produced gives the results of p as Data, with their sizes in bytes. Save runs p once for all of
// them; read in another way, p runs once and its results are kept in memory.
func Produced(p Producer, sizes ...int64) []Data {
	from := &produced{p: p, sizes: sizes}
	out := make([]Data, len(sizes))
	for i := range sizes {
		out[i] = &part{from, i}
	}
	return out
}

type produced struct {
	p     Producer
	sizes []int64
	once  sync.Once
	bufs  [][]byte
	err   error
}

// part is one result.
type part struct {
	from *produced
	i    int
}

func (p *part) Len() int64 { return p.from.sizes[p.i] }

func (p *part) ReadAt(b []byte, off int64) (int, error) {
	p.from.once.Do(p.from.materialise)
	if p.from.err != nil {
		return 0, p.from.err
	}
	return NewBuffer(p.from.bufs[p.i]).ReadAt(b, off)
}

func (g *produced) materialise() {
	out := make([]io.WriterAt, len(g.sizes))
	for i, n := range g.sizes {
		g.bufs = append(g.bufs, make([]byte, n))
		out[i] = &window{bufferWriter(g.bufs[i]), 0, n}
	}
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for s := range g.p.Shards() {
		group.Go(func() error { return g.p.Produce(s, out) })
	}
	g.err = group.Wait()
}

// size is the number of bytes of all results.
func (g *produced) size() (n int64) {
	for _, s := range g.sizes {
		n += s
	}
	return n
}

// jobs writes the results to the given offsets, one shard a job; -1 leaves a result out.
func (g *produced) jobs(offs []int64) iter.Seq[job] {
	return func(yield func(job) bool) {
		var bytes int64
		for i, off := range offs {
			if off >= 0 {
				bytes += g.sizes[i]
			}
		}
		shards := int64(g.p.Shards())
		for s := range shards {
			share := bytes*(s+1)/shards - bytes*s/shards
			run := func(w io.WriterAt) error {
				out := make([]io.WriterAt, len(offs))
				for i, off := range offs {
					out[i] = &window{w, off, g.sizes[i]}
					if off < 0 {
						out[i] = &window{discard{}, 0, g.sizes[i]}
					}
				}
				return g.p.Produce(int(s), out)
			}
			if !yield(job{share, run}) {
				return
			}
		}
	}
}

// window writes to a range of w and nowhere else.
type window struct {
	w        io.WriterAt
	off, len int64
}

func (d *window) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || int64(len(p)) > d.len-off {
		return 0, errorf("%d bytes at %d of a result of %d: %w", len(p), off, d.len, io.ErrShortWrite)
	}
	return d.w.WriteAt(p, d.off+off)
}

type discard struct{}

func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

type bufferWriter []byte

func (b bufferWriter) WriteAt(p []byte, off int64) (int, error) { return copy(b[off:], p), nil }
