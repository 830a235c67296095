package calib

import (
	"context"
	"io/fs"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/quantize"
)

// smooth evens m out as options say, and rounds it.
func smooth(t *testing.T, m *ir.Model, o quantize.SmoothOptions, samples [][]int64, c Options) []quantize.Smoothing {
	t.Helper()
	s, err := quantize.NewSmoother(m, o)
	require.NoError(t, err)
	require.NoError(t, Smooth(t.Context(), m, s, samples, c))
	all, err := s.Fold()
	require.NoError(t, err)
	o.Options.Int8.Activations = s.Activations()
	p, err := quantize.NewPlan(m, o.Options)
	require.NoError(t, err)
	require.NoError(t, p.Apply(m))
	return all
}

// Smoothing by what is seen of a whole model must help, on other samples too; the toy's norms have an outlier channel.
func TestSmoothHelps(t *testing.T) {
	calibration, other := toySamples(1, 24, 40), toySamples(2, 6, 40)
	want := logits(t, newToy(), other)
	for _, precision := range []quantize.Precision{quantize.DynamicInt8, quantize.StaticInt8, quantize.Int8} {
		o := quantize.SmoothOptions{Options: quantize.Options{Precision: precision}}
		m := newToy()
		all := smooth(t, m, o, calibration, Options{})
		into := map[string]int{}
		for _, s := range all {
			into[s.Into]++
		}
		require.Equal(t, 2*toyLayers, into["norm"], precision)
		after := distance(want, logits(t, m, other))
		m = newToy()
		o.Off = true
		smooth(t, m, o, calibration, Options{})
		before := distance(want, logits(t, m, other))
		t.Logf("%s: %.4f, without %.4f", precision, after, before)
		require.Less(t, after, 0.8*before, precision)
	}
}

func TestSmoothIsDeterministic(t *testing.T) {
	samples := toySamples(1, 12, 40)
	var first *ir.Model
	for _, threads := range []int{1, 2} {
		m := newToy()
		o := quantize.SmoothOptions{Options: quantize.Options{Precision: quantize.StaticInt8}, Range: quantize.RangeEntropy}
		smooth(t, m, o, samples, Options{Threads: threads})
		path := filepath.Join(t.TempDir(), "model.onnx")
		require.NoError(t, ir.Save(context.Background(), m, path, ir.SaveOptions{}))
		saved, err := ir.Load(path)
		require.NoError(t, err)
		defer saved.Close()
		if first == nil {
			first = saved
			continue
		}
		require.Equal(t, encoded(t, first), encoded(t, saved))
	}
}

func encoded(t *testing.T, m *ir.Model) []byte {
	t.Helper()
	b, err := ir.Encode(m)
	require.NoError(t, err)
	return b
}

func TestSmoothErrors(t *testing.T) {
	m := newToy()
	s, err := quantize.NewSmoother(m, quantize.SmoothOptions{Options: quantize.Options{Precision: quantize.DynamicInt8}})
	require.NoError(t, err)
	require.ErrorIs(t, Smooth(t.Context(), m, s, nil, Options{}), ErrNoData)
	require.ErrorContains(t, Smooth(t.Context(), m, s, [][]int64{{1}, {2, 3}}, Options{}), "sample 1 has 2 tokens")

	broken := newBrokenToy(t)
	b, err := quantize.NewSmoother(broken, quantize.SmoothOptions{})
	require.NoError(t, err)
	err = Smooth(t.Context(), broken, b, toySamples(1, 4, 40), Options{})
	require.ErrorIs(t, err, quantize.ErrNotFinite)
	require.ErrorContains(t, err, "layers.1.o.weight has NaN")

	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	err = Smooth(ctx, m, s, toySamples(1, 8, 40), Options{Dir: dir, Progress: func(Progress) { cancel() }})
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		require.Equal(t, dir, path, "nothing is left behind")
		return err
	}))
}
