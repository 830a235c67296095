package accelerate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/qwenrt/qwenrt/models/folder"
)

// Kind is what a folder of the cache holds.
type Kind string

// The kinds.
const (
	KindModel    Kind = "model"     // a model folder
	KindSession  Kind = "session"   // an optimised graph, perhaps with packed weights
	KindLeftOver Kind = "left over" // of a process that did not come to its end, or has not yet
)

// CacheEntry is a folder of the cache.
type CacheEntry struct {
	Kind Kind   `json:"kind"`
	Dir  string `json:"dir"`
	// Source is the checkpoint that a model was made from, as it was called.
	Source string `json:"source,omitempty"`
	// Precision of a model's weights, as its manifest has it.
	Precision string `json:"precision,omitempty"`
	// Bytes on disk. A file that several entries share by hard links counts with the first.
	Bytes int64     `json:"bytes"`
	Used  time.Time `json:"used"` // when it was made or opened last
}

// CacheEntries lists what the cache holds, the latest used first.
func CacheEntries() ([]CacheEntry, error) {
	models, err := CacheDir()
	if err != nil {
		return nil, err
	}
	sessions, err := sessionsDir()
	if err != nil {
		return nil, err
	}
	var all []CacheEntry
	var seen []fs.FileInfo
	for _, place := range []struct {
		dir  string
		kind Kind
	}{{models, KindModel}, {sessions, KindSession}} {
		entries, err := os.ReadDir(place.dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("accelerate: cache: %w", err)
		}
		for _, e := range entries {
			if !e.IsDir() {
				continue
			}
			c := CacheEntry{Kind: place.kind, Dir: filepath.Join(place.dir, e.Name())}
			if strings.HasPrefix(e.Name(), ".") {
				c.Kind = KindLeftOver
			}
			c.measure(&seen)
			c.describe()
			all = append(all, c)
		}
	}
	slices.SortStableFunc(all, func(a, b CacheEntry) int { return b.Used.Compare(a.Used) })
	return all, nil
}

// measure reads sizes. What goes away meanwhile does not count.
func (c *CacheEntry) measure(seen *[]fs.FileInfo) {
	if info, err := os.Stat(c.Dir); err == nil {
		c.Used = info.ModTime()
	}
	_ = filepath.WalkDir(c.Dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil
		}
		info, err := e.Info()
		if err != nil || slices.ContainsFunc(*seen, func(other fs.FileInfo) bool { return os.SameFile(info, other) }) {
			return nil
		}
		*seen = append(*seen, info)
		c.Bytes += info.Size()
		return nil
	})
}

func (c *CacheEntry) describe() {
	m, err := folder.ReadManifest(c.Dir)
	if err != nil {
		return
	}
	c.Source, c.Precision = m.Source.Name, string(None)
	for _, s := range m.Steps {
		if p := s.Options["precision"]; p != "" {
			c.Precision = p
		}
	}
}

// Prune removes folders of the cache that have not been used for at least unused, and what processes that broke off have
// left behind; and gives what it has removed. What is being made is left alone. A model that is open goes on where the system
// keeps open files.
func Prune(ctx context.Context, unused time.Duration) (removed []CacheEntry, err error) {
	entries, err := CacheEntries()
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return removed, fmt.Errorf("accelerate: cache: %w", err)
		}
		if e.Kind != KindLeftOver && time.Since(e.Used) < unused {
			continue
		}
		gone, err := e.remove()
		if err != nil {
			return removed, fmt.Errorf("accelerate: cache: %w", err)
		}
		if gone {
			removed = append(removed, e)
		}
	}
	return removed, nil
}

// remove takes the entry away, unless another process is making it. It loses its name first, so that nobody finds half of it.
// The lock's file stays, as in lock.
func (c CacheEntry) remove() (bool, error) {
	name, known := c.key()
	if !known {
		return false, nil
	}
	l := flock.New(filepath.Join(filepath.Dir(c.Dir), name+".lock"))
	free, err := l.TryLock()
	if err != nil || !free {
		return false, err
	}
	defer l.Close()
	if c.Kind == KindLeftOver {
		return folder.RemoveAbandoned(c.Dir)
	}
	doomed := filepath.Join(filepath.Dir(c.Dir), "."+name+"-pruned")
	if err := errors.Join(os.RemoveAll(doomed), os.Rename(c.Dir, doomed)); err != nil {
		return false, err
	}
	return true, os.RemoveAll(doomed)
}

// key is the name that the entry has, or that a left-over was to have: .KEY.qwenrt-NUMBER in folder.Create, .KEY-NUMBER in stored,
// .KEY-pruned in remove.
func (c CacheEntry) key() (string, bool) {
	name := filepath.Base(c.Dir)
	if c.Kind != KindLeftOver {
		return name, true
	}
	name = strings.TrimPrefix(name, ".")
	end := strings.IndexAny(name, ".-")
	if end < 1 {
		return "", false
	}
	return name[:end], true
}
