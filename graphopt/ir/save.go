package ir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"
)

// SaveOptions says how a model is written. The zero value works.
type SaveOptions struct {
	// DataFile is the name, beside the model, of the file that takes the weights.
	// Default: the model's name with ".data" behind it.
	DataFile string
	// InlineBytes is the size up to which a tensor is written into the model file itself, where
	// ONNX Runtime's shape inference can read it. Default: 1,024. Negative: all tensors that have
	// a fixed size are external.
	InlineBytes int64
	// Workers is how many goroutines compute and write weights. Default: GOMAXPROCS.
	Workers int
	// Progress, if set, is told how many of all the bytes have been written. Calls do not overlap.
	Progress func(done, total int64)
}

const (
	chunkBytes = 4 << 20
	pageBytes  = 4096    // alignment of external tensors, so that they can be mapped one by one
	maxProto   = 2 << 30 // protobuf's limit for one message, which ONNX Runtime enforces
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
	g := &produced{p: p, sizes: sizes}
	out := make([]Data, len(sizes))
	for i := range sizes {
		out[i] = &part{g, i}
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

type part struct {
	g *produced
	i int
}

func (p *part) Len() int64 { return p.g.sizes[p.i] }

func (p *part) ReadAt(b []byte, off int64) (int, error) {
	p.g.once.Do(p.g.materialise)
	if p.g.err != nil {
		return 0, p.g.err
	}
	return NewBuffer(p.g.bufs[p.i]).ReadAt(b, off)
}

func (g *produced) materialise() {
	out := make([]io.WriterAt, len(g.sizes))
	for i, n := range g.sizes {
		b := make(sliceWriter, n)
		g.bufs = append(g.bufs, b)
		out[i] = b
	}
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for s := range g.p.Shards() {
		group.Go(func() error { return g.p.Produce(s, out) })
	}
	g.err = group.Wait()
}

type sliceWriter []byte

func (w sliceWriter) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(len(w)) {
		return 0, io.ErrShortWrite
	}
	return copy(w[off:], p), nil
}

// job is a piece of work of which several are done at once.
type job struct {
	bytes int64
	run   func(w io.WriterAt) error
}

// layout gives every tensor its place and lists the work that fills the external file.
type layout struct {
	places map[*Tensor]place
	shared map[Data]place
	groups map[*produced]map[int]int64 // result → offset in the file
	order  []any                       // Data or *produced, in file order
	total  int64
}

func plan(m *Model, inline int64) *layout {
	l := &layout{places: map[*Tensor]place{}, shared: map[Data]place{}, groups: map[*produced]map[int]int64{}}
	l.graph(m.Graph, inline)
	return l
}

func (l *layout) graph(g *Graph, inline int64) {
	for _, v := range g.initializers {
		l.tensor(v.Const, inline)
	}
	for _, n := range g.nodes {
		for _, a := range n.Attrs {
			for _, b := range a.graphs() {
				l.graph(b, inline)
			}
		}
	}
}

func (l *layout) tensor(t *Tensor, inline int64) {
	if t.Data == nil || t.Data.Len() <= inline || t.Data.Len() == 0 {
		return
	}
	if at, ok := l.shared[t.Data]; ok {
		l.places[t] = at
		return
	}
	l.total = (l.total + pageBytes - 1) / pageBytes * pageBytes
	at := place{true, l.total, t.Data.Len()}
	l.total += at.length
	l.places[t], l.shared[t.Data] = at, at
	if p, ok := t.Data.(*part); ok {
		if l.groups[p.g] == nil {
			l.groups[p.g] = map[int]int64{}
			l.order = append(l.order, p.g)
		}
		l.groups[p.g][p.i] = at.off
		return
	}
	l.order = append(l.order, t.Data)
}

// jobs calls yield for each piece of work, in file order.
func (l *layout) jobs(yield func(job) error) error {
	for _, item := range l.order {
		var err error
		switch d := item.(type) {
		case *produced:
			err = l.produceJobs(d, yield)
		case Data:
			err = copyJobs(d, l.shared[d].off, yield)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func copyJobs(d Data, at int64, yield func(job) error) error {
	step := max(granule(d), chunkBytes/granule(d)*granule(d))
	for off := int64(0); off < d.Len(); off += step {
		n := min(step, d.Len()-off)
		err := yield(job{n, func(w io.WriterAt) error {
			if b, ok := d.(*Buffer); ok {
				_, err := w.WriteAt(b.b[off:off+n], at+off)
				return err
			}
			p := scratch(int(n))
			defer release(p)
			if _, err := d.ReadAt(*p, off); err != nil && err != io.EOF {
				return err
			}
			_, err := w.WriteAt(*p, at+off)
			return err
		}})
		if err != nil {
			return err
		}
	}
	return nil
}

type discard struct{}

func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

func (l *layout) produceJobs(g *produced, yield func(job) error) error {
	var bytes int64
	for i := range l.groups[g] {
		bytes += g.sizes[i]
	}
	shards := g.p.Shards()
	for s := range shards {
		share := bytes*int64(s+1)/int64(shards) - bytes*int64(s)/int64(shards)
		err := yield(job{share, func(w io.WriterAt) error {
			out := make([]io.WriterAt, len(g.sizes))
			for i := range out {
				out[i] = discard{}
				if at, ok := l.groups[g][i]; ok {
					out[i] = io.NewOffsetWriter(w, at)
				}
			}
			return g.p.Produce(s, out)
		}})
		if err != nil {
			return err
		}
	}
	return nil
}

// Save writes a model: the graph to path, and the weights to one file beside it. Tensors that share
// their Data share a range of that file. Both files are written under temporary names and renamed
// at the end; on failure nothing is left behind. The same model gives the same bytes.
func Save(ctx context.Context, m *Model, path string, o SaveOptions) (err error) {
	if o.DataFile == "" {
		o.DataFile = filepath.Base(path) + ".data"
	}
	if !filepath.IsLocal(o.DataFile) || filepath.Base(o.DataFile) != o.DataFile {
		return fmt.Errorf("ir: data file %q must be a plain name beside the model", o.DataFile)
	}
	if o.InlineBytes == 0 {
		o.InlineBytes = 1024
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if err := m.Validate(); err != nil {
		return err
	}
	l := plan(m, max(o.InlineBytes, 0))
	e := &encoder{dataFile: o.DataFile, places: l.places}
	proto := e.model(m)
	if e.err != nil {
		return e.err
	}
	if len(proto) >= maxProto {
		return fmt.Errorf("ir: the graph of %s alone takes %d bytes, more than protobuf's 2 GiB", path, len(proto))
	}
	data := filepath.Join(filepath.Dir(path), o.DataFile)
	if l.total > 0 {
		tmp, err := writeTemp(data, func(f *os.File) error { return l.write(ctx, f, o) })
		if err != nil {
			return fmt.Errorf("ir: write %s (%d bytes): %w", data, l.total, err)
		}
		defer func() {
			if err != nil {
				os.Remove(tmp)
			}
		}()
		if err = ctx.Err(); err != nil {
			return err
		}
		if err = saveProto(path, proto, func() error { return os.Rename(tmp, data) }); err != nil {
			return err
		}
		return nil
	}
	return saveProto(path, proto, func() error {
		if err := os.Remove(data); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	})
}

// saveProto writes the model file; before runs when its content is safe on disk, just before it
// takes its name.
func saveProto(path string, proto []byte, before func() error) error {
	tmp, err := writeTemp(path, func(f *os.File) error {
		_, err := f.Write(proto)
		return err
	})
	if err == nil {
		if err = before(); err == nil {
			err = os.Rename(tmp, path)
		}
		if err != nil {
			os.Remove(tmp)
		}
	}
	if err != nil {
		return fmt.Errorf("ir: write %s: %w", path, err)
	}
	return nil
}

// writeTemp fills a new file beside path and gives its name; on failure the file is gone.
func writeTemp(path string, fill func(*os.File) error) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.tmp")
	if err != nil {
		return "", err
	}
	err = fill(f)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

func (l *layout) write(ctx context.Context, f *os.File, o SaveOptions) error {
	if err := f.Truncate(l.total); err != nil {
		return err
	}
	var mu sync.Mutex
	var done int64
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(o.Workers)
	err := l.jobs(func(j job) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := j.run(f); err != nil {
				return err
			}
			if o.Progress != nil {
				mu.Lock()
				defer mu.Unlock()
				done += j.bytes
				o.Progress(done, l.total)
			}
			return nil
		})
		return nil
	})
	if werr := group.Wait(); werr != nil {
		return werr
	}
	return err
}
