package accelerate

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/qwenrt/qwenrt/models/folder"
	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/machine"
)

// Keys of onnxruntime_session_options_config_keys.h.
const (
	keyNoPrepacking = "session.disable_prepacking"
	keySavePacked   = "session.save_external_prepacked_constant_initializers"
	keyDataFile     = "session.optimized_model_external_initializers_file_name"
	keyDataSize     = "session.optimized_model_external_initializers_min_size_in_bytes"
)

// sessionsDir is where optimised graphs are kept, each in a folder of its own, with the weights that it names: as hard
// links to the model's, for ONNX Runtime reads no others; or as a file with the packed ones beside.
func sessionsDir() (string, error) {
	root, err := cacheRoot()
	return filepath.Join(root, "sessions"), err
}

// store has p.Options load the graph as ONNX Runtime has optimised it before, which it does first where need be. Where it
// cannot be kept, that is noted, and ONNX Runtime optimises it at each start.
func (p *Prepared) store(ctx context.Context, c Config, e Events) error {
	why := ""
	switch compile := cmp.Or(c.Compile, DefaultCompile); {
	case compile == CompileOff && !c.PrepackWeights:
		return nil
	case p.Device != CPU:
		why = "graphs are kept for the CPU only: ONNX Runtime optimises this one at each start"
	}
	if why == "" {
		var err error
		if p.Options.OptimizedModel, err = stored(ctx, p.File, p.Options, c.PrepackWeights, e); err != nil {
			if ctx.Err() != nil {
				return err
			}
			p.Options.OptimizedModel = ""
			why = strings.TrimPrefix(oneLine(explain(err)), "accelerate: ")
		}
	}
	if c.Compile != ReduceOverhead { // which is about the buffers of a run
		p.note("compile", why)
	}
	if c.PrepackWeights {
		p.note("prepack_weights", why)
	}
	return nil
}

// oneLine makes one line of errors that were joined.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// stored gives the optimised graph of a model, and makes it if it is not there.
func stored(ctx context.Context, file string, o runner.Options, pack bool, e Events) (string, error) {
	root, err := sessionsDir()
	if err != nil {
		return "", err
	}
	conf := runner.SessionConfig(o)
	identity, err := newGraphKey(file, conf, pack)
	if err != nil {
		return "", err
	}
	key := identity.String()
	dir := filepath.Join(root, key)
	path := filepath.Join(dir, folder.ModelName)
	if isFile(path) {
		touch(dir)
		return path, nil
	}
	unlock, err := lock(ctx, dir+".lock", e)
	if err != nil {
		return "", err
	}
	defer unlock()
	if isFile(path) { // another process has made it meanwhile
		return path, nil
	}
	if pack { // without, it is done in no time
		e.step(StepCompile)
	}
	tmp, err := os.MkdirTemp(root, "."+key+"-*")
	if err != nil {
		return "", fmt.Errorf("accelerate: %w", err)
	}
	if err = compile(file, tmp, conf, pack); err == nil {
		err = os.Rename(tmp, dir)
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("accelerate: keep the optimised graph: %w", err), os.RemoveAll(tmp))
	}
	return path, nil
}

// compile has ONNX Runtime write the optimised graph into dir.
func compile(file, dir string, conf ort.SessionConfig, pack bool) error {
	conf.OptimizedModelPath = filepath.Join(dir, folder.ModelName)
	conf.ProfilePrefix = ""
	entries := map[string]string{}
	for k, v := range conf.ConfigEntries {
		entries[k] = v
	}
	if pack {
		entries[keySavePacked], entries[keyDataFile], entries[keyDataSize] = "1", folder.ModelName+".data", "1024"
	} else {
		entries[keyNoPrepacking] = "1" // nothing is going to run
	}
	conf.ConfigEntries = entries
	s, err := ort.NewSession(file, conf)
	if err != nil {
		return err
	}
	s.Close()
	if pack {
		return nil
	}
	data, err := dataFiles(file)
	if err != nil {
		return err
	}
	for _, from := range data {
		if err := os.Link(from, filepath.Join(dir, filepath.Base(from))); err != nil {
			return fmt.Errorf("%w; the cache must be on the model's disk", err)
		}
	}
	return nil
}

// dataFiles are those beside a model whose names begin with its name.
func dataFiles(file string) (files []string, err error) {
	entries, err := os.ReadDir(filepath.Dir(file))
	for _, e := range entries {
		if name := filepath.Base(file); e.Name() != name && strings.HasPrefix(e.Name(), name) {
			files = append(files, filepath.Join(filepath.Dir(file), e.Name()))
		}
	}
	return files, err
}

// graphKey is all that an optimised graph depends on.
type graphKey struct {
	Graph              string // the hash of its file
	Data               []dataFile
	Optimization       ort.Optimization
	DisabledOptimizers []string
	Entries            map[string]string // of the session's configuration
	Packed             bool              // weights are kept as kernels want them
	Library            string            // ONNX Runtime's version
	CPU                []string          // instruction sets, which decide how weights are packed
}

// dataFile stands for the weights in a file: reading them would take longer than optimising the graph.
type dataFile struct {
	Path     string
	Bytes    int64
	Modified int64 // nanoseconds since 1970
}

func newGraphKey(file string, conf ort.SessionConfig, pack bool) (graphKey, error) {
	k := graphKey{
		Optimization: conf.Optimization, DisabledOptimizers: conf.DisabledOptimizers, Entries: conf.ConfigEntries, Packed: pack,
		Library: ort.Version(), CPU: machine.Features(),
	}
	var err error
	if k.Graph, err = contentHash(file); err != nil {
		return k, err
	}
	data, err := dataFiles(file)
	if err != nil {
		return k, fmt.Errorf("accelerate: %w", err)
	}
	for _, path := range data {
		info, err := os.Stat(path)
		if err == nil {
			path, err = filepath.Abs(path)
		}
		if err != nil {
			return k, fmt.Errorf("accelerate: %w", err)
		}
		k.Data = append(k.Data, dataFile{path, info.Size(), info.ModTime().UnixNano()})
	}
	return k, nil
}

// String names the graph's folder.
func (k graphKey) String() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%#v", k)) // in Go's syntax, where each field ends; maps in order
	return hex.EncodeToString(sum[:16])
}

// touch marks a folder of the cache as used, which Prune looks at.
func touch(dir string) {
	now := time.Now()
	_ = os.Chtimes(dir, now, now) // a cache that cannot be written to still serves
}

// cacheRoot is qwenrt in the user's cache folder.
func cacheRoot() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("accelerate: no folder for built models (%w); build into one of your own", err)
	}
	return filepath.Join(cache, "qwenrt"), nil
}
