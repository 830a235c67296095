package calib

import (
	"bufio"
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
	"path/filepath"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/internal/atomicfile"
	"github.com/qwenrt/qwenrt/quantize"
)

// statisticsFormat is the version of the file.
const statisticsFormat = 2

// statisticsFile is what a file of statistics holds: a line of JSON, and behind it the numbers of the observations, as
// float32 in the order of bytes of little-endian machines. Either part may be missing.
type statisticsFile struct {
	Format int `json:"qwenrt_statistics"`
	// Weights are fingerprints of what the activations are multiplied with: they tell models of one shape apart.
	Weights map[string]string `json:"weights,omitempty"`
	// Activations are what AWQ wants to know.
	Activations quantize.Statistics `json:"activations,omitempty"`
	// Observations are what SmoothQuant and ranges of activations are found from.
	Observations *observations `json:"observations,omitempty"`

	numbers io.ReaderAt // of the observations
	size    int64       // in bytes
	file    *os.File    // that was read; nil: none
}

func (s *statisticsFile) close() {
	if s.file != nil {
		s.file.Close()
	}
}

// write writes the file, which appears when it is complete.
func (s *statisticsFile) write(path string) error {
	b, err := json.Marshal(s) // keys are sorted
	if err != nil {
		return fmt.Errorf("calib: %s: %w", path, err)
	}
	err = atomicfile.Write(path, 0o666, func(w io.Writer) error {
		if _, err := w.Write(append(b, '\n')); err != nil || s.size == 0 {
			return err
		}
		_, err := io.Copy(w, io.NewSectionReader(s.numbers, 0, s.size))
		return err
	})
	if err != nil {
		return fmt.Errorf("calib: %w", err)
	}
	return nil
}

// readStatistics reads what write has written, the numbers of observations left out: those are read one activation at
// a time. The caller closes it.
func readStatistics(path string) (*statisticsFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("calib: %w", err)
	}
	s := &statisticsFile{file: f}
	if err := s.read(f); err != nil {
		s.close()
		return nil, fmt.Errorf("calib: %s does not hold statistics of format %d; delete it to have it made anew", path, statisticsFormat)
	}
	return s, nil
}

// errStatistics is for what read has to say: that there is no sense in it.
var errStatistics = errors.New("no statistics")

func (s *statisticsFile) read(f *os.File) error {
	line := json.NewDecoder(f)
	if err := line.Decode(s); err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	start := line.InputOffset() + 1 // behind the end of the line
	s.size = max(0, info.Size()-start)
	s.numbers = io.NewSectionReader(f, start, s.size)
	want := int64(0)
	if s.Observations != nil {
		if want, err = s.Observations.size(); err != nil {
			return err
		}
	}
	if s.Format != statisticsFormat || s.size != want {
		return errStatistics
	}
	return nil
}

// openStatistics reads a file, or begins a new one where there is none and can be one: that is to be known before a
// model is run to fill it.
func openStatistics(path string) (*statisticsFile, error) {
	s, err := readStatistics(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	if _, noFolder := os.Stat(filepath.Dir(path)); noFolder != nil {
		return nil, err
	}
	return &statisticsFile{Format: statisticsFormat}, nil
}

// statistics are read from a file where that is asked for and it has them, and collected otherwise.
func statistics(ctx context.Context, m *ir.Model, plan *quantize.Plan, samples [][]int64, o Options) (quantize.Statistics, error) {
	if o.Statistics == "" {
		return Collect(ctx, m, plan, samples, o)
	}
	weights, err := fingerprints(plan)
	if err != nil {
		return nil, err
	}
	s, err := openStatistics(o.Statistics)
	if err != nil {
		return nil, err
	}
	defer s.close()
	if s.Activations != nil {
		if err := s.check(plan, weights); err != nil {
			return nil, fmt.Errorf("calib: %s is of another model: %w; delete it to have it made anew", o.Statistics, err)
		}
		return s.Activations, nil
	}
	s.Weights = weights
	if s.Activations, err = Collect(ctx, m, plan, samples, o); err != nil {
		return nil, err
	}
	return s.Activations, s.write(o.Statistics)
}

// fingerprints are those of the targets.
func fingerprints(plan *quantize.Plan) (map[string]string, error) {
	all := map[string]string{}
	for _, t := range plan.Targets() {
		var err error
		if all[t.Tensor], err = fingerprint(t.Values()); err != nil {
			return nil, fmt.Errorf("%w of %s", err, t.Tensor)
		}
	}
	return all, nil
}

// fingerprint is a hash of the first rows of weights.
func fingerprint(weights ...*ir.Tensor) (string, error) {
	h := sha256.New()
	for _, t := range weights {
		row := make([]float32, t.Shape[1])
		if err := t.ReadFloat32(row, 0); err != nil {
			return "", fmt.Errorf("calib: %w: the first row", err)
		}
		if err := binary.Write(h, binary.LittleEndian, row); err != nil {
			return "", fmt.Errorf("calib: %w", err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}

// modelFingerprint is that of all weights.
func modelFingerprint(plan *quantize.Plan) (string, error) {
	var weights []*ir.Tensor
	for _, u := range plan.Uses() {
		weights = append(weights, u.Values)
	}
	return fingerprint(weights...)
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

// observations lists what a file has of quantize.Observation, in the order of its numbers.
type observations struct {
	Model  string            `json:"model"`  // fingerprint of its weights
	Tokens bool              `json:"tokens"` // whether some were kept, for histograms
	Inputs []observedExtents `json:"inputs"`
}

// observedExtents say how many numbers belong to an activation: the smallest, the largest and the mean square of each
// channel, the smallest and largest of each channel in each batch, and tokens.
type observedExtents struct {
	Name     string `json:"name"`
	Channels int64  `json:"channels"`
	Batches  int64  `json:"batches"`
	Tokens   int64  `json:"tokens"`
}

// size in bytes.
func (e observedExtents) size() int64 { return 4 * e.Channels * (3 + 2*e.Batches + e.Tokens) }

// size in bytes of all numbers.
func (o *observations) size() (int64, error) {
	const most = 1 << 24 // of any extent, so that sizes do not overflow
	sum := int64(0)
	for _, e := range o.Inputs {
		if e.Channels < 1 || e.Batches < 0 || e.Tokens < 0 || max(e.Channels, e.Batches, e.Tokens) > most {
			return 0, errStatistics
		}
		if sum += e.size(); sum < 0 {
			return 0, errStatistics
		}
	}
	return sum, nil
}

// replay shows a smoother what was observed when the file was written.
func (s *statisticsFile) replay(to *quantize.Smoother) error {
	offsets, extents := map[string]int64{}, map[string]observedExtents{}
	at := int64(0)
	for _, e := range s.Observations.Inputs {
		offsets[e.Name], extents[e.Name] = at, e
		at += e.size()
	}
	for _, v := range to.Inputs() {
		e, ok := extents[v.Name]
		if !ok {
			return fmt.Errorf("it has no activation %q", v.Name)
		}
		o, err := readObservation(io.NewSectionReader(s.numbers, offsets[v.Name], e.size()), e)
		if err != nil {
			return err
		}
		if err := to.Add(v.Name, o); err != nil {
			return err
		}
	}
	return nil
}

func readObservation(r io.Reader, e observedExtents) (o *quantize.Observation, err error) {
	r = bufio.NewReader(r)
	next := func(n int64) []float32 {
		list := make([]float32, n)
		if err == nil {
			err = binary.Read(r, binary.LittleEndian, list)
		}
		return list
	}
	o = &quantize.Observation{Extremes: quantize.Extremes{Min: next(e.Channels), Max: next(e.Channels)}, MeanSquare: next(e.Channels)}
	for range e.Batches {
		o.Batches = append(o.Batches, quantize.Extremes{Min: next(e.Channels), Max: next(e.Channels)})
	}
	o.Tokens = next(e.Tokens * e.Channels)
	return o, err
}

// observationKeeper puts observations into a temporary file as they are made.
type observationKeeper struct {
	inputs []observedExtents
	file   *os.File
	size   int64
}

func newKeeper(dir string) (*observationKeeper, error) {
	f, err := tempFile(dir)
	return &observationKeeper{file: f}, err
}

func (k *observationKeeper) close() { k.file.Close() }

func (k *observationKeeper) add(name string, o *quantize.Observation) error {
	channels := int64(len(o.Min))
	e := observedExtents{name, channels, int64(len(o.Batches)), int64(len(o.Tokens)) / channels}
	w := bufio.NewWriter(io.NewOffsetWriter(k.file, k.size))
	lists := [][]float32{o.Min, o.Max, o.MeanSquare}
	for _, b := range o.Batches {
		lists = append(lists, b.Min, b.Max)
	}
	for _, list := range append(lists, o.Tokens) {
		if err := binary.Write(w, binary.LittleEndian, list); err != nil {
			return fmt.Errorf("calib: keep observations of %s: %w", name, err)
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("calib: keep observations of %s: %w", name, err)
	}
	k.inputs = append(k.inputs, e)
	k.size += e.size()
	return nil
}
