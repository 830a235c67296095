package accelerate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/qwenrt/qwenrt/models/folder"
	"github.com/qwenrt/qwenrt/runner"
)

// CacheDir is the folder in which Cached keeps models: qwenrt/models in the user's cache folder.
func CacheDir() (string, error) {
	root, err := cacheRoot()
	return filepath.Join(root, "models"), err
}

// Cached gives a model folder in CacheDir that is as Build would make it. It is built if it is not
// there; the report is nil if it was. Checkpoints with the same content share a folder wherever they
// lie, see qwen3.Source.Hash. Two processes that want the same folder build it once.
func Cached(ctx context.Context, from Source, c Config, e Events) (dir string, built *Report, err error) {
	root, err := CacheDir()
	if err != nil {
		return "", nil, err
	}
	key, err := cacheKey(from, c)
	if err != nil {
		return "", nil, err
	}
	dir = filepath.Join(root, key)
	if complete(dir) {
		touch(dir)
		return dir, nil, nil
	}
	unlock, err := lock(ctx, dir+".lock", e)
	if err != nil {
		return "", nil, err
	}
	defer unlock()
	if complete(dir) { // another process has built it meanwhile
		return dir, nil, nil
	}
	built, err = Build(ctx, from, Output{Dir: dir, Replace: true}, c, e)
	return dir, built, err
}

// cacheKey names what a build gives: the checkpoint, the settings, and the program that builds.
func cacheKey(from Source, c Config) (string, error) {
	set, err := c.resolve()
	if err != nil {
		return "", err
	}
	src, err := from.open()
	if err != nil {
		return "", err
	}
	hash, err := src.Hash()
	if err := errors.Join(err, src.Close()); err != nil {
		return "", err
	}
	builder, err := builder()
	if err != nil {
		return "", err
	}
	if set.Calibration.File, err = contentHash(set.Calibration.File); err != nil {
		return "", err
	}
	statistics, err := contentHash(set.Calibration.Statistics)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // it is yet to be written
		return "", err
	}
	set.Calibration.Statistics = statistics
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%+v\n%s\n", hash, set, builder))
	return hex.EncodeToString(sum[:16]), nil
}

// builder names the program. A version that stands for one state of the code is enough; between
// versions, where another pass may have been written since the last build, it is the executable's
// content.
func builder() (string, error) {
	version := runner.Version()
	if version != runner.Devel && !strings.HasSuffix(version, "+dirty") {
		return version, nil
	}
	path, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("accelerate: %w", err)
	}
	hash, err := contentHash(path)
	return version + " " + hash, err
}

// contentHash is that of a file; of no file it is empty.
func contentHash(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("accelerate: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("accelerate: read %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// complete reports whether dir is a model folder. It got its name when it was whole; what is missing
// now has been taken away.
func complete(dir string) bool {
	_, err := folder.ReadManifest(dir)
	return err == nil && isFile(filepath.Join(dir, folder.ModelName)) && isFile(filepath.Join(dir, folder.ModelName+".data"))
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// lock waits until no other process builds the folder. The file stays: taking it away would let two
// others lock two files of one name.
func lock(ctx context.Context, path string, e Events) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return nil, fmt.Errorf("accelerate: %w", err)
	}
	l := flock.New(path)
	free, err := l.TryLock()
	if err == nil && !free {
		e.step(StepWait)
		_, err = l.TryLockContext(ctx, 100*time.Millisecond)
	}
	if err != nil {
		return nil, fmt.Errorf("accelerate: lock %s: %w", path, err)
	}
	return func() { _ = l.Close() }, nil
}
