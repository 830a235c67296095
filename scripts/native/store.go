package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	manifestName = "manifest.json"
	scratchGlob  = ".installing-*"
	// Longer than any installation takes: older scratch folders were left by a process that was killed.
	scratchLife = 24 * time.Hour
)

// errMissing says that a library was never installed.
var errMissing = errors.New("not installed")

// A recipe says what a library is and how it is made.
type recipe struct {
	name, version, platform string
	// pin identifies everything the result depends on. An installed library with another pin is replaced.
	pin string
	// make puts the library's files into dir; scratch is a folder that is deleted afterwards.
	make func(ctx context.Context, dir, scratch string, log steps) error
}

// A store is the folder that holds installed libraries, one folder each:
//
//	<name>-<version>-<goos>-<goarch>/manifest.json and the library's files
type store struct{ root string }

// A manifest records what an installed folder must hold.
type manifest struct {
	Name     string         `json:"name"`
	Version  string         `json:"version"`
	Platform string         `json:"platform"`
	Pin      string         `json:"pin"`
	Files    []manifestFile `json:"files"` // by name
}

type manifestFile struct {
	Name   string `json:"name"`
	Size   int64  `json:"size,omitempty"` // bytes
	SHA256 string `json:"sha256,omitempty"`
	Link   string `json:"link,omitempty"` // target of a symbolic link
}

func openStore() (store, error) {
	if dir := os.Getenv("QWENRT_NATIVE_DIR"); dir != "" {
		dir, err := filepath.Abs(dir)
		return store{dir}, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return store{}, fmt.Errorf("no cache folder for this user: set QWENRT_NATIVE_DIR (%w)", err)
	}
	return store{filepath.Join(cache, "qwenrt", "native")}, nil
}

func (s store) dir(r recipe) string {
	return filepath.Join(s.root, r.name+"-"+r.version+"-"+r.platform)
}

// contains tells whether path lies below the store.
func (s store) contains(path string) bool {
	rel, err := filepath.Rel(s.root, path)
	return err == nil && filepath.IsLocal(rel)
}

// check tells in microseconds whether a library is there, whole, and made by the same recipe: it compares names, sizes
// and links, not contents. verify compares contents as well.
func (s store) check(r recipe) error { return s.compare(r, false) }

func (s store) verify(r recipe) error { return s.compare(r, true) }

func (s store) compare(r recipe, contents bool) error {
	dir := s.dir(r)
	data, err := os.ReadFile(filepath.Join(dir, manifestName))
	if errors.Is(err, fs.ErrNotExist) {
		return errMissing
	} else if err != nil {
		return err
	}
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("%s: %w", manifestName, err)
	}
	if m.Name != r.name || m.Version != r.version || m.Platform != r.platform || m.Pin != r.pin {
		return errors.New("installed from another source than the pinned one")
	}
	if len(m.Files) == 0 {
		return fmt.Errorf("%s: lists no files", manifestName)
	}
	for _, want := range m.Files {
		if !filepath.IsLocal(want.Name) {
			return fmt.Errorf("%s: file name %q leads outside", manifestName, want.Name)
		}
		got, err := describe(filepath.Join(dir, want.Name), contents)
		if err != nil {
			return err
		}
		if !contents {
			want.SHA256 = ""
		}
		if got != want {
			return fmt.Errorf("%s: changed since it was installed", want.Name)
		}
	}
	return nil
}

// describe reads what a manifest says about one file; the hash only if contents is set.
func describe(path string, contents bool) (manifestFile, error) {
	f := manifestFile{Name: filepath.Base(path)}
	info, err := os.Lstat(path)
	if err != nil {
		return f, err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		f.Link, err = os.Readlink(path)
		return f, err
	}
	if !info.Mode().IsRegular() {
		return f, fmt.Errorf("%s: not a regular file", path)
	}
	f.Size = info.Size()
	if contents {
		f.SHA256, err = hashFile(path)
	}
	return f, err
}

// install makes a library unless it is there. The files appear under their final name all at once, or not at all, and
// any number of processes may install the same library at the same time: the first to finish wins.
func (s store) install(ctx context.Context, r recipe, log steps) error {
	if s.check(r) == nil {
		return nil
	}
	if err := os.MkdirAll(s.root, 0o755); err != nil {
		return err
	}
	s.sweep()
	scratch, err := os.MkdirTemp(s.root, scratchGlob)
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)

	made, work := filepath.Join(scratch, "made"), filepath.Join(scratch, "work")
	if err := errors.Join(os.Mkdir(made, 0o755), os.Mkdir(work, 0o755)); err != nil {
		return err
	}
	if err := r.make(ctx, made, work, log); err != nil {
		return err
	}
	if err := writeManifest(made, r); err != nil {
		return err
	}
	return s.publish(r, made, filepath.Join(scratch, "old"))
}

func writeManifest(dir string, r recipe) error {
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		return err
	}
	m := manifest{Name: r.name, Version: r.version, Platform: r.platform, Pin: r.pin}
	for _, entry := range entries {
		f, err := describe(filepath.Join(dir, entry.Name()), true)
		if err != nil {
			return err
		}
		m.Files = append(m.Files, f)
	}
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, manifestName), append(data, '\n'), 0o644)
}

// publish renames the finished folder to its final name. A folder in the way is either another process's finished
// work, which stays, or a damaged or outdated one, which is moved to old.
func (s store) publish(r recipe, made, old string) error {
	final := s.dir(r)
	if os.Rename(made, final) == nil || s.check(r) == nil {
		return nil
	}
	if err := os.Rename(final, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(made, final); err != nil && s.check(r) != nil {
		return err
	}
	return nil
}

// sweep deletes scratch folders of processes that were killed. Failures only leave garbage behind.
func (s store) sweep() {
	left, _ := filepath.Glob(filepath.Join(s.root, scratchGlob))
	for _, dir := range left {
		if info, err := os.Stat(dir); err == nil && time.Since(info.ModTime()) > scratchLife {
			os.RemoveAll(dir)
		}
	}
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// hashText hashes parts in order; a NUL ends each, so that moving text between parts changes the hash.
func hashText(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00") + "\x00"))
	return hex.EncodeToString(sum[:])
}
