package calib

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/internal/atomicfile"
	"github.com/qwenrt/qwenrt/quantize"
)

// statisticsFormat is the version of the file.
const statisticsFormat = 1

// statisticsFile is what a file of statistics holds, as JSON.
type statisticsFile struct {
	Format int `json:"qwenrt_statistics"`
	// Weights are fingerprints of what the activations are multiplied with: they tell models of one shape apart.
	Weights     map[string]string   `json:"weights"`
	Activations quantize.Statistics `json:"activations"`
}

// write writes the file, which appears when it is complete.
func (s *statisticsFile) write(path string) error {
	b, err := json.Marshal(s) // keys are sorted
	if err != nil {
		return fmt.Errorf("calib: %s: %w", path, err)
	}
	err = atomicfile.Write(path, 0o666, func(w io.Writer) error {
		_, err := w.Write(append(b, '\n'))
		return err
	})
	if err != nil {
		return fmt.Errorf("calib: %w", err)
	}
	return nil
}

// readStatistics reads what write has written.
func readStatistics(path string) (*statisticsFile, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("calib: %w", err)
	}
	var f statisticsFile
	if err := json.Unmarshal(b, &f); err != nil || f.Format != statisticsFormat {
		return nil, fmt.Errorf("calib: %s does not hold statistics of format %d; delete it to have it made anew", path, statisticsFormat)
	}
	return &f, nil
}

// statistics are read from a file where that is asked for and it is there, and collected otherwise.
func statistics(ctx context.Context, m *ir.Model, plan *quantize.Plan, samples [][]int64, o Options) (quantize.Statistics, error) {
	if o.Statistics == "" {
		return Collect(ctx, m, plan, samples, o)
	}
	weights, err := fingerprints(plan)
	if err != nil {
		return nil, err
	}
	s, err := readStatistics(o.Statistics)
	switch {
	case err == nil:
		if err := s.check(plan, weights); err != nil {
			return nil, fmt.Errorf("calib: %s is of another model: %w; delete it to have it made anew", o.Statistics, err)
		}
		return s.Activations, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	s = &statisticsFile{Format: statisticsFormat, Weights: weights}
	if s.Activations, err = Collect(ctx, m, plan, samples, o); err != nil {
		return nil, err
	}
	return s.Activations, s.write(o.Statistics)
}

// fingerprints are hashes of the first row of each target.
func fingerprints(plan *quantize.Plan) (map[string]string, error) {
	all := map[string]string{}
	for _, t := range plan.Targets() {
		row := make([]float32, t.Columns())
		if err := t.Values().ReadFloat32(row, 0); err != nil {
			return nil, fmt.Errorf("calib: read %s: %w", t.Tensor, err)
		}
		h := sha256.New()
		if err := binary.Write(h, binary.LittleEndian, row); err != nil {
			return nil, fmt.Errorf("calib: %w", err)
		}
		all[t.Tensor] = hex.EncodeToString(h.Sum(nil)[:8])
	}
	return all, nil
}

// check reports what the plan's targets need and s has not.
func (s *statisticsFile) check(plan *quantize.Plan, weights map[string]string) error {
	for _, t := range plan.Targets() {
		name := t.Inputs[len(t.Inputs)-1].Name
		c, k := s.Activations[name], int(t.Columns())
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
		if s.Weights[t.Tensor] != weights[t.Tensor] {
			return fmt.Errorf("%s is another weight", t.Tensor)
		}
	}
	return nil
}
