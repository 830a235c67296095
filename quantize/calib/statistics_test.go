package calib

import (
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
		c.change()
		other := filepath.Join(dir, "other.json")
		require.NoError(t, s.write(other))
		_, _, err = Plan(t.Context(), newToy(), q, samples, Options{Statistics: other})
		require.ErrorContains(t, err, "other.json is of another model: ", c.why)
		require.ErrorContains(t, err, c.text, c.why)
	}
	for _, content := range []string{"", "{}", `{"qwenrt_statistics": 2}`, "text"} {
		require.NoError(t, os.WriteFile(path, []byte(content), 0o666))
		_, err = readStatistics(path)
		require.ErrorContains(t, err, "does not hold statistics of format 1", content)
	}
	_, err = readStatistics(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
	require.Error(t, s.write(filepath.Join(dir, "none", "x")))
}
