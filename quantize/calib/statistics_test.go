package calib

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/quantize"
)

// A run that reads statistics must give what the run gave that wrote them, without running the model.
func TestStatisticsFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "stats.json")
	samples := toySamples(1, 4, 40)
	q := quantize.Options{Method: quantize.AWQ}
	observed := 0
	run := func() []float32 {
		m := newToy()
		observed = 0
		plan(t, m, q, samples, Options{Statistics: path, Progress: func(p Progress) { observed++ }})
		return logits(t, m, samples)
	}
	first := run()
	require.Positive(t, observed)
	again := run()
	require.Zero(t, observed)
	require.Equal(t, first, again)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1, "no temporary file is left")

	s, err := readStatistics(path)
	require.NoError(t, err)
	defer s.close()
	name := "layers.1.mul/out"
	for _, c := range []struct {
		why    string
		change func()
		text   string
	}{
		{"an activation is missing", func() { delete(s.Activations, name) }, "no activation"},
		{"of another width", func() { s.Activations[name].Mean = s.Activations[name].Mean[1:] }, "has 95 channels, want 96"},
		{"a model of the same shape", func() { s.Weights["layers.0.o.weight"] = "00" }, "layers.0.o.weight is another weight"},
		{"a mean below zero", func() { s.Activations[name].Square[3] = -1 }, "channel 3 of"},
	} {
		s, err = readStatistics(path)
		require.NoError(t, err)
		defer s.close()
		c.change()
		other := filepath.Join(dir, "other.json")
		require.NoError(t, s.write(other))
		_, _, err = Plan(t.Context(), newToy(), q, samples, Options{Statistics: other})
		require.ErrorContains(t, err, "other.json is of another model: ", c.why)
		require.ErrorContains(t, err, c.text, c.why)
	}
	header := `{"qwenrt_statistics":2,"observations":{"inputs":[{"channels":%s,"batches":0,"tokens":0}]}}` + "\n"
	for _, content := range []string{
		"", "{}", `{"qwenrt_statistics": 1}`, `{"qwenrt_statistics": 3}`, "text",
		`{"qwenrt_statistics": 2}` + "\nmore than there is to be",
		fmt.Sprintf(header, "2") + "short", fmt.Sprintf(header, "0"), fmt.Sprintf(header, "-1"), fmt.Sprintf(header, "9000000000000000000"),
	} {
		require.NoError(t, os.WriteFile(path, []byte(content), 0o666))
		_, err = readStatistics(path)
		require.ErrorContains(t, err, "does not hold statistics of format 2", content)
	}
	_, err = readStatistics(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
	require.Error(t, s.write(filepath.Join(dir, "none", "x")))
	_, _, err = Plan(t.Context(), newToy(), q, samples, Options{Statistics: filepath.Join(dir, "none", "x"), Progress: func(Progress) {
		t.Fatal("the model is run, and there is no folder for what is found")
	}})
	require.ErrorIs(t, err, os.ErrNotExist)
}

// What a smoother is shown out of a file must be what it was shown when the file was written, whether the file holds what AWQ
// observes or not; a range that needs tokens needs a run that has kept some.
func TestStatisticsFileHoldsObservations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stats")
	samples := toySamples(1, 8, 40)
	observed := 0
	options := Options{Statistics: path, Progress: func(Progress) { observed++ }}
	run := func(o quantize.SmoothOptions) ([]quantize.Smoothing, []float32) {
		observed = 0
		m := newToy()
		all := smooth(t, m, o, samples, options)
		return all, logits(t, m, samples)
	}
	dynamic := quantize.SmoothOptions{Options: quantize.Options{Precision: quantize.DynamicInt8}}
	static := quantize.SmoothOptions{Options: quantize.Options{Precision: quantize.StaticInt8}, Range: quantize.RangeMSE}
	awq := func() {
		observed = 0
		plan(t, newToy(), quantize.Options{Method: quantize.AWQ}, samples, options)
	}

	first, want := run(dynamic)
	require.Positive(t, observed)
	again, got := run(dynamic)
	require.Zero(t, observed)
	require.Equal(t, first, again)
	require.Equal(t, want, got)

	awq()
	require.Positive(t, observed, "what AWQ observes is not in the file")
	awq()
	require.Zero(t, observed)
	_, got = run(dynamic)
	require.Zero(t, observed, "what was in the file still is")
	require.Equal(t, want, got)

	first, want = run(static)
	require.Positive(t, observed, "no tokens were kept")
	again, got = run(static)
	require.Zero(t, observed)
	require.Equal(t, first, again)
	require.Equal(t, want, got)
	run(dynamic)
	awq()
	require.Zero(t, observed)
}

func TestStatisticsFileOfAnotherModel(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stats")
	samples := toySamples(1, 8, 40)
	o := quantize.SmoothOptions{Options: quantize.Options{Precision: quantize.DynamicInt8}}
	smooth(t, newToy(), o, samples, Options{Statistics: path})
	for why, change := range map[string]func(*statisticsFile){
		"is of another model":                     func(s *statisticsFile) { s.Observations.Model = "00" },
		`no activation "layers.0.input_norm/out"`: func(s *statisticsFile) { s.Observations.Inputs[0].Name = "x" },
		"channels were seen, where there are": func(s *statisticsFile) {
			s.Observations.Inputs[0].Channels /= 2
			s.Observations.Inputs[0].Batches = 2*s.Observations.Inputs[0].Batches + 1
			s.size = 0
			s.size, _ = s.Observations.size()
		},
		"want finite numbers": func(s *statisticsFile) { s.numbers = nans{} },
	} {
		s, err := readStatistics(path)
		require.NoError(t, err)
		defer s.close()
		change(s)
		other := filepath.Join(t.TempDir(), "other")
		require.NoError(t, s.write(other))
		m := newToy()
		smoother, err := quantize.NewSmoother(m, o)
		require.NoError(t, err)
		err = Smooth(t.Context(), m, smoother, samples, Options{Statistics: other})
		require.ErrorContains(t, err, why)
		require.ErrorContains(t, err, "other: ", why)
		require.ErrorContains(t, err, "delete it to have it made anew", why)
	}
	// No tokens were kept, and a range wants some: that is no reason to write over what is another model's.
	s, err := readStatistics(path)
	require.NoError(t, err)
	defer s.close()
	s.Observations.Model = "00"
	require.NoError(t, s.write(path))
	m := newToy()
	smoother, err := quantize.NewSmoother(m, quantize.SmoothOptions{Options: quantize.Options{Precision: quantize.StaticInt8}, Range: quantize.RangeMSE})
	require.NoError(t, err)
	err = Smooth(t.Context(), m, smoother, samples, Options{Statistics: path})
	require.ErrorContains(t, err, "is of another model")
}

// nans is numbers that are none.
type nans struct{}

func (nans) ReadAt(p []byte, _ int64) (int, error) {
	for i := range p {
		p[i] = 0xff
	}
	return len(p), nil
}
