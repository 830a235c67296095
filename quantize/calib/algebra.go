package calib

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"unsafe"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/quantize"
)

// algebra multiplies with ONNX Runtime's Gemm. It is not safe for concurrent use.
type algebra struct {
	dir      string
	threads  int
	sessions map[gemmKind]*gemmSession
	memory   []*ort.Tensor // of Alloc
}

// gemmKind is what a Gemm node has to be told by attributes and operands.
type gemmKind struct{ transA, transB, negative, add bool }

// gemmSession is a model of one Gemm node.
type gemmSession struct {
	session *ort.Session
	binding *ort.Binding
}

func newAlgebra(dir string, threads int) *algebra {
	return &algebra{dir: dir, threads: threads, sessions: map[gemmKind]*gemmSession{}}
}

func (a *algebra) close() {
	for _, s := range a.sessions {
		s.binding.Close()
		s.session.Close()
	}
	for _, t := range a.memory {
		t.Close()
	}
	a.sessions, a.memory = nil, nil
}

// Alloc implements quantize.Algebra.
func (a *algebra) Alloc(n int) ([]float32, error) {
	t, err := ort.NewTensor(ort.Float32, int64(max(n, 1)))
	if err != nil {
		return nil, fmt.Errorf("calib: %w", err)
	}
	a.memory = append(a.memory, t)
	return ort.Data[float32](t)[:n], nil
}

// Free implements quantize.Algebra.
func (a *algebra) Free(b []float32) {
	if t, _ := a.find(b); t != nil {
		a.memory = slices.DeleteFunc(a.memory, func(o *ort.Tensor) bool { return o == t })
		t.Close()
	}
}

// find gives the tensor in whose memory b lies, and where.
func (a *algebra) find(b []float32) (t *ort.Tensor, offset int) {
	if cap(b) == 0 {
		return nil, 0
	}
	at := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	for _, t := range a.memory {
		d := t.Bytes()
		base := uintptr(unsafe.Pointer(unsafe.SliceData(d)))
		if at >= base && at-base < uintptr(len(d)) {
			return t, int(at - base)
		}
	}
	return nil, 0
}

// Gemm implements quantize.Algebra.
func (a *algebra) Gemm(ctx context.Context, g quantize.Gemm) error {
	if g.M == 0 || g.N == 0 {
		return nil
	}
	s, err := a.session(gemmKind{g.TransA, g.TransB, g.Negative, g.C != nil})
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("calib: %w", err)
	}
	shape := func(rows, cols int, turned bool) [2]int64 {
		if turned {
			rows, cols = cols, rows
		}
		return [2]int64{int64(rows), int64(cols)}
	}
	if err := a.bind(s, "A", g.A, shape(g.M, g.K, g.TransA)); err != nil {
		return err
	}
	if err := a.bind(s, "B", g.B, shape(g.K, g.N, g.TransB)); err != nil {
		return err
	}
	if g.C != nil {
		if err := a.bind(s, "C", g.C, shape(g.M, g.N, false)); err != nil {
			return err
		}
	}
	y, mine, err := a.tensor(g.Y, shape(g.M, g.N, false), false)
	if err != nil {
		return err
	}
	defer y.Close()
	if err := s.binding.BindOutput("Y", y); err != nil {
		return fmt.Errorf("calib: %w", err)
	}
	if err := s.binding.Run(nil); err != nil {
		return fmt.Errorf("calib: product of %d by %d by %d: %w", g.M, g.K, g.N, err)
	}
	if !mine {
		copy(g.Y, ort.Data[float32](y))
	}
	return nil
}

func (a *algebra) bind(s *gemmSession, name string, b []float32, shape [2]int64) error {
	t, _, err := a.tensor(b, shape, true)
	if err != nil {
		return err
	}
	defer t.Close()
	if err := s.binding.BindInput(name, t); err != nil {
		return fmt.Errorf("calib: %w", err)
	}
	return nil
}

// tensor gives a view of b where it lies in the algebra's memory, and otherwise a tensor of its own, to
// which b is copied if it is to be read.
func (a *algebra) tensor(b []float32, shape [2]int64, read bool) (t *ort.Tensor, view bool, err error) {
	if size := shape[0] * shape[1]; int64(len(b)) < size {
		return nil, false, fmt.Errorf("calib: a matrix of %v in %d numbers", shape, len(b))
	}
	if base, offset := a.find(b); base != nil {
		t, err = base.View(offset, shape[:]...)
		view = true
	} else if t, err = ort.NewTensor(ort.Float32, shape[:]...); err == nil && read {
		copy(ort.Data[float32](t), b)
	}
	if err != nil {
		return nil, false, fmt.Errorf("calib: %w", err)
	}
	return t, view, nil
}

func (a *algebra) session(kind gemmKind) (*gemmSession, error) {
	if s := a.sessions[kind]; s != nil {
		return s, nil
	}
	session, err := openModel(gemmModel(kind), a.dir, a.threads)
	if err != nil {
		return nil, err
	}
	binding, err := session.NewBinding()
	if err != nil {
		session.Close()
		return nil, fmt.Errorf("calib: %w", err)
	}
	s := &gemmSession{session, binding}
	a.sessions[kind] = s
	return s, nil
}

// gemmModel is Y = Gemm(A, B [, C]).
func gemmModel(kind gemmKind) *ir.Model {
	m := ir.NewModel("gemm", 10, 21)
	matrix := func(name string) *ir.Value {
		return m.Graph.AddInput(name, ir.TensorType(ir.Float32, ir.Sym(name+"0"), ir.Sym(name+"1")))
	}
	inputs := []*ir.Value{matrix("A"), matrix("B")}
	if kind.add {
		inputs = append(inputs, matrix("C"))
	}
	flag := func(b bool) int64 {
		if b {
			return 1
		}
		return 0
	}
	alpha := float32(1)
	if kind.negative {
		alpha = -1
	}
	n := m.Graph.Add(ir.NodeSpec{Op: "Gemm", Inputs: inputs, Outputs: []string{"Y"}, Attrs: []*ir.Attr{
		ir.Float("alpha", alpha), ir.Float("beta", 1), ir.Int("transA", flag(kind.transA)), ir.Int("transB", flag(kind.transB)),
	}})
	n.Output(0).Type = ir.TensorType(ir.Float32, ir.Sym("m"), ir.Sym("n"))
	m.Graph.AddOutput(n.Output(0))
	return m
}

// openModel opens a model that was made here. Its file is needed no longer than that. Its operators run for
// milliseconds each: threads that spin between them would take more than they give.
func openModel(m *ir.Model, dir string, threads int) (*ort.Session, error) {
	sub, err := os.MkdirTemp(dir, "part")
	if err != nil {
		return nil, fmt.Errorf("calib: %w", err)
	}
	defer os.RemoveAll(sub)
	path := filepath.Join(sub, "model.onnx")
	if err := ir.Save(context.Background(), m, path, ir.SaveOptions{InlineBytes: inlineBytes}); err != nil {
		return nil, fmt.Errorf("calib: %w", err)
	}
	s, err := ort.NewSession(path, ort.SessionConfig{Threads: threads, Spin: ort.SpinOff})
	if err != nil {
		return nil, fmt.Errorf("calib: %w", err)
	}
	return s, nil
}
