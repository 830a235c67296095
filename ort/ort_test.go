package ort_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/ort"
)

// needLibrary loads ONNX Runtime. A machine without it fails the test, with what
// to do about it.
func needLibrary(t testing.TB) {
	t.Helper()
	require.NoError(t, ort.Init(ort.Environment{}))
}

func graph(name string) string { return filepath.Join("testdata", name+".onnx") }

func open(t testing.TB, name string, config ort.SessionConfig) *ort.Session {
	t.Helper()
	needLibrary(t)
	s, err := ort.NewSession(graph(name), config)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

// tensor returns a tensor that holds values.
func tensor[T ort.Element](t testing.TB, dtype ort.DType, values []T, shape ...int64) *ort.Tensor {
	t.Helper()
	needLibrary(t)
	x, err := ort.NewTensor(dtype, shape...)
	require.NoError(t, err)
	t.Cleanup(x.Close)
	require.Equal(t, len(values), copy(ort.Data[T](x), values))
	return x
}

func floats(t testing.TB, values []float32, shape ...int64) *ort.Tensor {
	t.Helper()
	return tensor(t, ort.Float32, values, shape...)
}

func bind(t testing.TB, s *ort.Session) *ort.Binding {
	t.Helper()
	b, err := s.NewBinding()
	require.NoError(t, err)
	t.Cleanup(b.Close)
	return b
}

func control(t testing.TB) *ort.RunControl {
	t.Helper()
	c, err := ort.NewRunControl()
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// run is Session.Run for tests in which it must succeed.
func run(t testing.TB, s *ort.Session, inputs map[string]*ort.Tensor) map[string]*ort.Tensor {
	t.Helper()
	outputs, err := s.Run(context.Background(), inputs, nil)
	require.NoError(t, err)
	for _, x := range outputs {
		t.Cleanup(x.Close)
	}
	return outputs
}
