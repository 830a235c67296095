package folder

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

var (
	// ErrExists means that there is a folder with content where a new one is to go.
	ErrExists = errors.New("it exists")
	// ErrNotReplaceable means that the folder to be replaced is not, or not only, a model folder.
	ErrNotReplaceable = errors.New("it is not replaced")
)

// Stage is a model folder in the making. It lies beside its destination, under a name of the form
// .NAME.qwenrt-NUMBER, until Commit. The process that makes it holds a lock on it, which the system takes back when the process
// ends, however it does.
type Stage struct {
	out     string // absolute, without symbolic links
	dir     string // "" once committed or aborted
	lock    *flock.Flock
	replace bool
	parents []string // made for this stage, the deepest first
}

// Create starts a folder that is to appear as out. A destination that exists must be empty, or hold
// a model folder and nothing else if replace is set: one with model.onnx or qwenrt.json, without
// subfolders, checkpoints' weights or other files that no command of ours writes or carries along.
// What a crash or a kill left behind for the same destination is removed.
//
// Errors: ErrExists, ErrNotReplaceable.
func Create(out string, replace bool) (*Stage, error) {
	if out == "" {
		return nil, errors.New("folder: the name of the output folder is empty")
	}
	path, err := resolve(out)
	if err != nil {
		return nil, fmt.Errorf("folder: %w", err)
	}
	if err := checkDestination(path, replace); err != nil {
		return nil, fmt.Errorf("folder: %s: %w", out, err)
	}
	s := &Stage{out: path, replace: replace}
	if err := s.makeParents(); err != nil {
		return nil, fmt.Errorf("folder: %w", err)
	}
	removeStale(path)
	if s.dir, s.lock, err = makeBeside(path); err != nil {
		s.removeParents()
		return nil, fmt.Errorf("folder: %w", err)
	}
	return s, nil
}

// resolve follows a symbolic link to its folder, so that the link stays and its target is replaced.
func resolve(out string) (string, error) {
	path, err := filepath.Abs(out)
	if err != nil {
		return "", err
	}
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return path, nil
	}
	return filepath.EvalSymlinks(path)
}

// Dir is the folder to write to.
func (s *Stage) Dir() string { return s.dir }

// Path is the place of a file in the folder.
func (s *Stage) Path(name string) string { return filepath.Join(s.dir, name) }

// Commit gives the folder its name, in place of one that may be replaced. On failure the folder that
// was there stays, and the stage waits for Abort.
func (s *Stage) Commit() error {
	if s.dir == "" {
		return errors.New("folder: the stage is closed")
	}
	if err := s.commit(); err != nil {
		return fmt.Errorf("folder: %s: %w", s.out, err)
	}
	s.close()
	return nil
}

// close lets go of a folder that has its name, or is gone.
func (s *Stage) close() {
	s.dir = ""
	_ = s.lock.Close()
}

func (s *Stage) commit() error {
	if err := checkDestination(s.out, s.replace); err != nil { // it may have changed meanwhile
		return err
	}
	if _, err := os.Lstat(s.out); errors.Is(err, fs.ErrNotExist) {
		return os.Rename(s.dir, s.out)
	}
	old := s.dir + oldSuffix
	if err := os.Rename(s.out, old); err != nil {
		return err
	}
	if err := os.Rename(s.dir, s.out); err != nil {
		return errors.Join(err, os.Rename(old, s.out))
	}
	return os.RemoveAll(old)
}

// Abort removes the unfinished folder. After Commit it does nothing, so it can be deferred.
func (s *Stage) Abort() error {
	if s.dir == "" {
		return nil
	}
	err := os.RemoveAll(s.dir)
	s.close()
	s.removeParents()
	if err != nil {
		return fmt.Errorf("folder: %w", err)
	}
	return nil
}

func (s *Stage) makeParents() error {
	for dir := filepath.Dir(s.out); ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		s.parents = append(s.parents, dir)
	}
	return os.MkdirAll(filepath.Dir(s.out), 0o777)
}

// removeParents takes back folders that nobody has used.
func (s *Stage) removeParents() {
	for _, dir := range s.parents {
		os.Remove(dir) // fails where it holds something, which is right
	}
}

const (
	mark      = ".qwenrt-"
	oldSuffix = ".old" // of the folder that is being replaced
)

func stagePrefix(out string) string { return "." + filepath.Base(out) + mark }

// makeBeside makes a folder whose permissions are as the user's umask has them (os.MkdirTemp's are for the user alone), and
// locks it.
func makeBeside(out string) (string, *flock.Flock, error) {
	for {
		number := strconv.FormatUint(rand.Uint64(), 36)
		dir := filepath.Join(filepath.Dir(out), stagePrefix(out)+number)
		err := os.Mkdir(dir, 0o777)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return "", nil, err
		}
		l := folderLock(dir)
		_, _ = l.TryLock() // where it cannot be had, age decides, see RemoveAbandoned
		if _, err := os.Stat(dir); err == nil {
			return dir, l, nil
		}
		_ = l.Close() // somebody took it for abandoned before it was locked
	}
}

// folderLock is a lock on a folder itself: there is no file of its that would have to be left out of the finished one.
func folderLock(dir string) *flock.Flock { return flock.New(dir, flock.SetFlag(os.O_RDONLY)) }

// removeStale removes stages of out that are abandoned. A folder that was being replaced goes only where its successor, or
// another, has taken its place.
func removeStale(out string) {
	parent := filepath.Dir(out)
	entries, err := os.ReadDir(parent)
	if err != nil {
		return
	}
	_, missing := os.Lstat(out)
	for _, e := range entries {
		old := strings.HasSuffix(e.Name(), oldSuffix)
		if !e.IsDir() || !strings.HasPrefix(e.Name(), stagePrefix(out)) || old && missing != nil {
			continue
		}
		_, _ = RemoveAbandoned(filepath.Join(parent, e.Name())) // it is in nobody's way
	}
}

// RemoveAbandoned removes a folder in the making unless a living process makes it, and reports whether it did. Where the file
// system has no locks for folders, one in which nothing has been written for a day is abandoned.
func RemoveAbandoned(dir string) (bool, error) {
	l := folderLock(dir)
	free, err := l.TryLock()
	if err != nil {
		free = lastWrite(dir).Before(time.Now().Add(-24 * time.Hour))
	}
	if !free {
		return false, nil
	}
	defer l.Close()
	if err := os.RemoveAll(dir); err != nil {
		return false, fmt.Errorf("folder: %w", err)
	}
	return true, nil
}

// lastWrite is the newest time of a folder and of what lies in it; now where that cannot be told.
func lastWrite(dir string) time.Time {
	info, err := os.Stat(dir)
	entries, err2 := os.ReadDir(dir)
	if err != nil || err2 != nil {
		return time.Now()
	}
	last := info.ModTime()
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return time.Now()
		}
		if info.ModTime().After(last) {
			last = info.ModTime()
		}
	}
	return last
}

func checkDestination(out string, replace bool) error {
	info, err := os.Stat(out)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%w: it is a file, not a folder", ErrNotReplaceable)
	}
	entries, err := os.ReadDir(out)
	if err != nil || len(entries) == 0 {
		return err
	}
	if !replace {
		return fmt.Errorf("%w and is not empty; choose another folder, or replace it with --force", ErrExists)
	}
	return checkReplaceable(entries)
}

func checkReplaceable(entries []fs.DirEntry) error {
	if !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == ModelName || e.Name() == ManifestName }) {
		return fmt.Errorf("%w: it holds neither %s nor %s, so it is no model folder; choose another, or remove it yourself",
			ErrNotReplaceable, ModelName, ManifestName)
	}
	for _, e := range entries {
		if e.IsDir() || !ours(e.Name()) {
			return fmt.Errorf("%w: %q is no part of a model folder and would be lost; choose another folder, or move it away",
				ErrNotReplaceable, e.Name())
		}
	}
	return nil
}

// ours reports whether a model folder may hold a file of this name: one that this program, ONNX
// Runtime or another exporter writes, or that is carried along.
func ours(name string) bool {
	if slices.Contains(sideFiles, name) || name == "README.md" || name == ".DS_Store" {
		return true
	}
	switch filepath.Ext(name) {
	case ".onnx", ".ort", ".data", ".onnx_data", ".json", ".jinja":
		return true
	}
	return false
}
