package ort

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/qwenrt/qwenrt/ort/internal/capi"
)

// A Session is a loaded model, ready to run. It is safe for concurrent use.
type Session struct {
	use         sync.RWMutex // held for reading by whoever uses model
	model       *model       // nil once closed
	inputs      []ValueInfo
	outputs     []ValueInfo
	overridable []ValueInfo
	inputsAt    []place // in the order of inputs
	outputsAt   []place
	onDevice    bool // some of those are not the CPU's
}

// model is what ONNX Runtime has of a session. It stays until the session and, of
// one on a device, the tensors there and the bindings are closed: they give their
// memory back through the execution provider, which ONNX Runtime has in its session
// (1.32, plugin_ep/ep_plugin_provider_interfaces.cc, CreatePreferredAllocators).
type model struct {
	handle *capi.Session
	refs   atomic.Int32
}

func newModel(handle *capi.Session) *model { return (&model{handle: handle}).retain() }

func (m *model) retain() *model {
	m.refs.Add(1)
	return m
}

func (m *model) release() {
	if m.refs.Add(-1) == 0 {
		capi.ReleaseSession(m.handle)
	}
}

// handle is for those who have acquired s.
func (s *Session) handle() *capi.Session { return s.model.handle }

// ValueInfo describes an input, an output or an overridable initializer.
type ValueInfo struct {
	Name  string
	DType DType // Undefined for what is no tensor: a sequence, a map
	// Shape has -1 where a dimension has a name or is not known.
	Shape []int64
	// SymbolicDims has the names of such dimensions and "" for the others.
	SymbolicDims []string
}

// String returns for example "input_ids int64[batch,sequence]".
func (v ValueInfo) String() string {
	dims := make([]string, len(v.Shape))
	for i, d := range v.Shape {
		switch {
		case d >= 0:
			dims[i] = fmt.Sprint(d)
		case v.SymbolicDims[i] != "":
			dims[i] = v.SymbolicDims[i]
		default:
			dims[i] = "?"
		}
	}
	return fmt.Sprintf("%s %s[%s]", v.Name, v.DType, strings.Join(dims, ","))
}

// NewSession loads the model at path, and the external data files it names, which
// lie in the same folder.
//
// Errors: ErrNoSuchFile, ErrInvalidModel, ErrNotImplemented, ErrProvider,
// ErrInvalidArgument, ErrRuntime, and those of Init.
func NewSession(path string, config SessionConfig) (*Session, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("ort: load model: %w: %w", ErrNoSuchFile, err)
	case err != nil:
		return nil, fmt.Errorf("ort: load model: %w: %w", ErrInvalidArgument, err)
	case info.IsDir():
		return nil, invalid("%s is a folder; name the model file in it", path)
	}
	return newSession(path, config, func(env *capi.Env, o *capi.SessionOptions) (*capi.Session, error) {
		return capi.NewSession(env, path, o)
	})
}

// NewSessionFromBytes loads a serialised model without external data files. It
// does not keep model.
//
// Errors: as for NewSession.
func NewSessionFromBytes(model []byte, config SessionConfig) (*Session, error) {
	if len(model) == 0 {
		return nil, fmt.Errorf("ort: load model: %w: no bytes", ErrInvalidModel)
	}
	return newSession("model", config, func(env *capi.Env, o *capi.SessionOptions) (*capi.Session, error) {
		return capi.NewSessionFromBytes(env, model, o)
	})
}

func newSession(name string, config SessionConfig, create func(*capi.Env, *capi.SessionOptions) (*capi.Session, error)) (*Session, error) {
	lib, err := current()
	if err != nil {
		return nil, err
	}
	options, err := config.options(lib)
	if err != nil {
		return nil, err
	}
	defer options.Destroy()
	raw, err := rawOptions(options)
	if err != nil {
		return nil, err
	}
	handle, err := create(lib.env, raw)
	if err != nil {
		return nil, wrapAs("load "+name, err, classifyLoad)
	}
	s := &Session{model: newModel(handle)}
	if err := s.describe(); err != nil {
		s.Close()
		return nil, wrap("load "+name, err)
	}
	return s, nil
}

func (s *Session) describe() error {
	for list, into := range map[capi.List]*[]ValueInfo{
		capi.Inputs: &s.inputs, capi.Outputs: &s.outputs, capi.Overridable: &s.overridable,
	} {
		infos, err := capi.Describe(s.handle(), list)
		if err != nil {
			return err
		}
		for _, v := range infos {
			*into = append(*into, ValueInfo{Name: v.Name, DType: DType(v.DType), Shape: v.Shape, SymbolicDims: v.Symbols})
		}
	}
	var err error
	if s.inputsAt, err = places(s.handle(), capi.Inputs, len(s.inputs)); err != nil {
		return err
	}
	if s.outputsAt, err = places(s.handle(), capi.Outputs, len(s.outputs)); err != nil {
		return err
	}
	s.onDevice = slices.ContainsFunc(slices.Concat(s.inputsAt, s.outputsAt), func(p place) bool { return p.Location != (Location{}) })
	return nil
}

// Inputs describes the inputs that a run must be given, in the model's order. The
// slices of Inputs, Outputs and Initializers are the session's own: do not change
// them.
func (s *Session) Inputs() []ValueInfo { return s.inputs }

// Outputs describes the outputs, in the model's order.
func (s *Session) Outputs() []ValueInfo { return s.outputs }

// Initializers describes the overridable initializers: inputs with a default in
// the model, which a run may be given.
func (s *Session) Initializers() []ValueInfo { return s.overridable }

// acquire keeps Close waiting until s.use is unlocked for reading.
func (s *Session) acquire() error {
	s.use.RLock()
	if s.model == nil {
		s.use.RUnlock()
		return fmt.Errorf("ort: session: %w", ErrClosed)
	}
	return nil
}

// Close waits for the runs under way and releases the session; one on a device, when
// the tensors there and the bindings are closed too. Whatever is called on it or its
// bindings later fails with ErrClosed; a second Close does nothing.
func (s *Session) Close() {
	s.use.Lock()
	defer s.use.Unlock()
	if s.model != nil {
		s.model.release()
		s.model = nil
	}
}

// EndProfiling stops the profile that SessionConfig.ProfilePrefix began, writes it
// and returns the name of the file: JSON in the Trace Event format.
func (s *Session) EndProfiling() (string, error) {
	if err := s.acquire(); err != nil {
		return "", err
	}
	defer s.use.RUnlock()
	path, err := capi.EndProfiling(s.handle())
	return filepath.FromSlash(path), wrap("end profiling", err)
}

// Run computes the outputs called outputs, or all of them where that is nil, from
// inputs. The caller closes the tensors it gets. It allocates and copies names
// each time; see [Binding] for a run that does not.
//
// When ctx ends, the run stops before its next node, with an error that is
// ErrCancelled and the context's. Other errors: ErrClosed, ErrInvalidArgument,
// ErrProvider, ErrRuntime.
func (s *Session) Run(ctx context.Context, inputs map[string]*Tensor, outputs []string) (map[string]*Tensor, error) {
	if outputs == nil {
		for _, v := range s.outputs {
			outputs = append(outputs, v.Name)
		}
	}
	if err := s.checkOutputs(outputs); err != nil {
		return nil, err
	}
	given := func(name string) bool { _, ok := inputs[name]; return ok }
	if err := s.checkComplete(given); err != nil {
		return nil, err
	}
	names := slices.Sorted(maps.Keys(inputs))
	values := make([]*capi.Value, len(names))
	for i, name := range names {
		if err := s.checkInput(name); err != nil {
			return nil, err
		}
		value, err := inputs[name].usable("input", name)
		if err != nil {
			return nil, err
		}
		if err := s.reaches(inputs[name], name); err != nil {
			return nil, err
		}
		values[i] = value
	}
	control, err := NewRunControl()
	if err != nil {
		return nil, err
	}
	defer control.Close()
	defer control.Watch(ctx)()
	return s.run(control, names, values, outputs)
}

func (s *Session) run(control *RunControl, names []string, values []*capi.Value, outputs []string) (map[string]*Tensor, error) {
	if err := s.acquire(); err != nil {
		return nil, err
	}
	defer s.use.RUnlock()
	options, err := control.begin()
	if err != nil {
		return nil, err
	}
	results, err := capi.Run(s.handle(), options, names, values, outputs)
	if err := control.end(err); err != nil {
		return nil, err
	}
	return s.model.adoptAll(outputs, results)
}

// adoptAll makes tensors of values, all or none.
func (m *model) adoptAll(names []string, values []*capi.Value) (map[string]*Tensor, error) {
	tensors := make(map[string]*Tensor, len(names))
	var failed error
	for i, name := range names {
		t, err := m.adopt("output "+name, values[i])
		if err != nil {
			failed = err // the last one tells enough
			continue
		}
		tensors[name] = t
	}
	if failed == nil {
		return tensors, nil
	}
	for _, t := range tensors {
		t.Close()
	}
	return nil, failed
}

// checkInput reports a name that is neither an input nor an overridable
// initializer.
func (s *Session) checkInput(name string) error {
	if !named(s.inputs, name) && !named(s.overridable, name) {
		return invalid("the model has no input %q; it has %s", name, list(slices.Concat(s.inputs, s.overridable)))
	}
	return nil
}

// checkComplete reports the inputs that are not given.
func (s *Session) checkComplete(given func(name string) bool) error {
	var missing []ValueInfo
	for _, v := range s.inputs {
		if !given(v.Name) {
			missing = append(missing, v)
		}
	}
	if len(missing) > 0 {
		return invalid("no tensor for input %s", list(missing))
	}
	return nil
}

func (s *Session) checkOutput(name string) error {
	if !named(s.outputs, name) {
		return invalid("the model has no output %q; it has %s", name, list(s.outputs))
	}
	return nil
}

func (s *Session) checkOutputs(names []string) error {
	seen := map[string]bool{}
	for _, name := range names {
		if err := s.checkOutput(name); err != nil {
			return err
		}
		if seen[name] {
			return invalid("output %q is asked for twice", name)
		}
		seen[name] = true
	}
	return nil
}

func named(infos []ValueInfo, name string) bool {
	return slices.ContainsFunc(infos, func(v ValueInfo) bool { return v.Name == name })
}

// list names values for an error message, the first eight of them.
func list(infos []ValueInfo) string {
	const most = 8
	var names []string
	for _, v := range infos[:min(most, len(infos))] {
		names = append(names, v.Name)
	}
	if more := len(infos) - most; more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(names, ", ")
}
