package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/runner/chat"
	"github.com/qwenrt/qwenrt/runner/sample"
	"github.com/qwenrt/qwenrt/runner/tokenizer"
)

// Options says how a model is run. The zero value runs it on all CPUs that the process may use.
type Options struct {
	// Library is ONNX Runtime's shared library, or the folder that holds it. Default: see ort.Find.
	Library string
	// Threads that work on one operator. Default: ort.DefaultThreads.
	Threads int
	// Providers are tried in order for each node. Default: the CPU.
	Providers []ort.Provider
	// PrefillChunk is the number of prompt tokens that are run at once. Larger chunks use more memory for
	// activations; a cancelled prefill ends sooner with small ones. Default: 512.
	PrefillChunk int
	// MaxContext bounds prompt and answer together, below what the model allows. Default: the model's own.
	MaxContext int
	// ConfigEntries are further settings of the session; see ort.SessionConfig.
	ConfigEntries map[string]string
}

// DefaultPrefillChunk is the number of prompt tokens that are run at once where Options do not say.
const DefaultPrefillChunk = 512

func (o *Options) validate() error {
	var faults []error
	for _, f := range []struct {
		name  string
		value int
	}{{"Threads", o.Threads}, {"PrefillChunk", o.PrefillChunk}, {"MaxContext", o.MaxContext}} {
		if f.value < 0 {
			faults = append(faults, fmt.Errorf("runner: %s is %d: use 0 for the default, or a positive number", f.name, f.value))
		}
	}
	return errors.Join(faults...)
}

// Runner is an open model. It is safe for concurrent use: each generation has its own sequence.
type Runner struct {
	dir      string
	session  *ort.Session
	layout   *layout
	config   modelConfig
	chunk    int
	context  int
	info     Info
	tok      *tokenizer.Tokenizer // nil where the folder has none
	tokErr   error
	template *chat.Template // nil where the folder has none
	tmplErr  error

	mu     sync.Mutex
	closed bool
	active sync.WaitGroup // open sequences
}

// Info describes an open model.
type Info struct {
	Dir           string
	Layers        int
	KVHeads       int
	HeadDim       int
	Vocabulary    int // rows of the logits; the tokenizer may know fewer tokens
	ContextLength int // tokens that prompt and answer may have together
	KVType        string
	SharedKV      bool // past and present are one buffer, so a step copies nothing
	LastLogits    bool // the graph computes only the rows of logits that are asked for
	Threads       int
	Library       string // ONNX Runtime's version
	StopTokens    []int32
	Sampling      sample.Params // the model's own recommendation
}

// KVBytes is the memory of the KV cache for n tokens.
func (i Info) KVBytes(n int) int64 {
	size := map[string]int64{"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1}[i.KVType]
	return 2 * int64(i.Layers) * int64(i.KVHeads) * int64(i.HeadDim) * int64(n) * size
}

// Open loads the model in dir, a model folder or the path of an .onnx file. A folder without a
// tokenizer or a chat template opens as well; what needs them says so.
//
// Errors: ErrNotModel, and those of package ort.
func Open(ctx context.Context, dir string, o Options) (*Runner, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	path := dir
	if st, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("runner: %w", err)
	} else if st.IsDir() {
		path = filepath.Join(dir, "model.onnx")
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("runner: %w: %s has no model.onnx", ErrNotModel, dir)
		}
	} else {
		dir = filepath.Dir(path)
	}
	r := &Runner{dir: dir, chunk: o.PrefillChunk}
	if r.chunk == 0 {
		r.chunk = DefaultPrefillChunk
	}
	if err := r.load(path, o); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func (r *Runner) load(path string, o Options) error {
	if err := ort.Init(ort.Environment{LibraryPath: o.Library}); err != nil {
		return fmt.Errorf("runner: %w", err)
	}
	model, err := ir.Load(path)
	if err != nil {
		return fmt.Errorf("runner: %w", err)
	}
	defer model.Close()
	if r.config, err = readConfig(r.dir); err != nil {
		return err
	}
	threads := o.Threads
	if threads == 0 {
		threads = ort.DefaultThreads()
	}
	r.session, err = ort.NewSession(path, ort.SessionConfig{Providers: o.Providers, Threads: threads, ConfigEntries: o.ConfigEntries})
	if err != nil {
		return fmt.Errorf("runner: %w", err)
	}
	if r.layout, err = readLayout(r.session, model); err != nil {
		return err
	}
	r.setContext(o.MaxContext)
	if r.tok, err = tokenizer.Open(r.dir); err != nil {
		r.tokErr = fmt.Errorf("runner: %w", err)
	}
	if r.template, err = chat.Load(r.dir); err != nil {
		r.tmplErr = fmt.Errorf("runner: %w", err)
	}
	l := r.layout
	r.info = Info{
		Dir: r.dir, Layers: len(l.layers), KVHeads: int(l.kvHeads), HeadDim: int(l.headDim), Vocabulary: int(l.vocab),
		ContextLength: r.context, KVType: l.kvType.String(), SharedKV: l.shared, LastLogits: l.keep,
		Threads: threads, Library: ort.Version(), StopTokens: r.config.stop, Sampling: r.config.sampling,
	}
	return nil
}

// unknownContext is the context length of a model whose files do not tell it.
const unknownContext = 4096

func (r *Runner) setContext(limit int) {
	r.context = int(r.config.context)
	if r.layout.context > 0 {
		r.context = int(r.layout.context)
	}
	if r.context <= 0 {
		r.context = unknownContext
	}
	if limit > 0 {
		r.context = min(r.context, limit)
	}
}

// Info describes the model.
func (r *Runner) Info() Info { return r.info }

// Tokenizer is the model's tokenizer; an error says why there is none.
func (r *Runner) Tokenizer() (*tokenizer.Tokenizer, error) { return r.tok, r.tokErr }

// Close waits for the sequences in use, and releases the model. Later calls give ErrClosed; a
// second Close does nothing.
func (r *Runner) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	r.mu.Unlock()
	r.active.Wait()
	if r.session != nil {
		r.session.Close()
	}
	if r.tok != nil {
		return r.tok.Close()
	}
	return nil
}

// enter counts a sequence in.
func (r *Runner) enter() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return fmt.Errorf("runner: %w", ErrClosed)
	}
	r.active.Add(1)
	return nil
}
