package accelerate

import (
	"cmp"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/qwenrt/qwenrt/graphopt/inspect"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/models/folder"
	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/runner"
)

// Info says what a model is and what became of its configuration.
type Info struct {
	Model   ModelInfo `json:"model"`
	Options []Outcome `json:"options"`
	// Providers are what ONNX Runtime's execution providers run of the graph.
	Providers []ort.Assignment `json:"providers"`
	// Operators of the graph that stand for several of ONNX's basic ones.
	Fused        []inspect.Operator     `json:"fused_operators"`
	Quantization []inspect.Quantization `json:"quantization"`
	// BitsPerWeight is the mean, with scales and zero points.
	BitsPerWeight float64 `json:"bits_per_weight"`
	Memory        Memory  `json:"memory"`
}

// ModelInfo describes a model that is open.
type ModelInfo struct {
	File       string `json:"file"`
	Name       string `json:"name,omitempty"` // of the checkpoint; unknown where another program made the folder
	Parameters int64  `json:"parameters"`
	Layers     int    `json:"layers"`
	KVHeads    int    `json:"kv_heads"`
	HeadDim    int    `json:"head_dim"`
	Vocabulary int    `json:"vocabulary"`
	Context    int    `json:"context_length"`
	KVMemory   string `json:"kv_memory"`     // that the KV cache lies in: "Cpu", or a device's
	Logits     string `json:"logits_memory"` // that the session writes logits to
	Nodes      int    `json:"nodes"`
	ORTVersion string `json:"onnxruntime"`
	Library    string `json:"library"`
}

// Outcome is what became of an option.
type Outcome struct {
	Option string `json:"option"` // as configuration files have it
	// Requested is empty where the configuration leaves the choice to this package.
	Requested string `json:"requested,omitempty"`
	Applied   string `json:"applied"`
	// Fact is what shows it, in the graph, the session or the runner.
	Fact string `json:"fact"`
	// Reason says why what was requested, or the default, is not applied; empty where it is.
	Reason string `json:"reason,omitempty"`
}

// Unapplied are the options that were asked for and are not applied; and under Auto the device, where others were passed over.
func (i Info) Unapplied() []Outcome {
	return slices.DeleteFunc(slices.Clone(i.Options), func(o Outcome) bool {
		return o.Reason == "" || o.Requested == "" && o.Option != "device"
	})
}

// strict is the error of what was asked for and is not applied.
func (i Info) strict() error {
	var all []string
	for _, o := range i.Unapplied() {
		if o.Option != "device" || Device(o.Requested).canonical() != Auto {
			all = append(all, fmt.Sprintf("%s %s: %s", o.Option, o.Requested, o.Reason))
		}
	}
	if len(all) > 0 {
		return fmt.Errorf("accelerate: %w: %s", ErrNotApplied, strings.Join(all, "; "))
	}
	return nil
}

// Info says what became of the configuration in a runner that was opened with p.File and p.Options, or with other threads and
// chunks. Where the configuration is strict, what is not applied is an error.
//
// Errors: ErrNotApplied.
func (p *Prepared) Info(r *runner.Runner) (Info, error) {
	if err := p.look(); err != nil {
		return Info{}, err
	}
	info := p.describe(r.Info(), measureMemory())
	if p.config.Strict {
		return info, info.strict()
	}
	return info, nil
}

// Check is the part of Info that the graph and its folder show, before the model is opened.
func (p *Prepared) Check() error {
	if !p.config.Strict {
		return nil
	}
	if err := p.look(); err != nil {
		return err
	}
	var open runner.Info
	if kv := p.summary.KVCache; kv != nil {
		open = runner.Info{KVType: kv.DType, SharedKV: kv.Shared, Layers: kv.Layers}
		if kv.BytesPerToken > 0 && kv.BytesPerToken < 2*int64(kv.Layers)*kv.Heads*kv.HeadDim {
			open.KVType = "int4" // whose pairs the graph calls bytes
		}
	}
	d := p.description(open)
	return Info{Options: append(d.outcomes(graphOptions), d.making()...)}.strict()
}

// look has the graph inspected where no runner has.
func (p *Prepared) look() error {
	if p.summary != nil {
		return nil
	}
	m, err := ir.Load(p.File)
	if err != nil {
		return fmt.Errorf("accelerate: %w", err)
	}
	defer m.Close()
	p.inspect(m)
	return nil
}

// inspect notes what the graph tells.
func (p *Prepared) inspect(m *ir.Model) {
	p.summary = inspect.Summarize(m)
	p.estimate = p.reckon(m, p.summary)
}

// describe collects the facts about a model that has been opened.
func (p *Prepared) describe(open runner.Info, measured Measured) Info {
	summary := p.summary
	d := p.description(open)
	info := Info{
		Model: ModelInfo{
			File: p.File, Parameters: summary.Parameters, Layers: open.Layers, KVHeads: open.KVHeads, HeadDim: open.HeadDim,
			Vocabulary: open.Vocabulary, Context: open.ContextLength, KVMemory: open.KVMemory, Logits: open.LogitsMemory, Nodes: summary.Nodes, ORTVersion: ort.Version(), Library: ort.LibraryPath(),
		},
		Providers: open.Assignments, Fused: summary.Fusions, Quantization: summary.Quantization, BitsPerWeight: summary.BitsPerWeight,
		Memory: Memory{Estimate: p.estimate, Measured: measured},
	}
	if d.manifest != nil {
		info.Model.Name = d.manifest.Source.Name
	}
	info.Options = slices.Concat(d.outcomes(sessionOptions), d.outcomes(graphOptions), d.outcomes(limitOptions), d.running(), d.making())
	return info
}

// The options of the report, in its order. What became of graphOptions the graph and its folder show; of the others, the model
// that is open.
var (
	sessionOptions = []func(*description) Outcome{(*description).device, (*description).threads}
	graphOptions   = []func(*description) Outcome{
		(*description).precision, (*description).algorithm, (*description).blockSize, (*description).dtype,
		(*description).attention, (*description).fusedKernels, (*description).kv, (*description).compile, (*description).prepack,
	}
	limitOptions = []func(*description) Outcome{
		(*description).prefillChunk, (*description).maxContext, (*description).slots, (*description).queue, (*description).prefixCache,
	}
)

// description is what outcomes are made of.
type description struct {
	p        *Prepared
	c        Config
	summary  *inspect.Summary
	manifest *folder.Manifest // of the model's folder; nil where there is none
	runner   runner.Info
}

// description is that of a model that a runner has open, or would have.
func (p *Prepared) description(open runner.Info) *description {
	d := &description{p: p, c: p.config, summary: p.summary, runner: open}
	if m, err := folder.ReadManifest(filepath.Dir(p.File)); err == nil {
		d.manifest = m
	}
	return d
}

// outcomes are those of some options, each with the reason that was found before the model was opened where there is no other.
func (d *description) outcomes(of []func(*description) Outcome) (all []Outcome) {
	for _, describe := range of {
		o := describe(d)
		o.Reason = cmp.Or(o.Reason, d.p.notes[o.Option])
		all = append(all, o)
	}
	return all
}

// number is n as a request; 0 requests nothing.
func number(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// made is the reason for what a folder that is made already does not have.
const made = "the model folder is made already, in another way; give the checkpoint, or build another folder"

func (d *description) count(operators ...string) (n int) {
	for _, o := range d.summary.Operators {
		if slices.Contains(operators, o.Name) {
			n += o.Count
		}
	}
	return n
}

func (d *description) device() Outcome {
	o := Outcome{Option: "device", Requested: string(d.c.Device), Applied: string(d.p.Device), Fact: assigned(d.runner.Assignments)}
	if len(d.p.Options.Providers) == 0 {
		return o
	}
	provider := d.p.Options.Providers[0]
	for _, k := range slices.Sorted(maps.Keys(provider.Options)) {
		o.Fact += fmt.Sprintf("; %s=%s", k, provider.Options[k])
	}
	o.Fact += fmt.Sprintf("; KV cache in memory %s, logits in %s", d.runner.KVMemory, d.runner.LogitsMemory)
	o.Reason = d.runner.MemoryReason
	elsewhere := func(a ort.Assignment) bool { return a.Provider != cpuProvider }
	if provider.Name != cpuProvider && !slices.ContainsFunc(d.runner.Assignments, elsewhere) {
		o.Reason = fmt.Sprintf("%s takes no node of this graph: all run on the CPU", provider.Name)
	}
	return o
}

// cpuProvider is ONNX Runtime's name of what runs the nodes that no other provider takes.
const cpuProvider = "CPUExecutionProvider"

// assigned says how many nodes each provider runs, and which the CPU was left with beside another.
func assigned(all []ort.Assignment) string {
	total := 0
	for _, a := range all {
		total += a.Nodes
	}
	var parts []string
	for _, a := range all {
		part := fmt.Sprintf("%d of %d nodes on %s", a.Nodes, total, a.Provider)
		if a.Provider == cpuProvider && len(all) > 1 {
			_, operators, _ := strings.Cut(a.String(), ": ")
			part += " (" + operators + ")"
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ", ")
}

func (d *description) threads() Outcome {
	o := Outcome{Option: "threads", Requested: number(d.c.Threads), Applied: strconv.Itoa(d.runner.Threads), Fact: "session with intra-op threads"}
	if cpus := ort.DefaultThreads(); d.runner.Threads > cpus {
		o.Reason = fmt.Sprintf("more than the CPUs that this process may use: %d", cpus)
	}
	return o
}

// stored are the bits of most quantised weights, and their form; 0 where there are none.
func (d *description) stored() (q inspect.Quantization) {
	for _, f := range d.summary.Quantization {
		if f.Weights > q.Weights {
			q = f
		}
	}
	return q
}

func (d *description) precision() Outcome {
	o := Outcome{Option: "precision", Requested: string(d.c.Precision), Applied: string(None)}
	if q := d.stored(); q.Weights > 0 {
		o.Applied = fmt.Sprintf("int%d", q.Bits)
		switch integer := q.Operator; {
		case strings.Contains(integer, "DynamicQuantizeMatMul"), strings.Contains(integer, "MatMulInteger"):
			o.Applied = "dynamic-int8"
		case integer == "DequantizeLinear":
			o.Applied = "static-int8"
		}
		o.Fact = fmt.Sprintf("%d weights in %s, %.2f bits a weight in all", q.Tensors, q.Operator, d.summary.BitsPerWeight)
	} else if t := d.floatType(); t != FP32 {
		o.Applied = string(t)
	}
	if o.Fact == "" {
		o.Fact = fmt.Sprintf("%.2f bits a weight", d.summary.BitsPerWeight)
	}
	asked := normalised(d.c.Precision)
	same := string(asked) == o.Applied || asked == None && d.stored().Weights == 0
	if d.c.Precision != "" && !same {
		o.Reason = made
	}
	return o
}

func (d *description) algorithm() Outcome {
	o := Outcome{Option: "algorithm", Requested: string(d.c.Method), Applied: "none", Fact: "no manifest tells"}
	if d.manifest != nil {
		counts := map[string]int{}
		for _, t := range d.manifest.Quantization {
			counts[t.Method]++
		}
		var parts []string
		for _, k := range slices.Sorted(maps.Keys(counts)) {
			parts = append(parts, fmt.Sprintf("%s: %d tensors", k, counts[k]))
			if counts[k] > counts[o.Applied] {
				o.Applied = k
			}
		}
		o.Fact = cmp.Or(strings.Join(parts, ", "), "nothing quantised")
	}
	if o.Requested != "" && o.Requested != o.Applied {
		o.Reason = made
	}
	return o
}

func (d *description) blockSize() Outcome {
	q := d.stored()
	o := Outcome{Option: "block_size", Requested: number(d.c.BlockSize), Applied: strconv.FormatInt(q.BlockSize, 10), Fact: cmp.Or(q.Operator, "no operator") + "'s attribute"}
	if o.Requested != "" && o.Requested != o.Applied {
		o.Reason = made
	}
	return o
}

// floatType is the type of activations: that of the cache, or where it is quantised, of constants that are no scales.
func (d *description) floatType() DType {
	switch d.runner.KVType {
	case "float32":
		return FP32
	case "float16":
		return FP16
	case "bfloat16":
		return BF16
	}
	for _, c := range d.summary.Constants {
		switch {
		case c.DType == "float16" && d.told()["half_scales"] == "":
			return FP16
		case c.DType == "bfloat16":
			return BF16
		}
	}
	return FP32
}

func (d *description) dtype() Outcome {
	o := Outcome{Option: "dtype", Requested: string(d.c.DType), Applied: string(d.floatType()), Fact: "type of constants and cache"}
	if o.Requested != "" && o.Requested != o.Applied {
		o.Reason = made
	}
	return o
}

const groupQuery = "com.microsoft.GroupQueryAttention"

func (d *description) attention() Outcome {
	o := Outcome{Option: "attention", Requested: string(d.c.Attention), Applied: string(Flash)}
	fusedNodes := d.count(groupQuery, "com.microsoft.MultiHeadAttention", "com.microsoft.Attention", "Attention")
	o.Fact = fmt.Sprintf("%d fused attention nodes for %d layers", fusedNodes, d.runner.Layers)
	if d.runner.SharedKV {
		o.Fact += ", cache in place"
	}
	switch want := cmp.Or(d.c.Attention, DefaultAttention); {
	case fusedNodes == 0:
		o.Applied = string(Plain)
		if want != Plain {
			o.Reason = cmp.Or(d.unfused(), made)
		}
	case want == MemoryEfficient:
		o.Applied = string(MemoryEfficient)
		o.Fact += fmt.Sprintf(", chunks with scores of at most %d MiB a layer", d.p.Options.ScoresBytes>>20)
	case want == Plain:
		o.Reason = made
	}
	return o
}

// unfused is why a graph that was made for this device has attention in pieces.
func (d *description) unfused() string {
	if d.p.Device == CUDA && d.floatType() == FP32 {
		return "CUDA has no fused attention for fp32; take dtype fp16"
	}
	if d.p.Device == CoreML {
		return "Core ML has no fused attention operator that ONNX Runtime uses"
	}
	return ""
}

// fusedNodes are the operators that the passes of FusedKernels write.
var fusedNodes = []string{
	"SimplifiedLayerNormalization", "RMSNormalization", "com.microsoft.SkipSimplifiedLayerNormalization", "com.microsoft.QuickGelu", "com.microsoft.FusedMatMul",
}

func (d *description) fusedKernels() Outcome {
	o := Outcome{Option: "fused_kernels", Requested: choiceText(d.c.FusedKernels), Applied: "true"}
	n := d.count(fusedNodes...)
	o.Fact = fmt.Sprintf("%d nodes of norms, activations and products fused", n)
	want := d.c.FusedKernels == nil || *d.c.FusedKernels
	if n == 0 {
		o.Applied = "false"
	}
	if want != (n > 0) {
		o.Reason = made
		if d.p.Device == CoreML {
			o.Reason = "Core ML has no such operators"
		}
	}
	return o
}

// kvNames are the types of caches as this package calls them.
var kvNames = map[string]KVType{"float32": KVFP32, "float16": KVFP16, "bfloat16": KVBF16, "int8": KVInt8, "int4": KVInt4}

func (d *description) kv() Outcome {
	o := Outcome{Option: "kv", Requested: string(d.c.KV), Applied: string(kvNames[d.runner.KVType]), Fact: fmt.Sprintf("inputs past_key_values of %s, %d bytes a token", d.runner.KVType, d.runner.KVBytes(1))}
	if o.Requested != "" && o.Requested != o.Applied {
		o.Reason = "a cache in floating point has the type of the activations: set dtype " + o.Requested
		if d.c.KV.Quantized() {
			o.Reason = made
		}
	}
	return o
}

func (d *description) compile() Outcome {
	o := Outcome{Option: "compile", Requested: string(d.c.Compile), Applied: string(cmp.Or(d.c.Compile, DefaultCompile))}
	switch {
	case d.p.Options.OptimizedModel != "":
		o.Fact = "optimised graph loaded from " + filepath.Dir(d.p.Options.OptimizedModel)
	case d.p.Options.Optimization == ort.OptimizeNone:
		o.Fact = "session without graph optimization"
	default:
		o.Fact = "graph optimised at each start"
	}
	if d.p.Options.ReserveContext {
		o.Fact += fmt.Sprintf("; sequences have room for %d tokens from the start", d.runner.ContextLength)
		if !d.runner.SharedKV {
			o.Reason = "without fused attention the cache is copied at each step, and cannot be bound once"
		}
	}
	if d.runner.FixedSteps {
		o.Fact += "; decode steps have one shape and one place in memory"
		if d.p.Device == CUDA {
			o.Fact += ", which the session records as CUDA graphs"
		}
	}
	return o
}

func (d *description) prepack() Outcome {
	o := Outcome{Option: "prepack_weights", Applied: "false", Fact: "weights are packed at each start, into memory"}
	if d.c.PrepackWeights {
		o.Requested = "true"
		if d.p.Options.OptimizedModel != "" {
			o.Applied, o.Fact = "true", "packed weights are mapped from "+filepath.Dir(d.p.Options.OptimizedModel)
		}
	}
	return o
}

func (d *description) prefillChunk() Outcome {
	o := Outcome{
		Option: "prefill_chunk", Requested: number(d.c.PrefillChunk), Applied: strconv.Itoa(d.runner.PrefillChunk), Fact: "tokens of a prompt in one run, at most",
	}
	if d.c.PrefillChunk > d.runner.PrefillChunk {
		o.Reason = "the context is shorter"
	}
	return o
}

func (d *description) maxContext() Outcome {
	o := Outcome{Option: "max_context", Requested: number(d.c.MaxContext), Applied: strconv.Itoa(d.runner.ContextLength), Fact: "positions that sequences admit"}
	if d.c.MaxContext > d.runner.ContextLength {
		o.Reason = "the model has no more positions"
	}
	return o
}

func (d *description) slots() Outcome {
	o := Outcome{Option: "slots", Requested: number(d.c.Slots), Applied: strconv.Itoa(d.runner.Slots), Fact: "generations have runs of their own"}
	if n := d.runner.Slots; n > 0 {
		o.Fact = fmt.Sprintf("runs with up to %d generations, a row each", n)
	}
	return o
}

func (d *description) queue() Outcome {
	return Outcome{Option: "queue", Requested: number(d.c.Queue), Applied: strconv.Itoa(d.runner.Queue), Fact: "generations that may wait for a slot"}
}

func (d *description) prefixCache() Outcome {
	o := Outcome{Option: "prefix_cache", Applied: strconv.FormatInt(d.runner.PrefixCache, 10), Fact: "no prompts are kept"}
	if d.c.PrefixCache > 0 {
		o.Requested = strconv.FormatInt(d.c.PrefixCache, 10)
	}
	if n := d.runner.PrefixCache; n > 0 {
		o.Fact = fmt.Sprintf("keys and values of up to %d tokens", n/d.runner.KVBytes(1))
	}
	return o
}
