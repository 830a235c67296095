package machine

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/ort"
)

// run is a session whose runs are timed.
type run struct {
	session *ort.Session
	binding *ort.Binding
	tensors map[string]*ort.Tensor
}

func newRun(m *ir.Model, threads int) (*run, error) {
	raw, err := ir.Encode(m)
	if err != nil {
		return nil, err
	}
	s, err := ort.NewSessionFromBytes(raw, ort.SessionConfig{Threads: threads, NoMemPattern: true})
	if err != nil {
		return nil, err
	}
	b, err := s.NewBinding()
	if err != nil {
		s.Close()
		return nil, err
	}
	return &run{s, b, map[string]*ort.Tensor{}}, nil
}

func (r *run) close() {
	r.binding.Close()
	for _, t := range r.tensors {
		t.Close()
	}
	r.session.Close()
}

// tensor is one for the input called name; there is one of each shape. Floats are 1 and -1 in turn.
func (r *run) tensor(name string, d ort.DType, shape ...int64) (*ort.Tensor, error) {
	key := fmt.Sprint(name, shape)
	if t := r.tensors[key]; t != nil {
		return t, nil
	}
	t, err := ort.NewTensor(d, shape...)
	if err != nil {
		return nil, err
	}
	r.tensors[key] = t
	if d == ort.Float32 {
		for i, v := 0, ort.Data[float32](t); i < len(v); i++ {
			v[i] = 1 - 2*float32(i&1)
		}
	}
	return t, nil
}

// median is the median time of some runs, after one that is not counted.
func (r *run) median(ctx context.Context, runs int) (time.Duration, error) {
	control, err := ort.NewRunControl()
	if err != nil {
		return 0, err
	}
	defer control.Close()
	defer control.Watch(ctx)()
	times := make([]time.Duration, runs+1)
	for i := range times {
		start := time.Now()
		if err := r.binding.Run(control); err != nil {
			return 0, err
		}
		times[i] = time.Since(start)
	}
	times = times[1:]
	slices.Sort(times)
	return times[runs/2], nil
}
