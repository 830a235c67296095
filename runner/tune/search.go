package tune

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/qwenrt/qwenrt/internal/atomicfile"
	"github.com/qwenrt/qwenrt/runner/accelerate"
	"github.com/qwenrt/qwenrt/runner/bench"
	"github.com/qwenrt/qwenrt/runner/bench/stats"
	"github.com/qwenrt/qwenrt/runner/machine"
)

// Search finds the configuration that does best for a goal on this machine, by trying it. It begins with one that keeps
// to the bound on quality, and goes through the dimensions of a configuration in turn: each value of a dimension runs
// against the best so far, interleaved, until it is known to be better or not to be, and the better one stays.
type Search struct {
	From accelerate.Source
	// Base has the settings that stay as they are. Default: those of this machine.
	Base accelerate.Config
	Goal Goal // Latency, Throughput or LowMemory; default: Latency
	// Context of a sequence in tokens. Default: 512.
	Context int
	// MaxKLD is the most that the mean KL divergence from the unquantised model may be. Default: DefaultMaxKLD.
	MaxKLD float64
	// Text for the quality.
	Text string
	// Budget is the time that two values run against each other, at most. Default: DefaultBudget.
	Budget time.Duration
	// Dimensions, if any are named, are the only ones that are searched; see Dimensions.
	Dimensions []string
	// State is a file that keeps what was found, so that a search that was interrupted goes on where it was. Default: none.
	State  string
	Events Events
	// Tried, if set, has each trial as it is done; those that the state knew too.
	Tried func(Trial)
}

// What holds where a Search does not say.
const (
	DefaultMaxKLD  = 0.02
	DefaultBudget  = 10 * time.Second
	defaultContext = 512
)

// Trial is one value of a dimension.
type Trial struct {
	Dimension string `json:"dimension"`
	Value     string `json:"value"`
	// Kept says whether it is a part of the best from then on; Reason why not, in a few words.
	Kept   bool   `json:"kept"`
	Reason string `json:"reason,omitempty"`
	// Ratio is how much better for the goal it is than the best before it: above 1 is better. 0 where it was not run.
	Ratio  float64 `json:"ratio,omitempty"`
	Lo     float64 `json:"lo,omitempty"` // of the interval
	Hi     float64 `json:"hi,omitempty"`
	Decode float64 `json:"decode,omitempty"` // tokens/s
	Memory int64   `json:"memory,omitempty"` // bytes of weights, and of the KV cache at the context
	KLD    float64 `json:"kld"`
	// Config is the whole configuration.
	Config accelerate.Config `json:"config"`
}

// Found is what a search gives.
type Found struct {
	Best     accelerate.Config `json:"best"`
	Trials   []Trial           `json:"trials"`
	Frontier []Trial           `json:"frontier"` // those that no other beats in speed, memory and quality together
}

// Dimension is a part of a configuration that is searched.
type Dimension struct {
	Name, Doc string
	// values are changes to a configuration, in the order in which they are tried.
	values func(c accelerate.Config, m Model, threads int) []value
	prompt bool // it is about prompts, whatever the goal
}

type value struct {
	name  string
	apply func(*accelerate.Config)
}

func (s *Search) complete() error {
	s.Goal = cmp.Or(s.Goal, Latency)
	s.Context = cmp.Or(s.Context, defaultContext)
	s.MaxKLD = cmp.Or(s.MaxKLD, DefaultMaxKLD)
	s.Budget = cmp.Or(s.Budget, DefaultBudget)
	var faults []string
	if !slices.Contains([]Goal{Latency, Throughput, LowMemory}, s.Goal) {
		faults = append(faults, fmt.Sprintf("goal %q: want latency, throughput or memory, within a bound on quality", s.Goal))
	}
	if s.Context < 1 || !(s.MaxKLD > 0) || s.Budget < 0 {
		faults = append(faults, fmt.Sprintf("context %d, bound %v, budget %v: want positive numbers", s.Context, s.MaxKLD, s.Budget))
	}
	for _, name := range s.Dimensions {
		if !slices.ContainsFunc(Dimensions(), func(d Dimension) bool { return d.Name == name }) {
			faults = append(faults, fmt.Sprintf("dimension %q is unknown", name))
		}
	}
	if len(faults) > 0 {
		return fmt.Errorf("tune: %s", strings.Join(faults, "; "))
	}
	return nil
}

// Run searches. After an error, such as an interrupt, the state has what was found by then.
func (s Search) Run(ctx context.Context, m Model) (*Found, error) {
	if err := s.complete(); err != nil {
		return nil, err
	}
	h := &hunt{Search: s, model: m, known: map[string]Trial{}}
	if err := h.load(); err != nil {
		return nil, err
	}
	defer h.close()
	if err := h.begin(ctx); err != nil {
		return nil, err
	}
	for _, d := range Dimensions() {
		if len(s.Dimensions) > 0 && !slices.Contains(s.Dimensions, d.Name) {
			continue
		}
		threads := cmp.Or(s.Base.Threads, machine.Look(ctx).Threads)
		for _, v := range d.values(h.best, m, threads) {
			if err := h.try(ctx, d, v); err != nil {
				return nil, err
			}
		}
	}
	return &Found{Best: h.best, Trials: h.trials, Frontier: frontier(h.trials)}, nil
}

// hunt is a search under way.
type hunt struct {
	Search
	model   Model
	quality *quality
	dir     string // of the quality's reference

	best   accelerate.Config
	runs   *opened // the best, open; nil where it was not needed yet
	memory int64   // that it takes
	klds   map[string]float64
	known  map[string]Trial // of the state
	trials []Trial
}

// opened is a configuration that can be run.
type opened struct {
	subject bench.Subject
	runs    bench.Contender
	memory  int64
}

func (o *opened) close() error {
	if o == nil {
		return nil
	}
	return o.runs.Close()
}

func (h *hunt) close() {
	_ = h.runs.close() // what was found is found
	if h.dir != "" {
		_ = os.RemoveAll(h.dir)
	}
}

func (h *hunt) open(ctx context.Context, c accelerate.Config) (*opened, error) {
	p, err := accelerate.Prepare(ctx, h.From, c, h.Events.Build)
	if err != nil {
		return nil, err
	}
	o := &opened{}
	if o.subject, err = bench.Open(ctx, p.File, p.Options); err != nil {
		return nil, err
	}
	if o.runs, err = o.subject.Contend(); err != nil {
		return nil, errors.Join(err, o.subject.Close())
	}
	// Counted, not measured: what one model leaves in the process is used by the next.
	o.memory = o.subject.Model.Size + o.subject.Runner.Info().KVBytes(h.prompt(o))
	return o, nil
}

// prompt is the length of a prompt, behind which some tokens fit.
func (h *hunt) prompt(o *opened) int {
	return max(1, min(h.Context, o.subject.Runner.Info().ContextLength-2*answer))
}

const answer = 32

// begin takes the first of some configurations, from the smallest loss on, that keeps to the bound.
func (h *hunt) begin(ctx context.Context) (err error) {
	if h.dir, err = os.MkdirTemp("", "qwenrt-tune-"); err != nil {
		return fmt.Errorf("tune: %w", err)
	}
	h.quality = &quality{text: h.Text, file: filepath.Join(h.dir, "logits")}
	h.klds = map[string]float64{}
	for _, p := range []accelerate.Precision{accelerate.Int8, accelerate.None} {
		c := h.Base
		c.Precision = cmp.Or(h.Base.Precision, p)
		h.best = c
		t := Trial{Dimension: "start", Value: string(c.Precision), Config: c}
		name := h.name(t)
		if done, ok := h.known[name]; ok {
			t = done
		} else {
			if err := h.start(ctx, &t); err != nil {
				return fmt.Errorf("tune: %s: %w", t.Value, err)
			}
			if err := h.keep(name, t); err != nil {
				return err
			}
		}
		h.trials = append(h.trials, t)
		h.tell(t)
		if t.Kept {
			h.memory = t.Memory
			return nil
		}
		if h.Base.Precision != "" {
			break
		}
	}
	return fmt.Errorf("tune: nothing to begin with keeps to a KL divergence of %v: raise the bound", h.MaxKLD)
}

func (h *hunt) start(ctx context.Context, t *Trial) (err error) {
	h.Events.step("start: %s", t.Value)
	if h.runs, err = h.open(ctx, t.Config); err != nil {
		return err
	}
	t.Memory = h.runs.memory
	if t.KLD, err = h.kld(ctx, t.Config, h.runs); err != nil {
		return err
	}
	if t.Kept = t.KLD <= h.MaxKLD; !t.Kept {
		t.Reason = "loses too much"
		err = h.runs.close()
		h.runs = nil
		return err
	}
	t.Decode, err = h.decode(ctx, h.runs)
	return err
}

func (h *hunt) decode(ctx context.Context, o *opened) (float64, error) {
	d, err := o.runs.Run(ctx, bench.Test{Gen: answer, Depth: h.prompt(o)})
	return answer / d.Seconds(), err
}

// try runs a value against the best. What cannot be made or run is passed over, with the reason.
func (h *hunt) try(ctx context.Context, d Dimension, v value) error {
	c := h.best
	v.apply(&c)
	if key(c) == key(h.best) {
		return nil
	}
	t := Trial{Dimension: d.Name, Value: v.name, Config: c}
	name := h.name(t)
	if done, ok := h.known[name]; ok {
		t = done
		if t.Kept { // the best is another now, and opened when it is needed
			err := h.runs.close()
			h.best, h.runs, h.memory = c, nil, t.Memory
			if err != nil {
				return fmt.Errorf("tune: %w", err)
			}
		}
	} else {
		o, err := h.run(ctx, d, &t)
		if ctx.Err() != nil {
			return errors.Join(fmt.Errorf("tune: %w", ctx.Err()), o.close())
		}
		if err != nil {
			t.Reason = firstLine(err)
		}
		if t.Kept {
			h.runs, o = o, h.runs
			h.best, h.memory = c, t.Memory
		}
		if err := o.close(); err != nil {
			return fmt.Errorf("tune: %w", err)
		}
		if err := h.keep(name, t); err != nil {
			return err
		}
	}
	h.trials = append(h.trials, t)
	h.tell(t)
	return nil
}

func (h *hunt) tell(t Trial) {
	if h.Tried != nil {
		h.Tried(t)
	}
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// run opens the configuration of t, and compares it with the best. The opened one is for the caller to close.
func (h *hunt) run(ctx context.Context, d Dimension, t *Trial) (o *opened, err error) {
	h.Events.step("%s %s", d.Name, t.Value)
	if h.runs == nil {
		if h.runs, err = h.open(ctx, h.best); err != nil {
			return nil, err
		}
	}
	if o, err = h.open(ctx, t.Config); err != nil {
		return nil, err
	}
	t.Memory = o.memory
	if t.KLD, err = h.kld(ctx, t.Config, o); err != nil {
		return o, err
	}
	if t.KLD > h.MaxKLD {
		t.Reason = "loses too much"
		return o, nil
	}
	r, speed, err := h.compare(ctx, d, o)
	if err != nil {
		return o, err
	}
	t.Decode, t.Ratio, t.Lo = speed, r.Center, r.Lo
	if !math.IsInf(r.Hi, 0) { // too few runs for a bound
		t.Hi = r.Hi
	}
	switch {
	case h.Goal == LowMemory && !d.prompt:
		t.Ratio = float64(h.memory) / float64(max(1, t.Memory))
		t.Lo, t.Hi = t.Ratio, t.Ratio
		t.Kept = t.Ratio > 1+decided && r.Hi > slowest
	default:
		t.Kept = t.Lo > 1 && t.Ratio > 1+decided
	}
	if !t.Kept {
		t.Reason = "not better"
	}
	return o, nil
}

const (
	decided = 0.005 // differences below half a percent are left alone
	slowest = 0.5   // of the speed is given for memory, at most
)

// compare runs both in turn, for no longer than it takes to tell them apart. It gives the speed of o's decoding too, in
// tokens/s, where that was a part of it.
func (h *hunt) compare(ctx context.Context, d Dimension, o *opened) (r stats.Ratio, speed float64, err error) {
	v := bench.Versus{Budget: h.Budget, Confidence: 0.95, Round: h.Budget / 100, Enough: func(_ bench.Test, r stats.Ratio) bool {
		return r.N >= 8 && (r.Lo > 1+decided || r.Hi < 1 || r.Spread() < decided)
	}}
	n := h.prompt(o)
	decode, prompt := bench.Test{Gen: answer, Depth: n}, bench.Test{Prompt: n}
	if d.prompt {
		prompt.Prompt = max(n, min(2048, o.subject.Runner.Info().ContextLength-1)) // more than one chunk
		c, err := v.Compare(ctx, h.runs.runs, o.runs, prompt)
		return c.Ratio, 0, err
	}
	c, err := v.Compare(ctx, h.runs.runs, o.runs, decode)
	if err != nil {
		return r, 0, err
	}
	_, speed = c.Speeds()
	if h.Goal != Throughput || c.Ratio.Hi < slowest {
		return c.Ratio, speed, nil
	}
	p, err := v.Compare(ctx, h.runs.runs, o.runs, prompt)
	if err != nil {
		return r, 0, err
	}
	return together(c, p, n), speed, nil
}

// together is the ratio of the times of a prompt of n tokens and an answer a quarter as long.
func together(decode, prompt bench.Comparison, n int) stats.Ratio {
	a, b := decode.Speeds()
	pa, pb := prompt.Speeds()
	r, spread := decode.Ratio, max(decode.Ratio.Spread(), prompt.Ratio.Spread())
	r.Center = Speed{Prefill: pb, Decode: b}.throughput(n) / Speed{Prefill: pa, Decode: a}.throughput(n)
	r.Lo, r.Hi = r.Center*(1-spread), r.Center*(1+spread)
	return r
}

// kld is measured once for each graph.
func (h *hunt) kld(ctx context.Context, c accelerate.Config, o *opened) (float64, error) {
	graph := o.subject.Model.Hash
	if v, ok := h.klds[graph]; ok {
		return v, nil
	}
	if !h.quality.saved {
		plain := h.Base
		plain.Precision = accelerate.None
		reference, err := h.open(ctx, plain)
		if err != nil {
			return 0, fmt.Errorf("the unquantised model, which others are compared with: %w", err)
		}
		_, _, err = h.quality.measure(ctx, reference.subject.Runner)
		if err = errors.Join(err, reference.close()); err != nil {
			return 0, err
		}
	}
	v, _, err := h.quality.measure(ctx, o.subject.Runner)
	if err == nil {
		h.klds[graph] = v
	}
	return v, err
}

// key names a configuration.
func key(c accelerate.Config) string {
	text, err := json.Marshal(c)
	if err != nil {
		return fmt.Sprint(err) // its fields are numbers, words and lists of them
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// stateFile is what a State holds.
type stateFile struct {
	For    string           `json:"for"` // machine, model, goal and bounds
	Trials map[string]Trial `json:"trials"`
}

// about says what the trials of a state are worth something for.
func (h *hunt) about() (string, error) {
	model, err := h.From.Hash()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s; model %s; %s at %d tokens, KLD %v", accelerate.Machine(), model, h.Goal, h.Context, h.MaxKLD), nil
}

func (h *hunt) load() error {
	if h.State == "" {
		return nil
	}
	text, err := os.ReadFile(h.State)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("tune: %w", err)
	}
	var f stateFile
	if err := json.Unmarshal(text, &f); err != nil {
		return fmt.Errorf("tune: %s is not the state of a search: %w; delete it to begin anew", h.State, err)
	}
	about, err := h.about()
	if err != nil {
		return err
	}
	if f.For == about && f.Trials != nil {
		h.known = f.Trials
	}
	return nil
}

// name tells a trial from all others: it counts against the best that it was run against.
func (h *hunt) name(t Trial) string {
	return t.Dimension + " " + t.Value + " " + key(h.best) + " " + key(t.Config)
}

// keep adds a trial to the state.
func (h *hunt) keep(name string, t Trial) error {
	h.known[name] = t
	if h.State == "" {
		return nil
	}
	about, err := h.about()
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(stateFile{about, h.known}, "", " ")
	if err != nil {
		return fmt.Errorf("tune: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(h.State), 0o777); err != nil {
		return fmt.Errorf("tune: %w", err)
	}
	if err := atomicfile.WriteBytes(h.State, 0o666, text); err != nil {
		return fmt.Errorf("tune: %w", err)
	}
	return nil
}

// frontier are the trials that no other beats in speed, memory and quality together.
func frontier(all []Trial) (front []Trial) {
	for i, t := range all {
		if t.Decode == 0 {
			continue
		}
		beaten := slices.ContainsFunc(all, func(o Trial) bool {
			return o.Decode > 0 && o.Decode >= t.Decode && o.Memory <= t.Memory && o.KLD <= t.KLD &&
				(o.Decode > t.Decode || o.Memory < t.Memory || o.KLD < t.KLD)
		})
		if !beaten {
			front = append(front, all[i])
		}
	}
	slices.SortStableFunc(front, func(a, b Trial) int { return cmp.Compare(b.Decode, a.Decode) })
	return front
}
