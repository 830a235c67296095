package ir

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// mapping is a file mapped for reading.
type mapping struct {
	name string
	b    []byte
}

// mapRegular maps a file that stat and open agree on. stat goes first: opening a named pipe blocks.
func mapRegular(name string, stat func(string) (fs.FileInfo, error), open func(string) (*os.File, error)) (*mapping, error) {
	st, err := stat(name)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	f, err := open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err = f.Stat(); err != nil {
		return nil, err
	}
	b, err := mapFile(f, st.Size())
	return &mapping{name, b}, err
}

func (m *mapping) close() error {
	b := m.b
	m.b = nil
	return unmapFile(b)
}

// externalFiles opens the data files that tensors point to, each once. A location is a stranger's:
// it must stay inside the folder of the model.
type externalFiles struct {
	model string   // path of the model file; empty for a model that came from memory
	root  *os.Root // opened with the first file
	dir   string   // of the model, as seen from root
	open  map[string]*mapping
	all   []*mapping // in the order of first use

	ranges map[*mapping][]fileRange // what tensors take of each file
}

// fileRange is the bytes of a file that the tensor of this name takes.
type fileRange struct {
	off, length int64
	tensor      string
}

func newExternalFiles(model string) *externalFiles {
	return &externalFiles{model: model, open: map[string]*mapping{}, ranges: map[*mapping][]fileRange{}}
}

// release closes what is needed for opening files only; mappings stay.
func (e *externalFiles) release() {
	if e.root != nil {
		e.root.Close()
	}
}

func (e *externalFiles) get(location string) (*mapping, error) {
	if e.model == "" {
		return nil, malformed("external data %q in a model that has no folder: load it from its file", location)
	}
	if !filepath.IsLocal(filepath.FromSlash(location)) {
		return nil, malformed("external data location %q is not a path inside the model's folder", location)
	}
	name := filepath.Clean(filepath.FromSlash(location))
	if m := e.open[name]; m != nil {
		return m, nil
	}
	if err := e.openRoot(); err != nil {
		return nil, errorf("external data: %w", err)
	}
	path := filepath.Join(e.dir, name)
	m, err := mapRegular(path, e.root.Stat, e.root.Open)
	var errno syscall.Errno
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist):
		return nil, errorf("external data %q is missing: put it beside the model (%w)", location, fs.ErrNotExist)
	case errors.As(err, &errno):
		return nil, errorf("external data %q: %w", location, reason(err, path))
	default: // not the system's answer but that of os.Root: a link leads out
		return nil, malformed("external data %q: %w: it must be a file in the model's folder", location, reason(err, path))
	}
	m.name = location
	e.open[name] = m
	e.all = append(e.all, m)
	return m, nil
}

// openRoot opens the folder that no data file may lie outside of. os.Root follows links within it
// and refuses those that leave it.
func (e *externalFiles) openRoot() (err error) {
	if e.root != nil {
		return nil
	}
	dir, err := filepath.Abs(filepath.Dir(e.model))
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return err
	}
	root := cacheRepository(dir)
	if e.dir, err = filepath.Rel(root, dir); err == nil {
		e.root, err = os.OpenRoot(root)
	}
	return err
}

// cacheRepository is the folder of a repository in the Hugging Face cache if dir lies in a snapshot
// there: files of models--ORG--NAME/snapshots/REVISION are links into models--ORG--NAME/blobs
// (huggingface_hub, "Understand caching"). Elsewhere it is dir itself.
func cacheRepository(dir string) string {
	for at := dir; ; at = filepath.Dir(at) {
		snapshots := filepath.Dir(at)
		repo := filepath.Dir(snapshots)
		if repo == snapshots {
			return dir
		}
		if filepath.Base(snapshots) == "snapshots" && strings.HasPrefix(filepath.Base(repo), "models--") {
			return repo
		}
	}
}

// slice gives a range of an external file.
func (e *externalFiles) slice(location string, r fileRange) ([]byte, error) {
	m, err := e.get(location)
	if err != nil {
		return nil, err
	}
	if size := int64(len(m.b)); r.off > size || r.length > size-r.off {
		return nil, malformed("it takes %d bytes at %d of %q, which has %d: if that file is cut off, download it again",
			r.length, r.off, location, size)
	}
	if r.length > 0 {
		e.ranges[m] = append(e.ranges[m], r)
	}
	end := r.off + r.length
	return m.b[r.off:end:end], nil
}

// checkRanges refuses tensors that share some bytes of a file but not all of them.
func (e *externalFiles) checkRanges() error {
	for _, m := range e.all {
		rs := e.ranges[m]
		slices.SortStableFunc(rs, func(a, b fileRange) int {
			return cmp.Or(cmp.Compare(a.off, b.off), cmp.Compare(a.length, b.length))
		})
		for i := 1; i < len(rs); i++ { // where any two overlap in part, two neighbours do
			a, b := rs[i-1], rs[i]
			if b.off < a.off+a.length && (a.off != b.off || a.length != b.length) {
				return malformed("tensors %q and %q overlap in %q", a.tensor, b.tensor, m.name)
			}
		}
	}
	return nil
}
