package tune

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/runner/accelerate"
	"github.com/qwenrt/qwenrt/runner/machine"
)

// Goal is what a configuration is chosen for.
type Goal string

// The goals.
const (
	Latency    Goal = "latency"    // the time between two tokens of an answer
	Throughput Goal = "throughput" // tokens a second of a prompt as long as the context, and an answer a quarter as long
	LowMemory  Goal = "memory"     // what the process takes
	Quality    Goal = "quality"    // predictions that are the unquantised model's
)

// Goals lists the goals.
func Goals() []Goal { return []Goal{Latency, Throughput, LowMemory, Quality} }

// Candidate is a configuration that may be recommended.
type Candidate struct {
	Name   string            `json:"name"`
	Config accelerate.Config `json:"-"`
	// Flags of `qwenrt build` and `qwenrt run` that ask for it.
	Flags string `json:"flags"`
	// KLD is the mean KL divergence from the unquantised model that it has on the carried model, see docs/quantization.md:
	// it ranks the candidates. Larger models lose less.
	KLD float64 `json:"kld_carried_model"`
	// When says when to use it.
	When string `json:"when"`

	kernel Kernel
	cache  machine.Cache
}

// candidatesFor lists the candidates for a device, the best quality first.
func candidatesFor(d accelerate.Device) []Candidate {
	switch d {
	case accelerate.CUDA:
		return onCUDA
	case accelerate.CoreML:
		return onCoreML
	}
	return candidates
}

// onCUDA and onCoreML have never been measured: memory decides among them.
var (
	onCUDA = []Candidate{
		{
			Name: "fp16", Config: accelerate.Config{Precision: accelerate.None, DType: accelerate.FP16, Device: accelerate.CUDA},
			Flags: "--precision none --dtype fp16 --target cuda", When: "the usual precision of GPUs", kernel: Kernel{Weights: halfPrecision}, cache: machine.CacheFloat16,
		},
		{
			Name: "int4-fp16", Config: accelerate.Config{Precision: accelerate.Int4, BlockSize: 32, DType: accelerate.FP16, Device: accelerate.CUDA},
			Flags: "--precision int4 --dtype fp16 --target cuda", KLD: 0.0125,
			When: "a quarter of the weights to read for each token", kernel: Kernel{machine.Int4, 32}, cache: machine.CacheFloat16,
		},
	}
	onCoreML = []Candidate{{
		Name: "none", Config: accelerate.Config{Precision: accelerate.None, Device: accelerate.CoreML}, Flags: "--precision none --target coreml",
		When: "Core ML's operators take no quantised weights of this form", kernel: Kernel{Weights: machine.Float32}, cache: machine.CacheFloat32,
	}}
)

// halfPrecision is not measured on CPUs: ONNX Runtime has no product of halves there.
const halfPrecision machine.Weights = "fp16"

// candidates are those for CPUs.
var candidates = []Candidate{
	{
		Name: "none", Config: accelerate.Config{Precision: accelerate.None}, Flags: "--precision none",
		When: "exact results; a reference for the others", kernel: Kernel{Weights: machine.Float32}, cache: machine.CacheFloat32,
	},
	{
		Name: "int8", Config: accelerate.Config{Precision: accelerate.Int8}, Flags: "--precision int8", KLD: 0.00014,
		When: "a quarter of the memory, and hardly a different answer", kernel: Kernel{machine.Int8, 32}, cache: machine.CacheFloat32,
	},
	{
		Name: "int8-kv8", Config: accelerate.Config{Precision: accelerate.Int8, KV: accelerate.KVInt8}, Flags: "--precision int8 --kv int8", KLD: 0.0002,
		When: "long contexts: a quarter of the KV cache to hold and to read for each token, at some cost for prompts; calibrated for a minute or more", kernel: Kernel{machine.Int8, 32}, cache: machine.CacheInt8,
	},
	{
		Name: "static-int8", Config: accelerate.Config{Precision: accelerate.StaticInt8}, Flags: "--precision static-int8", KLD: 0.0010,
		When: "as dynamic-int8, with ranges of activations that calibration has fixed: for texts like those it saw", kernel: Kernel{Weights: machine.StaticInt8}, cache: machine.CacheFloat32,
	},
	{
		Name: "dynamic-int8", Config: accelerate.Config{Precision: accelerate.DynamicInt8}, Flags: "--precision dynamic-int8", KLD: 0.0012,
		When: "long prompts on CPUs with VNNI or AMX: products in integers; calibrated for a minute or more", kernel: Kernel{Weights: machine.DynamicInt8}, cache: machine.CacheFloat32,
	},
	{
		Name: "int4-b32", Config: accelerate.Config{Precision: accelerate.Int4, BlockSize: 32}, Flags: "--precision int4 --block-size 32", KLD: 0.0125,
		When: "small and fast, at the usual quality of INT4; --algo gptq costs minutes and loses less", kernel: Kernel{machine.Int4, 32}, cache: machine.CacheFloat32,
	},
	{
		Name: "int4-b128", Config: accelerate.Config{Precision: accelerate.Int4, BlockSize: 128}, Flags: "--precision int4 --block-size 128", KLD: 0.0177,
		When: "small, and the fastest to decode behind short contexts; best with --algo gptq or awq+gptq", kernel: Kernel{machine.Int4, 128}, cache: machine.CacheFloat32,
	},
	{
		Name: "int4-b128-kv8", Config: accelerate.Config{Precision: accelerate.Int4, BlockSize: 128, KV: accelerate.KVInt8},
		Flags: "--precision int4 --block-size 128 --kv int8", KLD: 0.0178,
		When: "the smallest, and the fastest to decode behind long contexts: a quarter of the KV cache to hold and to read; calibrated for a minute or more", kernel: Kernel{machine.Int4, 128}, cache: machine.CacheInt8,
	},
}

// Request is what a recommendation is asked for.
type Request struct {
	Device  accelerate.Device // default: Auto
	Goal    Goal              // default: Latency
	Context int               // tokens of a sequence; default: 2048, or what the model takes
	Memory  int64             // the most that the process may take, in bytes; default: what is free
}

// DefaultContext is the length of a sequence where a Request does not say.
const DefaultContext = 2048

// Expectation is a candidate with what is to be expected of it.
type Expectation struct {
	Candidate
	Memory Memory `json:"memory"`
	Speed  Speed  `json:"speed"`
	Fits   bool   `json:"fits"`
	// Rate, and Rest of a layer (times in ns), are what the speed is reckoned with; zero, as the speed is, where nothing
	// was measured.
	Rate machine.Rate `json:"rate"`
	Rest machine.Rest `json:"rest"`
}

// Advice is an answer to a Request.
type Advice struct {
	Machine machine.Machine   `json:"machine"`
	Device  accelerate.Device `json:"device"`
	Goal    Goal              `json:"goal"`
	Context int               `json:"context"`
	Limit   int64             `json:"memory_limit"` // bytes; 0 is unknown
	Best    Expectation       `json:"best"`
	Why     []string          `json:"why"`
	All     []Expectation     `json:"all"` // in the order of their quality
}

// ErrNothingFits means that no candidate stays within the memory.
var ErrNothingFits = errors.New("nothing fits the memory")

func (q Request) resolve(m Model, on machine.Machine) (Request, error) {
	q.Goal = cmp.Or(q.Goal, Latency)
	var faults []string
	if !slices.Contains(Goals(), q.Goal) {
		faults = append(faults, fmt.Sprintf("goal %q: want latency, throughput, memory or quality", q.Goal))
	}
	if q.Context < 0 || q.Context > m.Context {
		faults = append(faults, fmt.Sprintf("context %d: the model takes 1 to %d tokens", q.Context, m.Context))
	}
	if !slices.Contains([]accelerate.Device{"", "mps", accelerate.Auto, accelerate.CPU, accelerate.CUDA, accelerate.CoreML}, q.Device) {
		faults = append(faults, fmt.Sprintf("device %q: want auto, cpu, cuda or coreml", q.Device))
	}
	if q.Memory < 0 {
		faults = append(faults, fmt.Sprintf("memory %d: want a positive number of bytes", q.Memory))
	}
	if len(faults) > 0 {
		return q, fmt.Errorf("tune: %s", strings.Join(faults, "; "))
	}
	q.Context = cmp.Or(q.Context, min(DefaultContext, m.Context))
	free := on.Memory.Free()
	if q.Device = device(q.Device, on); q.Device == accelerate.CUDA {
		free = 0
		for _, g := range on.GPUs {
			free = max(free, g.Memory)
		}
	}
	q.Memory = cmp.Or(q.Memory, free)
	return q, nil
}

// device is what Auto stands for: CUDA where there is a GPU and a library for it, and the CPU otherwise, whose kernels
// for quantised weights Core ML lacks.
func device(d accelerate.Device, on machine.Machine) accelerate.Device {
	switch d {
	case accelerate.Auto, "":
		if len(on.GPUs) > 0 && slices.Contains(ort.Providers(), "CUDAExecutionProvider") {
			return accelerate.CUDA
		}
		return accelerate.CPU
	case "mps":
		return accelerate.CoreML
	}
	return d
}

// Recommend chooses for m. It measures the kernels of the candidates first, which takes some two seconds.
//
// Errors: ErrNothingFits, and the context's.
func Recommend(ctx context.Context, m Model, q Request) (*Advice, error) {
	if err := ort.Init(ort.Environment{}); err != nil {
		return nil, fmt.Errorf("tune: %w", err)
	}
	on := machine.Look(ctx)
	q, err := q.resolve(m, on)
	if err != nil {
		return nil, err
	}
	var rates Rates
	if q.Device == accelerate.CPU {
		if rates, err = MeasureRates(ctx, m, candidates, on.Threads); err != nil {
			return nil, err
		}
	}
	return choose(m, q, on, rates)
}

// choose is Recommend behind the measurements.
func choose(m Model, q Request, on machine.Machine, rates Rates) (*Advice, error) {
	a := &Advice{Machine: on, Device: q.Device, Goal: q.Goal, Context: q.Context, Limit: q.Memory}
	for _, c := range candidatesFor(q.Device) {
		e := Expectation{Candidate: c, Memory: m.Memory(c.kernel, q.Context, c.cache.Bytes(), 0), Rate: rates.Products[c.kernel]}
		if e.Rate.Decode > 0 {
			e.Rest, e.Speed = rates.Rest[c.cache], rates.Speed(m, c.kernel, q.Context, c.cache)
		}
		e.Fits = q.Memory == 0 || e.Memory.Total <= q.Memory
		a.All = append(a.All, e)
	}
	best := -1
	for i, e := range a.All {
		if e.Fits && (best < 0 || better(q, e, a.All[best])) {
			best = i
		}
	}
	if best < 0 {
		least := slices.MinFunc(a.All, func(x, y Expectation) int { return cmp.Compare(x.Memory.Total, y.Memory.Total) })
		return nil, fmt.Errorf("tune: %w: %s takes the least, %d MB for %d tokens of context, and there are %d MB",
			ErrNothingFits, least.Name, least.Memory.Total>>20, q.Context, q.Memory>>20)
	}
	a.Best = a.All[best]
	a.Why = a.reasons()
	return a, nil
}

// alike is the ratio below which estimates do not tell two candidates apart: the better quality is taken.
const alike = 1.02

// better reports whether e, of less quality, is worth choosing over b.
func better(q Request, e, b Expectation) bool {
	return q.Goal.merit(e, q.Context) > alike*q.Goal.merit(b, q.Context)
}

// merit grows with what is better for the goal.
func (g Goal) merit(e Expectation, context int) float64 {
	known := e.Speed.Decode > 0
	switch {
	case g == Quality:
		return math.Exp(-e.KLD)
	case g == Latency && known:
		return e.Speed.Decode
	case g == Throughput && known:
		return e.Speed.throughput(context)
	case g == LowMemory:
		return 1 / float64(e.Memory.Total)
	}
	return 1 / float64(e.Memory.Weights) // what a token waits for, where nothing else is known
}

// throughput is that of a prompt as long as the context, and an answer a quarter as long.
func (s Speed) throughput(context int) float64 {
	prompt, answer := float64(context), float64(context)/4
	return (prompt + answer) / (prompt/s.Prefill + answer/s.Decode)
}

func (a *Advice) reasons() (why []string) {
	b := a.Best
	switch known := b.Speed.Decode > 0; {
	case !known && a.Goal != LowMemory && a.Goal != Quality:
		why = append(why, fmt.Sprintf("it has the fewest bytes to read for a token; speeds on %s were never measured, and are not estimated", a.Device))
	case a.Goal == Latency:
		why = append(why, fmt.Sprintf("it decodes fastest of what fits: about %.0f tokens/s behind %d tokens", b.Speed.Decode, a.Context))
	case a.Goal == Throughput:
		why = append(why, fmt.Sprintf("prompt and answer together run fastest: about %.0f tokens/s", b.Speed.throughput(a.Context)))
	case a.Goal == LowMemory:
		why = append(why, fmt.Sprintf("it takes the least memory: about %d MB", b.Memory.Total>>20))
	case a.Goal == Quality:
		why = append(why, "of what fits it changes predictions least")
	}
	for _, e := range a.All {
		if !e.Fits && a.Goal.merit(e, a.Context) > a.Goal.merit(b, a.Context) {
			why = append(why, fmt.Sprintf("%s would be better, but takes about %d MB of %d", e.Name, e.Memory.Total>>20, a.Limit>>20))
		}
	}
	if a.Device == accelerate.CPU && !machine.FastIntegers() {
		why = append(why, "this CPU has no instructions for products of integers: quantised models save memory, and little time")
	}
	return append(why, b.When)
}

// Formula shows how the speeds of e were reckoned; empty where they were not.
func (a *Advice) Formula(m Model, e Expectation) (decode, prefill string) {
	if e.Rate.Decode == 0 {
		return "", ""
	}
	const g = 1e9
	micro := func(d float64) float64 { return d / 1e3 }
	decode = fmt.Sprintf("1 / (%.3f G weights / %.1f G/s + %d layers x (%.1f µs + %d x %.2f µs))",
		float64(m.LayerWeights()+m.HeadWeights())/g, e.Rate.Decode/g, m.Layers, micro(float64(e.Rest.Decode)), a.Context, micro(float64(e.Rest.DecodeKV)))
	prefill = fmt.Sprintf("1 / (%.3f G weights / %.0f G/s + %d layers x %.1f µs), and once %.3f G / %.1f G/s",
		float64(m.LayerWeights())/g, e.Rate.Prefill/g, m.Layers, micro(float64(e.Rest.Prefill)), float64(m.HeadWeights())/g, e.Rate.Decode/g)
	return decode, prefill
}
