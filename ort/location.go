package ort

import (
	"fmt"

	"github.com/qwenrt/qwenrt/ort/internal/capi"
)

// A Location is a kind of memory: that of the CPU, which is the zero Location, or
// that of a device. Locations can be compared.
type Location struct {
	// What an OrtMemoryInfo says; nothing where it is the CPU's.
	memory capi.Memory
}

// Name returns what the execution provider calls the memory: "Cpu", "Cuda", ...
func (l Location) Name() string {
	if l == (Location{}) {
		return "Cpu"
	}
	return l.memory.Name
}

// OnCPU reports whether the elements of tensors that lie there can be read and
// written by this process: see [Tensor.Bytes]. It is so for memory of the CPU, and
// for what a device shares with it.
func (l Location) OnCPU() bool { return l == (Location{}) || l.memory.Host }

// String returns the name, and which of several devices it is: "Cpu", "Cuda:0".
func (l Location) String() string {
	if l == (Location{}) {
		return l.Name()
	}
	return fmt.Sprintf("%s:%d", l.memory.Name, l.memory.ID)
}

// locate returns the Location that info describes.
func locate(info *capi.MemoryInfo) (Location, error) {
	memory, err := capi.DescribeMemory(info)
	if err != nil || memory.Kind == 0 {
		return Location{}, err
	}
	return Location{memory}, nil
}

// A place is memory that a session reads from or writes to.
type place struct {
	Location
	info *capi.MemoryInfo // the session's
}

// places returns where the session takes its inputs from, or leaves its outputs.
func places(s *capi.Session, list capi.List, count int) ([]place, error) {
	infos, err := capi.SessionMemory(s, list, count)
	if err != nil {
		return nil, err
	}
	all := make([]place, len(infos))
	for i, info := range infos {
		all[i].info = info
		if all[i].Location, err = locate(info); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// InputLocation returns where a run reads an input from. A tensor that lies
// elsewhere is copied there in each run. For an overridable initializer, of which
// ONNX Runtime does not tell, it is the CPU's.
func (s *Session) InputLocation(name string) (Location, error) {
	for i, v := range s.inputs {
		if v.Name == name {
			return s.inputsAt[i].Location, nil
		}
	}
	return Location{}, s.checkInput(name)
}

// OutputLocation returns where a run writes an output. To a tensor that lies
// elsewhere it is copied in each run.
func (s *Session) OutputLocation(name string) (Location, error) {
	for i, v := range s.outputs {
		if v.Name == name {
			return s.outputsAt[i].Location, nil
		}
	}
	return Location{}, s.checkOutput(name)
}

// reads reports whether a run reads the input called name in the memory at, and not
// a copy of it elsewhere. Of overridable initializers that is known only where all
// is on the CPU.
func (s *Session) reads(name string, at Location) bool {
	for i, v := range s.inputs {
		if v.Name == name {
			return s.inputsAt[i].Location == at
		}
	}
	return !s.onDevice
}

// memoryAt returns the description of a memory that the session or the CPU has.
func (s *Session) memoryAt(at Location) (*capi.MemoryInfo, error) {
	lib, err := current()
	if err != nil {
		return nil, err
	}
	if at == (Location{}) {
		return lib.cpu, nil
	}
	for _, places := range [][]place{s.inputsAt, s.outputsAt} {
		for _, p := range places {
			if p.Location == at {
				return p.info, nil
			}
		}
	}
	return nil, invalid("the session has no input or output in memory %s", at)
}

// reaches reports a tensor in memory that the session cannot read. ONNX Runtime does
// not look: it would take the address for one of its own memory.
func (s *Session) reaches(t *Tensor, name string) error {
	if t.mem.at.OnCPU() {
		return nil
	}
	if _, err := s.memoryAt(t.mem.at); err != nil {
		return fmt.Errorf("%w, where %s is: copy it to the CPU's", err, name)
	}
	return nil
}
