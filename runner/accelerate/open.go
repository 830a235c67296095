package accelerate

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/qwenrt/qwenrt/graphopt/inspect"
	"github.com/qwenrt/qwenrt/models/folder"
	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/runner"
)

// ErrNotApplied means that the configuration is strict, and something that it asks for cannot be had.
var ErrNotApplied = errors.New("not applied")

// Model is an open model, whose set-up can be changed while it is in use. It is safe for concurrent use.
type Model struct {
	source Source
	events Events

	changing chan struct{} // room for one: who has sent to it reconfigures

	mu  sync.Mutex
	now *setup // nil once closed
}

// setup is a runner with those who use it. It is closed by the last of them, once it is no longer the model's.
type setup struct {
	runner  *runner.Runner
	info    func() Info // made when it is first asked for
	users   int
	retired bool
}

// Open makes what is missing of the model that c asks for in the user's cache, as Cached does, and opens it. from is a
// checkpoint, or a model that is made already: a model folder or an .onnx file, of which c then changes what it can,
// and the rest is reported.
//
// Where c.Device is Auto, devices that do not work are passed over, which Info tells; a device that is named and does
// not work is an error. What else cannot be applied is reported by Info, or, if c is strict, an error.
//
// Errors: those of Build and runner.Open, ort.ErrProvider, ErrNotApplied.
func Open(ctx context.Context, from Source, c Config, e Events) (*Model, error) {
	s, err := open(ctx, from, c, e)
	if err != nil {
		return nil, err
	}
	return &Model{source: from, events: e, changing: make(chan struct{}, 1), now: s}, nil
}

func open(ctx context.Context, from Source, c Config, e Events) (*setup, error) {
	var r *runner.Runner
	p, err := prepare(ctx, from, c, e, func(p *Prepared) (err error) {
		o := p.Options
		o.Inspect = p.inspect
		r, err = runner.Open(ctx, p.File, o)
		return err
	})
	if err != nil {
		return nil, err
	}
	measured := measureMemory()
	s := &setup{runner: r, info: sync.OnceValue(func() Info { return p.describe(r.Info(), measured) })}
	if c.Strict {
		if err := s.info().strict(); err != nil {
			return nil, errors.Join(err, r.Close())
		}
	}
	return s, nil
}

// Prepared is a model that is ready to be opened.
type Prepared struct {
	File    string         // the .onnx file
	Options runner.Options // to open it with
	Device  Device
	// Built is nil where the model folder was there.
	Built *Report

	made     bool             // by whoever gave it, rather than from a checkpoint
	summary  *inspect.Summary // of the graph, once a runner has it open
	estimate Estimate
	config   Config            // as it was asked for, less what a device that was passed over made of it
	notes    map[string]string // why an option is not applied
}

// Prepare does what Open does before the model is opened, for those who open it themselves. Of several devices it takes
// the first on which a session of one node works.
func Prepare(ctx context.Context, from Source, c Config, e Events) (*Prepared, error) {
	return prepare(ctx, from, c, e, func(*Prepared) error { return nil })
}

// prepare goes through the devices until there is one on which try succeeds.
func prepare(ctx context.Context, from Source, c Config, e Events, try func(*Prepared) error) (*Prepared, error) {
	c, note, err := c.tuned(from)
	if err != nil {
		return nil, err
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if err := ort.Init(ort.Environment{}); err != nil {
		return nil, fmt.Errorf("accelerate: %w", err)
	}
	p, err := prepareOn(ctx, c.devices(ort.Providers()), from, c, e, try)
	if err != nil {
		return nil, err
	}
	p.note("compile", note)
	return p, nil
}

// prepareOn takes the first of some devices that works. The error is that of the last.
func prepareOn(ctx context.Context, devices []Device, from Source, c Config, e Events, try func(*Prepared) error) (p *Prepared, err error) {
	var passed []string
	for _, d := range devices {
		p = &Prepared{Device: d, config: c, notes: map[string]string{}}
		if err = p.on(ctx, from, e); err == nil {
			if err = try(p); err != nil && ctx.Err() == nil && p.unfixSteps(err) {
				err = try(p)
			}
		}
		if err == nil {
			p.note("device", strings.Join(passed, "; "))
			return p, nil
		}
		if ctx.Err() != nil {
			break
		}
		passed = append(passed, fmt.Sprintf("%s: %v", d, err))
	}
	return nil, err
}

// unfixSteps leaves out steps of one shape, unless they were asked for by name: not every graph can have them, and providers
// record only those of which they run every node.
func (p *Prepared) unfixSteps(why error) bool {
	if !p.Options.FixedSteps || p.config.ProviderOptions[keyCUDAGraph] != "" {
		return false
	}
	p.Options.FixedSteps = false
	delete(p.Options.Providers[0].Options, keyCUDAGraph)
	p.note("compile", fmt.Sprintf("decode steps have no fixed shape, and are not recorded: %v", why))
	return true
}

// note says why an option is not applied.
func (p *Prepared) note(option, reason string) {
	if reason != "" {
		p.notes[option] = reason
	}
}

// devices are those to try, in order. Auto leaves out what is not among the providers that the library was built with.
func (c Config) devices(providers []string) []Device {
	d := c.Device.canonical()
	if d != Auto {
		return []Device{d}
	}
	var all []Device
	for _, known := range []struct {
		device   Device
		provider string
	}{{CUDA, "CUDAExecutionProvider"}, {CoreML, "CoreMLExecutionProvider"}} {
		if slices.Contains(providers, known.provider) {
			all = append(all, known.device)
		}
	}
	return append(all, CPU)
}

// on makes the model for a device.
func (p *Prepared) on(ctx context.Context, from Source, e Events) error {
	c := p.config
	c.Device = p.Device
	if err := p.probe(c); err != nil {
		return err
	}
	p.Options = c.options(p.Device)
	var err error
	p.File, err = from.modelFile()
	if p.made = err == nil; errors.Is(err, folder.ErrNoModel) {
		p.File, p.Built, err = cachedFile(ctx, from, c, e)
	}
	if err != nil {
		return err
	}
	return p.store(ctx, c, e)
}

// probe finds out whether the device works before anything is built for it.
func (p *Prepared) probe(c Config) error {
	if c.ProviderLibrary != "" {
		if err := ort.RegisterProviderLibrary(string(p.Device), c.ProviderLibrary); err != nil {
			return fmt.Errorf("accelerate: %w", err)
		}
	}
	if p.Device == CoreML && p.config.Device.canonical() == Auto && c.quantizes() {
		return errors.New("it has no kernels for quantised weights")
	}
	for _, provider := range c.provider(p.Device) {
		if err := ort.Probe(provider); err != nil {
			return fmt.Errorf("accelerate: device %s: %w", p.Device, err)
		}
	}
	return nil
}

func cachedFile(ctx context.Context, from Source, c Config, e Events) (string, *Report, error) {
	dir, built, err := Cached(ctx, from, c, e)
	if err != nil {
		return "", nil, err
	}
	if built != nil && e.Built != nil {
		e.Built(built)
	}
	file, err := folder.ModelFile(dir)
	return file, built, err
}

// modelFile is the graph of a model that is made already; folder.ErrNoModel says that from is a checkpoint.
func (s Source) modelFile() (string, error) {
	if s.FS != nil || s.Dir == "" {
		return "", folder.ErrNoModel
	}
	return folder.ModelFile(s.Dir)
}

// Use gives the runner as it is set up now, for as long as release has not been called: until then Reconfigure and
// Close leave it open.
//
// Errors: runner.ErrClosed.
func (m *Model) Use() (r *runner.Runner, release func(), err error) {
	s, release, err := m.use()
	if err != nil {
		return nil, nil, err
	}
	return s.runner, release, nil
}

func (m *Model) use() (s *setup, release func(), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s = m.now; s == nil {
		return nil, nil, fmt.Errorf("accelerate: %w", runner.ErrClosed)
	}
	s.users++
	return s, sync.OnceFunc(func() { m.leave(s) }), nil
}

// leave closes a set-up behind its last user.
func (m *Model) leave(s *setup) {
	m.mu.Lock()
	s.users--
	last := s.retired && s.users == 0
	m.mu.Unlock()
	if last {
		_ = s.runner.Close() // nobody is left to tell; only the tokenizer can fail, and only at its memory
	}
}

// Generate is runner.Generate on the set-up of the moment, which it keeps to its end.
func (m *Model) Generate(ctx context.Context, q runner.Request) iter.Seq2[runner.Event, error] {
	return func(yield func(runner.Event, error) bool) {
		r, release, err := m.Use()
		if err != nil {
			yield(runner.Event{Token: -1, Result: &runner.Result{Reason: runner.Failed}}, err)
			return
		}
		defer release()
		r.Generate(ctx, q)(yield)
	}
}

// Info says what became of the configuration, as the model is set up now. It is empty once the model is closed. The first
// call reads the manifest of the model folder.
func (m *Model) Info() Info {
	m.mu.Lock()
	s := m.now
	m.mu.Unlock()
	if s == nil {
		return Info{}
	}
	return s.info()
}

// Reconfigure opens the model anew as c asks for, beside the set-up that is in use, runs it on one token, and puts it in
// the other's place. Generations under way finish on the old one, which is then closed. After an error everything is
// as it was. Both are in memory for a while. Of several calls one is at work at a time, and the others wait.
//
// Errors: those of Open, runner.ErrClosed, and the context's.
func (m *Model) Reconfigure(ctx context.Context, c Config) error {
	select {
	case m.changing <- struct{}{}:
		defer func() { <-m.changing }()
	case <-ctx.Done():
		return fmt.Errorf("accelerate: another call is changing the set-up: %w", ctx.Err())
	}
	if _, release, err := m.Use(); err != nil {
		return err
	} else {
		release()
	}
	s, err := open(ctx, m.source, c, m.events)
	if err != nil {
		return err
	}
	if err := s.check(ctx); err != nil {
		return errors.Join(fmt.Errorf("accelerate: the new set-up does not run: %w", err), s.runner.Close())
	}
	m.mu.Lock()
	old := m.now
	if old == nil { // closed meanwhile
		m.mu.Unlock()
		return errors.Join(fmt.Errorf("accelerate: %w", runner.ErrClosed), s.runner.Close())
	}
	m.now = s
	return m.retire(old)
}

// retire is called with m.mu held, and unlocks it.
func (m *Model) retire(s *setup) error {
	s.retired = true
	idle := s.users == 0
	m.mu.Unlock()
	if idle {
		return s.runner.Close()
	}
	return nil
}

// check runs one token through the model.
func (s *setup) check(ctx context.Context) error {
	seq, err := s.runner.NewSequence()
	if err != nil {
		return err
	}
	defer seq.Close()
	logits, err := seq.Prefill(ctx, []int32{0})
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(logits, func(x float32) bool { return math.IsNaN(float64(x)) }); i >= 0 {
		return fmt.Errorf("logit %d is not a number", i)
	}
	return nil
}

// Close closes the model. Generations and others that use it finish first; the last of them releases its memory. A
// second Close does nothing.
func (m *Model) Close() error {
	m.mu.Lock()
	s := m.now
	if s == nil {
		m.mu.Unlock()
		return nil
	}
	m.now = nil
	return m.retire(s)
}
