package calib

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/quantize"
)

// statisticsFormat is the version of the file.
const statisticsFormat = 1

// statisticsFile is what a file of statistics holds, as JSON.
type statisticsFile struct {
	Format      int                 `json:"qwenrt_statistics"`
	Activations quantize.Statistics `json:"activations"`
}

// WriteStatistics writes statistics to a file, which appears when it is complete.
func WriteStatistics(path string, s quantize.Statistics) error {
	b, err := json.Marshal(statisticsFile{statisticsFormat, s}) // keys are sorted
	if err != nil {
		return fmt.Errorf("calib: %s: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("calib: %w", err)
	}
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("calib: %w", err), os.Remove(f.Name()))
	}
	return nil
}

// ReadStatistics reads what WriteStatistics has written.
func ReadStatistics(path string) (quantize.Statistics, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("calib: %w", err)
	}
	var f statisticsFile
	if err := json.Unmarshal(b, &f); err != nil || f.Format != statisticsFormat {
		return nil, fmt.Errorf("calib: %s does not hold statistics of format %d; delete it to have it made anew", path, statisticsFormat)
	}
	return f.Activations, nil
}

// statistics are read from a file where that is asked for and it is there, and collected otherwise.
func statistics(ctx context.Context, m *ir.Model, plan *quantize.Plan, samples [][]int64, o Options) (quantize.Statistics, error) {
	if o.Statistics == "" {
		return Collect(ctx, m, plan, samples, o)
	}
	s, err := ReadStatistics(o.Statistics)
	switch {
	case err == nil:
		if err := checkStatistics(s, plan); err != nil {
			return nil, fmt.Errorf("calib: %s is of another model: %w; delete it to have it made anew", o.Statistics, err)
		}
		return s, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if s, err = Collect(ctx, m, plan, samples, o); err != nil {
		return nil, err
	}
	return s, WriteStatistics(o.Statistics, s)
}

// checkStatistics reports what the plan's targets need and s has not.
func checkStatistics(s quantize.Statistics, plan *quantize.Plan) error {
	for _, t := range plan.Targets() {
		name := t.Inputs[len(t.Inputs)-1].Name
		c, k := s[name], int(t.Columns())
		if c == nil {
			return fmt.Errorf("it has no activation %q", name)
		}
		if len(c.Mean) != k || len(c.Square) != k || len(c.Max) != k {
			return fmt.Errorf("%q has %d channels, want %d", name, len(c.Mean), k)
		}
		for i := range k {
			for _, v := range [...]float32{c.Mean[i], c.Square[i], c.Max[i]} {
				if !(v >= 0) {
					return fmt.Errorf("channel %d of %q is %v", i, name, v)
				}
			}
		}
	}
	return nil
}
