package ort

import (
	"fmt"
	"slices"
	"sync"

	"github.com/qwenrt/qwenrt/ort/internal/capi"
)

// A Binding ties tensors to the inputs and outputs of a session once, for many
// runs: ONNX Runtime reads and writes them in place. One tensor may be bound to an
// input and to an output, where the model's operators allow it, as
// GroupQueryAttention does for its KV cache.
//
// It is safe for concurrent use, one call at a time: Run holds off the others.
type Binding struct {
	session *Session
	model   *model // to be released after handle; nil on the CPU

	mu        sync.Mutex
	handle    *capi.Binding // nil once closed
	slots     []*Slot
	allocated []*Slot // outputs that ONNX Runtime allocates in each run
	carried   []*Slot // inputs that are copied to another memory in each run
	complete  bool    // all inputs are bound
}

// A Slot is one input or output of a binding. Setting it again and again does not
// allocate on Go's heap.
type Slot struct {
	binding *Binding
	name    string
	cname   capi.Name
	output  bool
	bound   *memory          // what the slot keeps from being freed
	carried *capi.Value      // over bound, where each run copies it to another memory; nil where none does
	memory  *capi.MemoryInfo // where ONNX Runtime allocates the output; nil where it does not
}

// NewBinding returns a binding with nothing bound.
func (s *Session) NewBinding() (*Binding, error) {
	if err := s.acquire(); err != nil {
		return nil, err
	}
	defer s.use.RUnlock()
	handle, err := capi.NewBinding(s.handle())
	if err != nil {
		return nil, wrap("binding", err)
	}
	b := &Binding{session: s, handle: handle}
	if s.onDevice {
		b.model = s.model.retain()
	}
	return b, nil
}

// Input returns the slot of an input or an overridable initializer.
func (b *Binding) Input(name string) (*Slot, error) {
	if err := b.session.checkInput(name); err != nil {
		return nil, err
	}
	return b.slot(name, false)
}

// Output returns the slot of an output.
func (b *Binding) Output(name string) (*Slot, error) {
	if err := b.session.checkOutput(name); err != nil {
		return nil, err
	}
	return b.slot(name, true)
}

func (b *Binding) slot(name string, output bool) (*Slot, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.handle == nil {
		return nil, b.closedError()
	}
	for _, s := range b.slots {
		if s.name == name && s.output == output {
			return s, nil
		}
	}
	s := &Slot{binding: b, name: name, cname: capi.NewName(name), output: output}
	b.slots = append(b.slots, s)
	return s, nil
}

// BindInput binds t to an input or an overridable initializer.
func (b *Binding) BindInput(name string, t *Tensor) error {
	s, err := b.Input(name)
	if err != nil {
		return err
	}
	return s.Set(t)
}

// BindOutput binds t to an output, which must have t's type and shape.
func (b *Binding) BindOutput(name string, t *Tensor) error {
	s, err := b.Output(name)
	if err != nil {
		return err
	}
	return s.Set(t)
}

// BindOutputTo lets ONNX Runtime allocate an output anew in each run, in the memory
// at. Outputs returns it.
func (b *Binding) BindOutputTo(name string, at Location) error {
	s, err := b.Output(name)
	if err != nil {
		return err
	}
	if err := b.acquire(); err != nil {
		return err
	}
	defer b.unlock()
	info, err := b.session.memoryAt(at)
	if err != nil {
		return err
	}
	if err := capi.BindOutputTo(b.handle, s.cname, info); err != nil {
		return wrap(fmt.Sprintf("bind %s to memory %s", name, at), err)
	}
	s.drop()
	s.memory = info
	b.allocated = append(b.allocated, s)
	return nil
}

// Set binds t, in the shape it has now. The binding keeps t's memory, so that t may
// be closed. A run reads the elements that an input has when it begins, also where
// it reads it in other memory ([Session.InputLocation]): then each run copies it.
func (s *Slot) Set(t *Tensor) error {
	value, err := t.usable("bind", s.name)
	if err != nil {
		return err
	}
	if err := s.binding.acquire(); err != nil {
		return err
	}
	defer s.binding.unlock()
	if err := s.binding.session.reaches(t, s.name); err != nil {
		return err
	}
	switch {
	case s.output:
		err = capi.BindOutput(s.binding.handle, s.cname, value)
	case s.binding.session.reads(s.name, t.mem.at):
		err = capi.BindInput(s.binding.handle, s.cname, value)
	default:
		return s.carry(t)
	}
	if err != nil {
		return wrap("bind "+s.name, err)
	}
	if s.bound != t.mem || s.carried != nil {
		kept := t.mem.retain()
		s.drop()
		s.bound = kept
	}
	return nil
}

// carry leaves it to Run to bind t. ONNX Runtime copies an input to where it is read
// when it is bound, not when it runs: what is written to t in between would be lost.
func (s *Slot) carry(t *Tensor) error {
	value, err := t.mem.value(t.dtype, t.offset, t.size, t.shape)
	if err != nil {
		return wrap("bind "+s.name, err)
	}
	kept := t.mem.retain()
	s.drop()
	s.bound, s.carried = kept, value
	s.binding.carried = append(s.binding.carried, s)
	return nil
}

// drop lets go of what the slot has bound.
func (s *Slot) drop() {
	b := s.binding
	if s.carried != nil {
		capi.ReleaseValue(s.carried)
		s.carried = nil
		b.carried = slices.DeleteFunc(b.carried, func(other *Slot) bool { return other == s })
	}
	if s.bound != nil {
		s.bound.release()
		s.bound = nil
	}
	if s.memory != nil {
		s.memory = nil
		b.allocated = slices.DeleteFunc(b.allocated, func(other *Slot) bool { return other == s })
	}
}

// Run runs the session on what is bound: one call into ONNX Runtime, without
// allocation on Go's heap. control may be nil.
//
// Errors: ErrCancelled, ErrClosed, ErrInvalidArgument (an input is not bound, or a
// type or a shape does not fit), ErrProvider, ErrRuntime.
func (b *Binding) Run(control *RunControl) error {
	if err := b.acquire(); err != nil {
		return err
	}
	defer b.unlock()
	if err := b.checkInputs(); err != nil {
		return err
	}
	// A run takes the outputs of the run before it as memory to write to. Binding
	// them again has it allocate, as their shape may differ and somebody may hold
	// them.
	for _, s := range b.allocated {
		if err := capi.BindOutputTo(b.handle, s.cname, s.memory); err != nil {
			return wrap("bind "+s.name, err)
		}
	}
	for _, s := range b.carried {
		if err := capi.BindInput(b.handle, s.cname, s.carried); err != nil {
			return wrap("bind "+s.name, err)
		}
	}
	options, err := control.begin()
	if err != nil {
		return err
	}
	return control.end(capi.RunBinding(b.session.handle(), options, b.handle))
}

// checkInputs reports inputs that are not bound. ONNX Runtime would call the
// operators without them, and some take that for an optional input left out.
func (b *Binding) checkInputs() error {
	if b.complete {
		return nil
	}
	err := b.session.checkComplete(func(name string) bool {
		return slices.ContainsFunc(b.slots, func(s *Slot) bool { return s.name == name && !s.output && s.bound != nil })
	})
	b.complete = err == nil
	return err
}

// Outputs returns the outputs of the last run that ONNX Runtime allocated
// (BindOutputTo), by name. The caller closes them; the next run does not
// touch them.
func (b *Binding) Outputs() (map[string]*Tensor, error) {
	if err := b.acquire(); err != nil {
		return nil, err
	}
	defer b.unlock()
	names, values, err := capi.BoundOutputs(b.handle)
	if err != nil {
		return nil, wrap("outputs", err)
	}
	var (
		mine    []string
		results []*capi.Value
	)
	for i, name := range names {
		if b.allocates(name) {
			mine, results = append(mine, name), append(results, values[i])
		} else {
			capi.ReleaseValue(values[i])
		}
	}
	return b.session.model.adoptAll(mine, results)
}

func (b *Binding) allocates(name string) bool {
	return slices.ContainsFunc(b.allocated, func(s *Slot) bool { return s.name == name })
}

// Clear unbinds everything. Slots stay valid.
func (b *Binding) Clear() error {
	if err := b.acquire(); err != nil {
		return err
	}
	defer b.unlock()
	capi.ClearBinding(b.handle)
	b.complete = false
	for _, s := range b.slots {
		s.drop()
	}
	return nil
}

// Close waits for a run under way and releases the binding. Later calls fail with
// ErrClosed; a second Close does nothing.
func (b *Binding) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.handle == nil {
		return
	}
	capi.ReleaseBinding(b.handle)
	b.handle = nil
	for _, s := range b.slots {
		s.drop()
		s.cname.Free()
	}
	b.slots = nil
	if b.model != nil {
		b.model.release()
	}
}

// acquire takes the binding and keeps its session from closing, until unlock.
func (b *Binding) acquire() error {
	b.mu.Lock()
	if b.handle == nil {
		b.mu.Unlock()
		return b.closedError()
	}
	if err := b.session.acquire(); err != nil {
		b.mu.Unlock()
		return err
	}
	return nil
}

func (b *Binding) unlock() {
	b.session.use.RUnlock()
	b.mu.Unlock()
}

func (b *Binding) closedError() error { return fmt.Errorf("ort: binding: %w", ErrClosed) }
