package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

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
	// ScoresBytes, if positive, makes chunks smaller where the scores of one layer's attention, [query heads,
	// chunk, total] in float32, would take more than that. Default: PrefillChunk alone decides.
	ScoresBytes int64
	// ReserveContext gives a sequence room for the whole context when it is opened, so that its buffers are
	// bound once and never grow. Memory that is not used is not resident on most systems, but counts as
	// reserved; see MaxContext. Graphs without a shared cache grow all the same.
	ReserveContext bool
	// FixedSteps gives all decode steps one shape at one place in memory: the token in input_ids [1, 1], attention_mask
	// [1, context] with ones for the tokens that there are, and a cache for the whole context. So a provider can record a
	// step and play it back, as CUDA graphs do: each memory that steps are bound to has a number of its own in the run option
	// gpu_graph_id, which is -1 for prompts; closed sequences leave theirs to the next; and all runs are on one thread of the
	// operating system, one after the other. Beyond 4 sequences at once, others decode as without it. It implies
	// ReserveContext, and wants a graph that Slots could be used with. Nothing records on a CPU.
	FixedSteps bool
	// MaxContext bounds prompt and answer together, below what the model allows. Default: the model's own.
	MaxContext int
	// Slots is how many generations share the runs of the session, a row of a batch each: together they are
	// faster than one after the other, and each is slower than alone. More wait for their turn. Each slot has
	// a KV cache as large as the longest needs. Default: 0, each generation has runs of its own.
	Slots int
	// Queue is how many generations may wait for a slot; one more fails with ErrBusy. Default: 64.
	Queue int
	// PrefixCache is the memory in bytes for keys and values of earlier prompts and answers: a prompt that
	// begins as one of them runs the rest only. See Info.KVBytes. Default: 0, none are kept.
	PrefixCache int64
	// SmallPages leaves the weights of a session on the CPU on pages of 4 kB; see ort.SessionConfig.HugePages. It loads
	// faster in virtual machines that give free memory back to their host.
	SmallPages bool
	// ProfilePrefix, if set, begins the name of a profile in the Trace Event format that ONNX Runtime
	// writes when the runner is closed.
	ProfilePrefix string
	// Optimization is ONNX Runtime's own graph optimization. Default: all of it.
	Optimization ort.Optimization
	// OptimizedModel is the model as ONNX Runtime has optimised it before (ort.SessionConfig.OptimizedModelPath),
	// which the session then loads in its place, without optimising again. Names, configuration and tokenizer
	// still come from the model itself.
	OptimizedModel string
	// Inspect, if set, is given the graph before a session is made of it, for what Info does not tell. It must not
	// keep the graph.
	Inspect func(*ir.Model)
	// Spin says how idle threads wait; see ort.SessionConfig. Default: ONNX Runtime's; with Slots, ort.SpinInRun,
	// which leaves the cores between runs to those who choose tokens. A model and its Request.Draft want that too.
	Spin ort.Spin
	// NoArena gives memory of activations back to the system after each run; see ort.SessionConfig.
	NoArena bool
	// ConfigEntries are further settings of the session; see ort.SessionConfig.
	ConfigEntries map[string]string
}

// DefaultPrefillChunk is the number of prompt tokens that are run at once where Options do not say.
const DefaultPrefillChunk = 512

// DefaultQueue is the number of generations that may wait where Options do not say.
const DefaultQueue = 64

func (o *Options) validate() error {
	var faults []string
	for _, f := range []struct {
		name  string
		value int
	}{
		{"Threads", o.Threads}, {"PrefillChunk", o.PrefillChunk}, {"ScoresBytes", int(o.ScoresBytes)}, {"MaxContext", o.MaxContext},
		{"Slots", o.Slots}, {"Queue", o.Queue},
	} {
		if f.value < 0 {
			faults = append(faults, fmt.Sprintf("%s is %d", f.name, f.value))
		}
	}
	if o.PrefixCache < 0 {
		faults = append(faults, fmt.Sprintf("PrefixCache is %d", o.PrefixCache))
	}
	if len(faults) > 0 {
		return fmt.Errorf("runner: options: %s: want 0 for the default, or a positive number", strings.Join(faults, ", "))
	}
	return nil
}

// Runner is an open model. It is safe for concurrent use: each generation has its own sequence.
type Runner struct {
	dir      string
	file     string // of the graph
	session  *ort.Session
	layout   *layout
	config   modelConfig
	chunk    int
	scores   int64 // most bytes of attention scores in a chunk; 0 is no bound
	reserve  bool  // sequences have room for the whole context
	context  int
	info     Info
	tok      *tokenizer.Tokenizer // nil where the folder has none
	tokErr   error
	template *chat.Template // nil where the folder has none
	tmplErr  error

	thread       *thread        // that runs the session; nil: any does, and steps have no fixed shape
	graphs       atomic.Int64   // the last number of a graph
	fixtures     fixtures       // of closed sequences
	scheduler    *scheduler     // nil: each generation has runs of its own
	prefix       *prefixCache   // nil: none
	tokHash      *[32]byte      // under mu; nil until it is needed
	vocabulary   lazyVocabulary // for constraints
	toolGrammars toolGrammars   // for required tool calls

	hashOnce sync.Once // modelHash
	hash     [32]byte
	hashErr  error

	mu          sync.Mutex
	closed      bool
	generations sync.WaitGroup // under way
}

// Info describes an open model.
type Info struct {
	Dir           string
	Layers        int
	KVHeads       int
	HeadDim       int
	Vocabulary    int    // rows of the logits; the tokenizer may know fewer tokens
	ContextLength int    // tokens that prompt and answer may have together
	KVType        string // such as float32, int8, or int4, which lies two in a byte
	SharedKV      bool   // past and present are one buffer, so a step copies nothing
	KVMemory      string // that the KV cache lies in: "Cpu", or a device's, such as "Cuda:0"
	LogitsMemory  string // that the session writes logits to; of a device's, the rows that are needed are copied to the CPU
	MemoryReason  string // why the cache lies on the CPU although the session works on a device; empty where it does not
	LastLogits    bool   // the graph computes only the rows of logits that are asked for
	PrefillChunk  int    // tokens of a prompt that are run at once, at most
	ScoresBytes   int64  // bound of one layer's attention scores, which makes chunks smaller; 0 is none
	FixedSteps    bool   // decode steps have one shape, for providers that record them
	Slots         int    // generations that share runs; 0: each has its own
	Queue         int    // that may wait for a slot
	PrefixCache   int64  // bytes for prompts that may be used again; 0: none
	Threads       int
	ORTVersion    string // ONNX Runtime's version
	// Assignments are what the execution providers run of the graph, that with most nodes first.
	Assignments []ort.Assignment
	StopTokens  []int32
	Sampling    sample.Params // the model's own recommendation

	kvBytes int64 // of the KV cache, for one token
}

// KVBytes is the memory of the KV cache for n tokens.
func (i Info) KVBytes(n int) int64 { return i.kvBytes * int64(n) }

// Open loads the model at path: a model folder, which holds model.onnx or one other .onnx file, itself or in
// a folder onnx, or the .onnx file itself. Configuration and tokenizer are beside the file, or above a folder
// onnx. A folder without a tokenizer or a chat template opens as well; what needs them says
// so. ctx is looked at between the steps of loading.
//
// Errors: fs.ErrNotExist, ErrNotModel, ir.ErrMalformed, those of ort.NewSession, and the context's.
func Open(ctx context.Context, path string, o Options) (*Runner, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	file, err := modelFile(path)
	if err != nil {
		return nil, err
	}
	r := &Runner{
		file: file,
		dir:  configDir(file), chunk: cmp.Or(o.PrefillChunk, DefaultPrefillChunk),
		scores: o.ScoresBytes, reserve: o.ReserveContext || o.FixedSteps,
	}
	if err := r.load(ctx, file, o); err != nil {
		_ = r.Close() // what matters is why there is nothing to close
		return nil, err
	}
	return r, nil
}

// graphFolder is where the onnx-community repositories on the Hugging Face hub have their graphs: model.onnx,
// model_q4.onnx and others, below configuration and tokenizer.
const graphFolder = "onnx"

// modelFile finds the graph that path means.
func modelFile(path string) (string, error) {
	st, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("runner: %w", err)
	}
	if !st.IsDir() {
		return path, nil
	}
	for _, dir := range []string{path, filepath.Join(path, graphFolder)} {
		found, err := graphs(dir)
		switch {
		case err != nil:
			return "", fmt.Errorf("runner: %w", err)
		case len(found) == 1:
			return filepath.Join(dir, found[0]), nil
		case len(found) > 1:
			return "", fmt.Errorf("runner: %s: %w: the folder has no model.onnx, but %s: name one of them", dir, ErrNotModel, strings.Join(found, ", "))
		}
	}
	return "", fmt.Errorf("runner: %s: %w: the folder has no .onnx file", path, ErrNotModel)
}

// graphs lists the .onnx files of a folder; model.onnx alone, if it is there. A folder that is not there has none.
func graphs(dir string) (found []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		switch {
		case e.Name() == "model.onnx":
			return []string{e.Name()}, nil
		case filepath.Ext(e.Name()) == ".onnx":
			found = append(found, e.Name())
		}
	}
	return found, nil
}

// configDir is the folder with configuration and tokenizer of a model file: its own, or the one above a
// folder onnx that has no configuration itself.
func configDir(file string) string {
	dir := filepath.Dir(file)
	whole, err := filepath.Abs(dir)
	if err != nil || filepath.Base(whole) != graphFolder {
		return dir
	}
	for _, name := range []string{configFile, genaiFile} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return dir
		}
	}
	above := filepath.Dir(whole)
	if _, err := os.Stat(filepath.Join(above, configFile)); err != nil {
		return dir
	}
	return above
}

func (r *Runner) load(ctx context.Context, file string, o Options) error {
	config, err := readConfig(r.dir)
	if err != nil {
		return err
	}
	r.config = config
	text := r.loadText()
	err = r.loadGraph(ctx, file, o)
	<-text // also after an error: what is open is to be closed
	if err != nil {
		return err
	}
	return r.schedule(o, file)
}

// loadText opens what turns text into tokens, while ONNX Runtime's library and the graph are loaded. Where there
// is none, whoever needs it is told.
func (r *Runner) loadText() (done chan struct{}) {
	done = make(chan struct{})
	go func() {
		defer close(done)
		var err error
		if r.tok, err = tokenizer.Open(r.dir); err != nil {
			r.tokErr = wrap(err)
		}
		if r.template, err = chat.Load(r.dir); err != nil {
			r.tmplErr = wrap(err)
		}
	}()
	return done
}

func (r *Runner) loadGraph(ctx context.Context, file string, o Options) error {
	if err := ort.Init(ort.Environment{LibraryPath: o.Library}); err != nil {
		return wrap(err)
	}
	model, err := ir.Load(file)
	if err != nil {
		return wrap(err)
	}
	defer model.Close()
	if err := ctx.Err(); err != nil {
		return wrap(err)
	}
	if o.Inspect != nil {
		o.Inspect(model)
	}
	conf := SessionConfig(o)
	if r.session, err = newSession(cmp.Or(o.OptimizedModel, file), conf); err != nil {
		return wrap(err)
	}
	if r.layout, err = readLayout(r.session, model, r.config); err != nil {
		return fmt.Errorf("runner: %s: %w", file, err)
	}
	r.setContext(o.MaxContext)
	r.describe(conf.Threads)
	if r.info.Assignments, err = r.session.Assignments(); err != nil {
		return wrap(err)
	}
	return wrap(ctx.Err())
}

// SessionConfig is how the sessions of runners are configured: with o, and with what decoding wants.
func SessionConfig(o Options) ort.SessionConfig {
	c := ort.SessionConfig{
		Providers: o.Providers, Threads: cmp.Or(o.Threads, ort.DefaultThreads()), Spin: o.Spin,
		Optimization: o.Optimization, ProfilePrefix: o.ProfilePrefix, NoArena: o.NoArena,
		// Every step has lengths of its own, so a pattern of activations is never used twice: laying one out
		// and keeping it costs time and memory at each token.
		NoMemPattern: true,
		HugePages:    !o.SmallPages,

		RecordAssignment: true,
		// Weights are put into the form that kernels want on all threads, rather than on one.
		ConfigEntries: map[string]string{"session.prepack.enable_parallel": "1"},
	}
	if o.OptimizedModel != "" {
		c.Optimization = ort.OptimizeNone
	}
	if o.Slots > 0 && o.Spin == ort.SpinDefault {
		c.Spin = ort.SpinInRun
	}
	maps.Copy(c.ConfigEntries, o.ConfigEntries)
	return c
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
	r.chunk = min(r.chunk, r.context)
}

func (r *Runner) describe(threads int) {
	l := r.layout
	r.info = Info{
		Dir:           r.dir,
		Layers:        len(l.layers),
		KVHeads:       int(l.kvHeads),
		HeadDim:       int(l.headDim),
		Vocabulary:    int(l.vocab),
		ContextLength: r.context,
		KVType:        l.cacheType(),
		SharedKV:      l.shared,
		KVMemory:      l.at.kv.String(),
		LogitsMemory:  l.at.logits.String(),
		MemoryReason:  l.at.reason,
		LastLogits:    l.keep,
		PrefillChunk:  r.chunk,
		ScoresBytes:   r.scores,
		Threads:       threads,
		ORTVersion:    ort.Version(),
		StopTokens:    r.config.stop,
		Sampling:      r.config.sampling,
		kvBytes:       2 * int64(len(l.layers)) * l.kvHeads * l.kvWidth * int64(l.kvType.Bits()/8),
	}
}

func (r *Runner) schedule(o Options, file string) error {
	if o.PrefixCache > 0 {
		r.prefix = newPrefixCache(r.layout, o.PrefixCache)
		r.info.PrefixCache = o.PrefixCache
	}
	if o.FixedSteps {
		if !r.layout.batched {
			return fmt.Errorf("runner: %s: %w: Options.FixedSteps is set, and the graph takes lengths from shapes: optimize it", file, ErrNotModel)
		}
		r.info.FixedSteps = true
		r.thread = newThread()
	}
	if o.Slots == 0 {
		return nil
	}
	if !r.layout.batched {
		return fmt.Errorf("runner: %s: %w: Options.Slots is %d, and the graph takes one sequence at a time: optimize it", file, ErrNotModel, o.Slots)
	}
	r.info.Slots, r.info.Queue = o.Slots, cmp.Or(o.Queue, DefaultQueue)
	r.scheduler = newScheduler(r, r.info.Slots, r.info.Queue)
	return nil
}

// chunkAt is how many tokens are run at once behind past others.
func (r *Runner) chunkAt(past int) int {
	if r.scores <= 0 || r.config.heads <= 0 {
		return r.chunk
	}
	// n with heads * n * (past+n) * 4 bytes, the scores of a layer, in the bound; one token always runs.
	most, p := float64(r.scores)/float64(4*r.config.heads), float64(past)
	n := (math.Sqrt(p*p+4*most) - p) / 2
	return min(r.chunk, max(1, int(n)))
}

// Info describes the model.
func (r *Runner) Info() Info {
	info := r.info
	info.StopTokens = slices.Clone(info.StopTokens)
	return info
}

// Tokenizer is the model's tokenizer; an error says why there is none. It is closed with the runner.
func (r *Runner) Tokenizer() (*tokenizer.Tokenizer, error) { return r.tok, r.tokErr }

// Close waits for the generations and runs under way, and releases the model: do not call it from
// within a loop over Generate. Later calls, of sequences too, give ErrClosed; a second Close does
// nothing. A sequence that is open keeps its own memory until it is closed itself.
func (r *Runner) Close() error {
	r.mu.Lock()
	first := !r.closed
	r.closed = true
	r.mu.Unlock()
	if !first {
		return nil
	}
	r.generations.Wait()
	if r.scheduler != nil {
		r.scheduler.close()
	}
	if r.prefix != nil {
		r.prefix.close()
	}
	r.fixtures.close()
	if r.session != nil {
		r.session.Close()
	}
	if r.thread != nil {
		r.thread.close()
	}
	if r.tok != nil {
		return wrap(r.tok.Close())
	}
	return nil
}

// enter counts a generation in.
func (r *Runner) enter() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return fmt.Errorf("runner: %w", ErrClosed)
	}
	r.generations.Add(1)
	return nil
}
