package ir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
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
	// Progress, if set, is told how many of all the bytes of weights have been written. Calls do
	// not overlap.
	Progress func(done, total int64)
}

func (o SaveOptions) complete(path string) (SaveOptions, error) {
	if o.DataFile == "" {
		o.DataFile = filepath.Base(path) + ".data"
	}
	if !filepath.IsLocal(o.DataFile) || filepath.Base(o.DataFile) != o.DataFile {
		return o, errorf("data file %q must be a plain name: it lies beside the model", o.DataFile)
	}
	if strings.EqualFold(o.DataFile, filepath.Base(path)) { // the same file on many file systems
		return o, errorf("data file %q has the name of the model", o.DataFile)
	}
	if o.InlineBytes == 0 {
		o.InlineBytes = 1024
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	return o, nil
}

// Save writes a model: the graph to path, and the weights to one file beside it. Tensors that share
// their Data share a range of that file. The same model gives the same bytes.
//
// Both files are written under temporary names and renamed at the end; on failure nothing is left
// behind. Over an existing pair of files a reader sees the old pair, no model, or the new pair.
func Save(ctx context.Context, m *Model, path string, o SaveOptions) error {
	if err := save(ctx, m, path, o); err != nil {
		return errorf("save %s: %w", path, err)
	}
	return nil
}

func save(ctx context.Context, m *Model, path string, o SaveOptions) error {
	o, err := o.complete(path)
	if err != nil {
		return err
	}
	if err := m.Validate(); err != nil {
		return err
	}
	l := plan(m, max(o.InlineBytes, 0))
	proto, err := (&encoder{o.DataFile, l.places}).model(m)
	if err != nil {
		return err
	}
	var weights *staged
	if l.size > 0 {
		data := filepath.Join(filepath.Dir(path), o.DataFile)
		weights, err = stage(data, l.size, func(f *os.File) error { return l.write(ctx, f, o) })
		if err != nil {
			return err
		}
		defer weights.discard()
	}
	graph, err := stage(path, int64(len(proto)), func(f *os.File) error {
		_, err := f.Write(proto)
		return err
	})
	if err != nil {
		return err
	}
	defer graph.discard()
	if err := ctx.Err(); err != nil {
		return err
	}
	return publish(graph, weights)
}

// staged is a file that is complete, under a temporary name.
type staged struct{ tmp, path string }

// stage has a file of this size written beside path; on failure it is gone.
func stage(path string, size int64, fill func(*os.File) error) (*staged, error) {
	dir, base := filepath.Split(path)
	if st, err := os.Lstat(path); err == nil && st.IsDir() {
		return nil, errorf("%s is a folder", base)
	}
	tmp := filepath.Join(dir, fmt.Sprintf(".%s.%016x.tmp", base, rand.Uint64()))
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, reason(err, tmp)
	}
	s := &staged{tmp, path}
	err = fill(f)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		s.discard()
		return nil, errorf("%s takes %d bytes: %w", base, size, reason(err, tmp))
	}
	return s, nil
}

// discard removes the file unless it has its name.
func (s *staged) discard() { os.Remove(s.tmp) }

func (s *staged) rename() error { return reason(os.Rename(s.tmp, s.path), s.path) }

// publish gives the files their names, the graph last. An older graph goes before the weights that
// it refers to are replaced: over others it would load, and be wrong.
func publish(graph, weights *staged) error {
	if weights != nil {
		if _, err := os.Lstat(weights.path); err == nil {
			if err := os.Remove(graph.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return reason(err, graph.path)
			}
		}
		if err := weights.rename(); err != nil {
			return err
		}
	}
	return graph.rename()
}

const (
	chunkBytes  = 4 << 20
	budgetBytes = 64 << 20 // of weights being computed at a time
	pageBytes   = 4096     // alignment of external tensors, so that they can be mapped one by one
)

// layout is where the tensors of a model go in the data file, and the work that fills it.
type layout struct {
	inline int64 // up to this size tensors stay in the model file
	places map[*Tensor]place
	shared map[Data]place
	parts  map[*produced][]int64 // by result, its offset; -1 where nothing uses it
	work   []iter.Seq[job]       // in file order
	bytes  int64                 // of weights
	size   int64                 // of the file: with the gaps between tensors
}

// job is a piece of work of which several are done at once.
type job struct {
	bytes int64
	run   func(w io.WriterAt) error
}

func plan(m *Model, inline int64) *layout {
	l := &layout{
		inline: inline,
		places: map[*Tensor]place{},
		shared: map[Data]place{},
		parts:  map[*produced][]int64{},
	}
	l.graph(m.Graph)
	return l
}

func (l *layout) graph(g *Graph) {
	for _, v := range g.initializers {
		l.tensor(v.Name, v.Const)
	}
	for _, n := range g.live() {
		for _, a := range n.Attrs {
			for _, b := range a.graphs() {
				l.graph(b)
			}
		}
	}
}

func (l *layout) tensor(name string, t *Tensor) {
	if t.Data == nil || t.Data.Len() == 0 {
		return
	}
	p, isPart := t.Data.(*part)
	size := t.Data.Len()
	if isPart { // all of one producer or none: what is inline is computed ahead, with all its siblings
		size = p.from.size()
	}
	if size <= l.inline {
		return
	}
	at, ok := l.shared[t.Data]
	if !ok {
		l.size = (l.size + pageBytes - 1) / pageBytes * pageBytes
		at = place{l.size, t.Data.Len()}
		l.size += at.length
		l.bytes += at.length
		l.shared[t.Data] = at
		if isPart {
			l.part(p, at.off)
		} else {
			l.work = append(l.work, copyJobs(name, t.Data, at.off))
		}
	}
	l.places[t] = at
}

// part notes where a result goes, and with the first one of a producer the work of all.
func (l *layout) part(p *part, off int64) {
	offs := l.parts[p.from]
	if offs == nil {
		offs = slices.Repeat([]int64{-1}, len(p.from.sizes))
		l.parts[p.from] = offs
		l.work = append(l.work, p.from.jobs(offs))
	}
	offs[p.i] = off
}

// copyJobs writes d to the file from off on, in pieces that d is cheap to read in.
func copyJobs(name string, d Data, at int64) iter.Seq[job] {
	g := granule(d)
	step := max(g, chunkBytes/g*g)
	return func(yield func(job) bool) {
		for off := int64(0); off < d.Len(); off += step {
			n := min(step, d.Len()-off)
			run := func(w io.WriterAt) error {
				if err := copyRange(w, at+off, d, off, n); err != nil {
					return errorf("initializer %q: %w", name, err)
				}
				return nil
			}
			if !yield(job{n, run}) {
				return
			}
		}
	}
}

func copyRange(w io.WriterAt, at int64, d Data, off, n int64) error {
	if b, ok := d.(*Buffer); ok {
		_, err := w.WriteAt(b.b[off:off+n], at)
		return err
	}
	p := scratch(int(n))
	defer release(p)
	if err := readFull(d, *p, off); err != nil {
		return err
	}
	_, err := w.WriteAt(*p, at)
	return err
}

// write fills the data file.
func (l *layout) write(ctx context.Context, f *os.File, o SaveOptions) error {
	if err := f.Truncate(l.size); err != nil {
		return err
	}
	var mu sync.Mutex
	var done int64
	progress := func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		done += n
		o.Progress(done, l.bytes)
	}
	budget := semaphore.NewWeighted(budgetBytes)
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(o.Workers)
	for j := range l.jobs {
		held := min(j.bytes, budgetBytes)
		if budget.Acquire(gctx, held) != nil {
			break // cancelled, or a job failed
		}
		group.Go(func() error {
			defer budget.Release(held)
			if err := gctx.Err(); err != nil {
				return err
			}
			if err := j.run(f); err != nil {
				return err
			}
			if o.Progress != nil {
				progress(j.bytes)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// jobs is all the work, in file order.
func (l *layout) jobs(yield func(job) bool) {
	for _, work := range l.work {
		for j := range work {
			if !yield(j) {
				return
			}
		}
	}
}
