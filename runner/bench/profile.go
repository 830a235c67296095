package bench

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/qwenrt/qwenrt/runner"
)

// Profile is where the time of a test goes, as ONNX Runtime's profiler sees it. The profiler takes some
// microseconds for each operator, which small operators show more than large ones.
type Profile struct {
	Test
	Runs int           `json:"runs"`    // of the session: one for each token decoded, or chunk of a prefill
	Time time.Duration `json:"time_ns"` // inside the session, in all runs
	// Kernels are the operators that ran, and Traffic the bytes that they read and wrote, both of one run.
	Kernels int     `json:"kernels"`
	Traffic int64   `json:"traffic"`
	Types   []Share `json:"operators"` // by type, the longest first
	Layers  []Share `json:"layers"`    // in order; "" is outside of all layers
}

// Share is what some of the operators of a profile take, in all runs.
type Share struct {
	Name  string        `json:"name"`
	Calls int           `json:"calls"`
	Time  time.Duration `json:"time_ns"`
	Bytes int64         `json:"bytes"` // read and written
}

// MeasureProfile runs each test of c once, after a warm-up, in a session of its own with ONNX Runtime's profiler. If trace
// is not nil, it is given a trace of the tests for ui.perfetto.dev: runs, layers in them, operators in those. c.Repetitions
// and o.ProfilePrefix are ignored.
//
// Errors: as for Run.
func MeasureProfile(ctx context.Context, path string, o runner.Options, c Config, trace io.Writer) ([]Profile, error) {
	tests, err := c.Tests()
	if err != nil {
		return nil, err
	}
	phases, err := profilePhases(ctx, path, o, tests, c.Seed)
	if err == nil && trace != nil {
		err = writeTrace(trace, phases)
	}
	if err != nil {
		if cause := ctx.Err(); cause != nil {
			err = cause
		}
		return nil, fmt.Errorf("bench: profile: %w", err)
	}
	profiles := make([]Profile, len(phases))
	for i, p := range phases {
		profiles[i] = p.profile()
	}
	return profiles, nil
}

// phase is the profile of one test: its runs of the session.
type phase struct {
	test Test
	runs []profiledRun
}

func profilePhases(ctx context.Context, path string, o runner.Options, tests []Test, seed uint64) (phases []phase, err error) {
	dir, err := os.MkdirTemp("", "qwenrt-profile-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	o.ProfilePrefix = filepath.Join(dir, "run")
	counts, err := runProfiled(ctx, path, o, tests, seed)
	if err != nil {
		return nil, err
	}
	runs, err := readProfile(dir)
	if err != nil {
		return nil, err
	}
	for i, n := range counts {
		if n.skip+n.runs > len(runs) {
			return nil, fmt.Errorf("ONNX Runtime's profile ends within %v", tests[i])
		}
		phases = append(phases, phase{tests[i], runs[n.skip : n.skip+n.runs]})
		runs = runs[n.skip+n.runs:]
	}
	return phases, nil
}

// runCount is how many runs of the session come before a test, and belong to it.
type runCount struct{ skip, runs int }

// runProfiled runs the tests, and closes the model, which writes the profile.
func runProfiled(ctx context.Context, path string, o runner.Options, tests []Test, seed uint64) (counts []runCount, err error) {
	r, err := runner.Open(ctx, path, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	chunk := min(cmp.Or(o.PrefillChunk, runner.DefaultPrefillChunk), r.Info().ContextLength)
	prefill := func(n int) int { return (n + chunk - 1) / chunk }
	b, err := newTrial(ctx, r, seed)
	if err != nil {
		return nil, err
	}
	defer b.close()
	for _, t := range tests {
		n := runCount{skip: prefill(max(0, t.Depth-b.seq.Len())), runs: prefill(t.Prompt) + t.Gen}
		warm := Test{Prompt: t.Prompt, Gen: min(t.Gen, 1), Depth: t.Depth}
		n.skip += prefill(warm.Prompt) + warm.Gen
		counts = append(counts, n)
		for _, t := range []Test{warm, t} {
			if _, err := b.run(ctx, t); err != nil {
				return nil, fmt.Errorf("%v: %w", t, err)
			}
		}
	}
	return counts, nil
}

// profiledRun is one run of a session.
type profiledRun struct {
	start, length time.Duration
	kernels       []kernel
}

type kernel struct {
	start, length time.Duration
	name, op      string
	layer         string // "" outside of layers
	shapes        string // of its inputs
	bytes         int64
}

// readProfile reads the one profile in dir.
func readProfile(dir string) ([]profiledRun, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	if len(files) != 1 {
		return nil, fmt.Errorf("ONNX Runtime wrote %d profiles, want 1", len(files))
	}
	f, err := os.Open(files[0])
	if err != nil {
		return nil, err
	}
	defer f.Close()
	runs, err := parseProfile(json.NewDecoder(f))
	if err != nil {
		return nil, fmt.Errorf("ONNX Runtime's profile: %w", err)
	}
	return runs, nil
}

// traceEvent is a complete event of the Trace Event format, with the fields that ONNX Runtime writes. Times are in
// microseconds, numbers among the arguments are text.
type traceEvent struct {
	Cat  string `json:"cat"`
	Name string `json:"name"`
	TS   int64  `json:"ts"`
	Dur  int64  `json:"dur"`
	Args struct {
		Op         string          `json:"op_name"`
		Activation string          `json:"activation_size"`
		Parameter  string          `json:"parameter_size"`
		Output     string          `json:"output_size"`
		Shapes     json.RawMessage `json:"input_type_shape"`
	} `json:"args"`
}

// parseProfile reads an array of trace events one by one: there are hundreds a run. The event of a run comes behind those
// of its operators.
func parseProfile(d *json.Decoder) (runs []profiledRun, err error) {
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	var kernels []kernel
	for d.More() {
		var e traceEvent
		if err := d.Decode(&e); err != nil {
			return nil, err
		}
		start, length := time.Duration(e.TS)*time.Microsecond, time.Duration(e.Dur)*time.Microsecond
		name, isKernel := strings.CutSuffix(e.Name, "_kernel_time")
		switch {
		case e.Name == "model_run":
			runs = append(runs, profiledRun{start, length, kernels})
			kernels = nil
		case e.Cat == "Node" && isKernel:
			k := kernel{start: start, length: length, name: name, op: e.Args.Op, layer: layerOf(name), shapes: string(e.Args.Shapes)}
			for _, size := range []string{e.Args.Activation, e.Args.Parameter, e.Args.Output} {
				n, _ := strconv.ParseInt(size, 10, 64) // absent where the provider does not tell
				k.bytes += n
			}
			kernels = append(kernels, k)
		}
	}
	return runs, nil
}

// layerName finds the layer in names such as /model/layers.12/mlp/Mul.
var layerName = regexp.MustCompile(`(?:^|[/._])layers?[._/](\d+)`)

func layerOf(node string) string {
	if m := layerName.FindStringSubmatch(node); m != nil {
		return m[1]
	}
	return ""
}

func (p phase) profile() Profile {
	r := Profile{Test: p.test, Runs: len(p.runs)}
	types, layers := map[string]*Share{}, map[string]*Share{}
	for _, run := range p.runs {
		r.Time += run.length
		r.Kernels, r.Traffic = len(run.kernels), 0
		for _, k := range run.kernels {
			r.Traffic += k.bytes
			add(types, k.op, k)
			add(layers, k.layer, k)
		}
	}
	r.Types, r.Layers = list(types), list(layers)
	slices.SortStableFunc(r.Types, func(a, b Share) int { return cmp.Compare(b.Time, a.Time) })
	slices.SortStableFunc(r.Layers, func(a, b Share) int {
		return cmp.Or(cmp.Compare(len(a.Name), len(b.Name)), cmp.Compare(a.Name, b.Name)) // numbers, and "" first
	})
	return r
}

func add(shares map[string]*Share, name string, k kernel) {
	s := shares[name]
	if s == nil {
		s = &Share{Name: name}
		shares[name] = s
	}
	s.Calls++
	s.Time += k.length
	s.Bytes += k.bytes
}

// list gives the shares by name.
func list(shares map[string]*Share) []Share {
	all := make([]Share, 0, len(shares))
	for _, s := range shares {
		all = append(all, *s)
	}
	slices.SortFunc(all, func(a, b Share) int { return cmp.Compare(a.Name, b.Name) })
	return all
}
