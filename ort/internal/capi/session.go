package capi

// #include "shim.h"
import "C"

import "unsafe"

// NewSession loads the model in the file at path.
func NewSession(env *Env, path string, options *SessionOptions) (*Session, error) {
	p := nativePath(path)
	defer C.free(p)
	var s *Session
	return s, take(C.capi_session_create(env, p, options, &s))
}

// NewSessionFromBytes loads the model that is serialised in model.
func NewSessionFromBytes(env *Env, model []byte, options *SessionOptions) (*Session, error) {
	var s *Session
	return s, take(C.capi_session_create_from_bytes(env, unsafe.Pointer(unsafe.SliceData(model)),
		C.size_t(len(model)), options, &s))
}

// ReleaseSession frees s.
func ReleaseSession(s *Session) { C.capi_session_release(s) }

// ValueInfo describes one input, output or overridable initializer.
type ValueInfo struct {
	Name    string
	DType   int      // an ONNXTensorElementDataType; 0 where the value is no tensor
	Shape   []int64  // -1 where a dimension is symbolic or unknown
	Symbols []string // the names of symbolic dimensions, "" for the others
}

// Describe returns one of the lists of s.
func Describe(s *Session, list List) ([]ValueInfo, error) {
	var count C.size_t
	if err := take(C.capi_session_count(s, C.int(list), &count)); err != nil {
		return nil, err
	}
	infos := make([]ValueInfo, count)
	for i := range infos {
		if err := infos[i].read(s, list, C.size_t(i)); err != nil {
			return nil, err
		}
	}
	return infos, nil
}

func (v *ValueInfo) read(s *Session, list List, i C.size_t) error {
	allocator, err := DefaultAllocator()
	if err != nil {
		return err
	}
	var name *C.char
	if err := take(C.capi_session_name(s, C.int(list), i, allocator, &name)); err != nil {
		return err
	}
	v.Name = C.GoString(name)
	if err := take(C.capi_allocator_free(allocator, unsafe.Pointer(name))); err != nil {
		return err
	}
	var typ *C.OrtTypeInfo
	if err := take(C.capi_session_type(s, C.int(list), i, &typ)); err != nil {
		return err
	}
	defer C.capi_type_release(typ)
	var tensor *C.OrtTensorTypeAndShapeInfo
	if err := take(C.capi_type_tensor(typ, &tensor)); err != nil || tensor == nil {
		return err
	}
	v.DType, v.Shape, v.Symbols, err = readShape(tensor)
	return err
}

// readShape reads an OrtTensorTypeAndShapeInfo.
func readShape(info *C.OrtTensorTypeAndShapeInfo) (dtype int, shape []int64, symbols []string, err error) {
	var (
		typ  C.ONNXTensorElementDataType
		rank C.size_t
	)
	if err := take(C.capi_shape_element_type(info, &typ)); err != nil {
		return 0, nil, nil, err
	}
	if err := take(C.capi_shape_rank(info, &rank)); err != nil {
		return 0, nil, nil, err
	}
	shape = make([]int64, rank)
	names := make([]*C.char, rank)
	if err := take(C.capi_shape_dims(info, (*C.int64_t)(unsafe.SliceData(shape)), rank)); err != nil {
		return 0, nil, nil, err
	}
	if err := take(C.capi_shape_symbols(info, unsafe.SliceData(names), rank)); err != nil {
		return 0, nil, nil, err
	}
	return int(typ), shape, goStrings(names), nil
}

// AssignedNode is a node, and the execution provider that runs it.
type AssignedNode struct{ Provider, Domain, Operator string }

// AssignedNodes returns the nodes of s, if it was created with session.record_ep_graph_assignment_info.
func AssignedNodes(s *Session) (all []AssignedNode, err error) {
	var (
		subgraphs **C.OrtEpAssignedSubgraph
		count     C.size_t
	)
	if err := take(C.capi_session_assigned(s, &subgraphs, &count)); err != nil {
		return nil, err
	}
	for _, g := range unsafe.Slice(subgraphs, count) {
		var (
			provider *C.char
			nodes    **C.OrtEpAssignedNode
			size     C.size_t
		)
		if err := take(C.capi_assigned_provider(g, &provider)); err != nil {
			return nil, err
		}
		if err := take(C.capi_assigned_nodes(g, &nodes, &size)); err != nil {
			return nil, err
		}
		for _, n := range unsafe.Slice(nodes, size) {
			var domain, operator *C.char
			if err := take(C.capi_assigned_operator(n, &domain, &operator)); err != nil {
				return nil, err
			}
			all = append(all, AssignedNode{C.GoString(provider), C.GoString(domain), C.GoString(operator)})
		}
	}
	return all, nil
}

// EndProfiling stops the profile of s and returns the file it lies in.
func EndProfiling(s *Session) (string, error) {
	allocator, err := DefaultAllocator()
	if err != nil {
		return "", err
	}
	var path *C.char
	if err := take(C.capi_session_end_profiling(s, allocator, &path)); err != nil {
		return "", err
	}
	file := C.GoString(path)
	return file, take(C.capi_allocator_free(allocator, unsafe.Pointer(path)))
}

// Run computes outputs from inputs. Values of the result that ONNX Runtime
// allocated are the caller's.
func Run(s *Session, options *RunOptions, inputNames []string, inputs []*Value, outputNames []string) ([]*Value, error) {
	in, out := newCStrings(inputNames), newCStrings(outputNames)
	defer in.free()
	defer out.free()
	outputs := make([]*Value, len(outputNames))
	return outputs, take(C.capi_session_run(s, options,
		unsafe.SliceData(in), unsafe.SliceData(inputs), C.size_t(len(inputs)),
		unsafe.SliceData(out), C.size_t(len(out)), unsafe.SliceData(outputs)))
}

// NewRunOptions returns options with the defaults of ONNX Runtime.
func NewRunOptions() (*RunOptions, error) {
	var o *RunOptions
	return o, take(C.capi_run_options_create(&o))
}

// ReleaseRunOptions frees o.
func ReleaseRunOptions(o *RunOptions) { C.capi_run_options_release(o) }

// Terminate makes the runs that use o return as soon as they can. It may be
// called while they run.
func Terminate(o *RunOptions) error { return take(C.capi_run_options_terminate(o)) }

// Unterminate takes Terminate back.
func Unterminate(o *RunOptions) error { return take(C.capi_run_options_unterminate(o)) }

// AddRunConfig sets a run configuration entry.
func AddRunConfig(o *RunOptions, key, value string) error {
	k, v := NewName(key), NewName(value)
	defer k.Free()
	defer v.Free()
	return take(C.capi_run_options_add(o, k.p, v.p))
}
