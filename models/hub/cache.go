package hub

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"
)

const (
	weightsName = "model.safetensors"
	indexName   = "model.safetensors.index.json"
)

// cache is the part of a Hugging Face cache that belongs to one repository
// (https://huggingface.co/docs/huggingface_hub/guides/manage-cache):
//
//	models--org--name/blobs/<hash>                 contents
//	models--org--name/snapshots/<commit>/<file>    links ../../blobs/<hash>
//	models--org--name/refs/<revision>              the commit that a branch or tag stood for
//	.locks/models--org--name/<hash>.lock           held while a blob is being written
//
// Modes are left to the umask, so that a group can share a cache. A snapshot is linked once all its blobs are complete, its weights last. One with weights is therefore
// whole, unless another program made it.
type cache struct {
	root  string // .../models--org--name
	locks string
}

func newCache(dir, repo string) *cache {
	folder := "models--" + strings.ReplaceAll(repo, "/", "--")
	return &cache{root: filepath.Join(dir, folder), locks: filepath.Join(dir, ".locks", folder)}
}

func (c *cache) blob(etag string) string       { return filepath.Join(c.root, "blobs", etag) }
func (c *cache) snapshot(commit string) string { return filepath.Join(c.root, "snapshots", commit) }
func (c *cache) ref(revision string) string {
	return filepath.Join(c.root, "refs", filepath.FromSlash(revision))
}

// find returns the commit of a revision whose snapshot is complete, or ErrOffline.
func (c *cache) find(revision string) (commit string, err error) {
	commit = revision
	if !commitHash.MatchString(revision) {
		ref, err := os.ReadFile(c.ref(revision))
		if err != nil {
			return "", fmt.Errorf("revision %s: %w (%s); pull it once while online", revision, ErrOffline, c.root)
		}
		if commit = strings.TrimSpace(string(ref)); !commitHash.MatchString(commit) {
			return "", fmt.Errorf("revision %s: %w: %s does not hold a commit; pull it again", revision, ErrOffline, c.ref(revision))
		}
	}
	if missing := firstMissing(c.snapshot(commit)); missing != "" {
		return "", fmt.Errorf("revision %s: %s: %w (%s); pull it once while online", revision, missing, ErrOffline, c.snapshot(commit))
	}
	return commit, nil
}

// firstMissing names a file that a usable snapshot needs and dir lacks, or returns "".
func firstMissing(dir string) string {
	required := []string{"config.json", "tokenizer.json"}
	if !isFile(filepath.Join(dir, weightsName)) {
		if !isFile(filepath.Join(dir, indexName)) {
			return weightsName
		}
		shards, err := shardNames(filepath.Join(dir, indexName))
		if err != nil {
			return indexName
		}
		required = append(required, shards...)
	}
	for _, name := range required {
		if !isFile(filepath.Join(dir, name)) {
			return name
		}
	}
	return ""
}

// shardNames returns the plain file names in an index's weight_map.
func shardNames(path string) ([]string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, err
	}
	var shards []string
	for _, shard := range index.WeightMap {
		if !plainName.MatchString(shard) {
			return nil, fmt.Errorf("shard %s: %w", quote(shard), ErrName)
		}
		shards = append(shards, shard)
	}
	if len(shards) == 0 {
		return nil, errors.New("no weight_map")
	}
	slices.Sort(shards)
	return slices.Compact(shards), nil
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func isFileOf(path string, size int64) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Size() == size
}

// has tells whether a file's content is there, as a blob or, where links are not possible, in its place.
func (c *cache) has(commit string, f remoteFile) bool {
	return isFileOf(c.blob(f.etag), f.size) || isFileOf(filepath.Join(c.snapshot(commit), f.name), f.size)
}

// prepare makes the folders that files will go to, and checks that the disk can hold them.
func (c *cache) prepare(files []remoteFile) error {
	if len(files) == 0 {
		return nil // the cache may be read-only
	}
	for _, dir := range []string{filepath.Join(c.root, "blobs"), c.locks} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return fmt.Errorf("make the cache: %w; set HF_HOME to a folder that can be written", err)
		}
	}
	var need int64
	for _, f := range files {
		need += f.size
		if info, err := os.Stat(c.blob(f.etag) + partSuffix); err == nil {
			need -= min(info.Size(), f.size)
		}
	}
	if free, known := freeBytes(c.root); known && need > free {
		return fmt.Errorf("%w: %s more to download, %s free in %s; make room or set HF_HOME to another disk",
			ErrNoSpace, gigabytes(need), gigabytes(free), c.root)
	}
	return nil
}

// lock waits until no other process writes the blob.
func (c *cache) lock(ctx context.Context, etag string) (unlock func(), err error) {
	lock := flock.New(filepath.Join(c.locks, etag+".lock"), flock.SetPermissions(0o664))
	if _, err := lock.TryLockContext(ctx, 100*time.Millisecond); err != nil {
		return nil, fmt.Errorf("lock %s: %w", lock.Path(), err)
	}
	return func() { _ = lock.Close() }, nil
}

// publish links the files into the snapshot and points the revision at it.
func (c *cache) publish(revision, commit string, files []remoteFile) error {
	files = slices.Clone(files)
	slices.SortStableFunc(files, func(a, b remoteFile) int { return publishOrder(a.name) - publishOrder(b.name) })
	for _, f := range files {
		if err := c.link(commit, f); err != nil {
			return err
		}
	}
	if revision == commit {
		return nil
	}
	if old, err := os.ReadFile(c.ref(revision)); err == nil && string(old) == commit {
		return nil
	}
	return replace(c.ref(revision), func(temp string) error { return os.WriteFile(temp, []byte(commit), 0o666) })
}

// publishOrder puts weights behind the small files, and what makes a loader look for them last.
func publishOrder(name string) int {
	switch {
	case name == indexName || name == weightsName:
		return 2
	case strings.HasSuffix(name, ".safetensors"):
		return 1
	}
	return 0
}

func (c *cache) link(commit string, f remoteFile) error {
	path := filepath.Join(c.snapshot(commit), f.name)
	if isFileOf(path, f.size) {
		return nil
	}
	err := replace(path, func(temp string) error { return os.Symlink(filepath.Join("..", "..", "blobs", f.etag), temp) })
	if err != nil && isFileOf(c.blob(f.etag), f.size) {
		// A file system without links: the content itself goes where the link would be, as in the Python library.
		return os.Rename(c.blob(f.etag), path)
	}
	return err
}

// replace makes path in one step from what create leaves under a temporary name.
func replace(path string, create func(temp string) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	temp := path + "." + rand.Text() + ".tmp"
	err := create(temp)
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		os.Remove(temp)
	}
	return err
}

// diskError says what to do when the disk is full.
func diskError(err error, dir string) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w in %s (%w); make room or set HF_HOME to another disk, then pull again: it goes on from here",
			ErrNoSpace, dir, err)
	}
	return err
}

func gigabytes(n int64) string { return fmt.Sprintf("%.1f GB", float64(n)/1e9) }
