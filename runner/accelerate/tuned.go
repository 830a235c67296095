package accelerate

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/qwenrt/qwenrt/internal/atomicfile"
	"github.com/qwenrt/qwenrt/models/folder"
	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/runner/machine"
)

// Profile is what tuning has found to be the best for one model on one machine. Compile MaxAutotune looks for it.
type Profile struct {
	// Machine, Model and ORTVersion say what it was found with: Machine(), the hash of the checkpoint's content
	// (qwen3.Source.Hash, in a folder's manifest), and ort.Version().
	Machine    string `yaml:"machine"`
	Model      string `yaml:"model"`
	ORTVersion string `yaml:"onnxruntime"`
	// Config has the settings that were tuned; zero values were not. They count where a configuration says nothing.
	Config Config `yaml:"config"`
}

// Machine names what kernels and threads depend on: system, architecture, CPU, its instruction sets and the number of
// CPUs that this process may use.
func Machine() string {
	return fmt.Sprintf("%s/%s %s %s, %d CPUs", runtime.GOOS, runtime.GOARCH, machine.CPUName(), strings.Join(machine.Features(), "+"), ort.DefaultThreads())
}

// ProfilePath is the file of the profile of a model, on this machine and with the ONNX Runtime that is loaded.
func ProfilePath(model string) (string, error) {
	root, err := cacheRoot()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(Machine() + "\n" + ort.Version() + "\n" + model))
	return filepath.Join(root, "tuned", hex.EncodeToString(sum[:16])+".yaml"), nil
}

// ReadProfile reads the profile of a model. Errors: fs.ErrNotExist.
func ReadProfile(model string) (*Profile, error) {
	path, err := ProfilePath(model)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("accelerate: %w", err)
	}
	p := &Profile{}
	if err := decode(text, p); err != nil {
		return nil, fmt.Errorf("accelerate: profile %s: %w", path, err)
	}
	if p.Machine != Machine() || p.Model != model || p.ORTVersion != ort.Version() {
		return nil, fmt.Errorf("accelerate: profile %s is of another machine, model or ONNX Runtime; tune again", path)
	}
	return p, nil
}

// Write writes the profile where ReadProfile finds it, and gives the file. Machine and ORTVersion are filled in.
func (p Profile) Write() (string, error) {
	p.Machine, p.ORTVersion = Machine(), ort.Version()
	path, err := ProfilePath(p.Model)
	if err != nil {
		return "", err
	}
	text, err := yaml.MarshalWithOptions(p, yaml.OmitZero())
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o777)
	}
	if err == nil {
		err = atomicfile.WriteBytes(path, 0o666, text)
	}
	if err != nil {
		return "", fmt.Errorf("accelerate: profile: %w", err)
	}
	return path, nil
}

// tuned is c with the settings of the model's profile where it says nothing, if it asks for them; and why there are none.
func (c Config) tuned(from Source) (Config, string, error) {
	if c.Compile != MaxAutotune {
		return c, "", nil
	}
	if err := ort.Init(ort.Environment{}); err != nil { // its version is a part of the name
		return c, "", fmt.Errorf("accelerate: %w", err)
	}
	model, err := from.Hash()
	if err != nil {
		return c, "", err
	}
	p, err := ReadProfile(model)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return c, "the model has not been tuned on this machine", nil
	case err != nil:
		return c, strings.TrimPrefix(err.Error(), "accelerate: "), nil
	}
	into, tuned := reflect.ValueOf(&c).Elem(), reflect.ValueOf(p.Config)
	for i := range into.NumField() {
		if into.Field(i).IsZero() {
			into.Field(i).Set(tuned.Field(i))
		}
	}
	return c, "", nil
}

// Hash is that of the checkpoint (see qwen3.Source.Hash), which a model folder of ours records; of other folders it is empty.
func (s Source) Hash() (string, error) {
	file, err := s.modelFile()
	if err == nil {
		m, err := folder.ReadManifest(filepath.Dir(file))
		if errors.Is(err, folder.ErrNoManifest) {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		return m.Source.Hash, nil
	}
	if !errors.Is(err, folder.ErrNoModel) {
		return "", err
	}
	src, err := s.open()
	if err != nil {
		return "", err
	}
	hash, err := src.Hash()
	return hash, errors.Join(err, src.Close())
}
