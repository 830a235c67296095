package tune

import (
	"fmt"
	"slices"
	"strings"

	"github.com/qwenrt/qwenrt/runner/accelerate"
)

// threadAffinities is the entry of ONNX Runtime's sessions that binds threads to CPUs.
const threadAffinities = "session.intra_op_thread_affinities"

// Dimensions lists what a Search goes through, in its order: what changes most comes first, so that the rest is tuned
// for what is used.
func Dimensions() []Dimension {
	set := func(name string, apply func(*accelerate.Config)) value { return value{name, apply} }
	fixed := func(values ...value) func(accelerate.Config, Model, int) []value {
		return func(accelerate.Config, Model, int) []value { return values }
	}
	blocks := func(p accelerate.Precision, block int) func(*accelerate.Config) {
		return func(c *accelerate.Config) { c.Precision, c.BlockSize, c.Rules = p, block, nil }
	}
	return []Dimension{
		{Name: "weights", Doc: "precision and block size", values: fixed(
			set("int4, blocks of 32", blocks(accelerate.Int4, 32)),
			set("int4, blocks of 128", blocks(accelerate.Int4, 128)),
			set("int8, blocks of 128", blocks(accelerate.Int8, 128)),
			set("dynamic-int8", blocks(accelerate.DynamicInt8, 0)),
		)},
		{Name: "tensors", Doc: "precision of single tensors: bits where they change predictions most", values: bits},
		{Name: "accuracy", Doc: "type in which products of blocks are computed", values: func(c accelerate.Config, _ Model, _ int) []value {
			if c.Precision != accelerate.Int4 && c.Precision != accelerate.Int8 {
				return nil
			}
			return []value{set("1 (fp32)", func(c *accelerate.Config) { c.AccuracyLevel = 1 })}
		}},
		{Name: "kv", Doc: "type of the KV cache", values: fixed(
			set("int8", func(c *accelerate.Config) { c.KV = accelerate.KVInt8 }),
			set("int4", func(c *accelerate.Config) { c.KV = accelerate.KVInt4 }),
		)},
		{Name: "fusions", Doc: "q, k and v, and gate and up, as one product each", values: fixed(
			set("separate products", func(c *accelerate.Config) { c.Disable = []string{"projections"} }),
		)},
		{Name: "threads", Doc: "threads of an operator", values: threadCounts},
		{Name: "spin", Doc: "whether idle threads wait in a loop", values: fixed(
			set("off", func(c *accelerate.Config) { c.Spin = accelerate.SpinOff }),
		)},
		{Name: "affinity", Doc: "threads bound to CPUs", values: affinities},
		{Name: "compile", Doc: "what is done ahead of the first run", values: fixed(
			set("reduce_overhead", func(c *accelerate.Config) { c.Compile = accelerate.ReduceOverhead }),
			set("off", func(c *accelerate.Config) { c.Compile = accelerate.CompileOff }),
		)},
		{Name: "prepack", Doc: "weights on disk as kernels want them", values: fixed(
			set("on", func(c *accelerate.Config) { c.PrepackWeights = true }),
		)},
		{Name: "arena", Doc: "memory of activations kept between runs", values: fixed(
			set("off", func(c *accelerate.Config) { c.Arena = new(false) }),
		)},
		{Name: "chunk", Doc: "tokens of a prompt that run at once", prompt: true, values: fixed(
			set("128", func(c *accelerate.Config) { c.PrefillChunk = 128 }),
			set("256", func(c *accelerate.Config) { c.PrefillChunk = 256 }),
			set("1024", func(c *accelerate.Config) { c.PrefillChunk = 1024 }),
		)},
	}
}

// bits are mean numbers of bits a weight, for the cases that an even format is too coarse or finer than need be.
func bits(c accelerate.Config, _ Model, _ int) []value {
	if c.Precision != accelerate.Int4 && c.Precision != accelerate.Int8 {
		return nil
	}
	var all []value
	for _, n := range []float64{4.6, 5.2} {
		all = append(all, value{fmt.Sprintf("%v bits, by effect", n), func(c *accelerate.Config) {
			c.Precision, c.BlockSize, c.TargetBits = accelerate.Int4, 0, n
		}})
	}
	return all
}

// threadCounts are those around the number of CPUs: fewer, for memory is what decoding waits for, and on machines
// with several memory controllers as many as possible.
func threadCounts(_ accelerate.Config, _ Model, threads int) (all []value) {
	for n := threads - 1; n >= 1 && n >= threads/4; n = min(n-1, n*3/4) {
		all = append(all, value{fmt.Sprint(n), func(c *accelerate.Config) { c.Threads = n }})
	}
	return all
}

// affinities binds all threads but the calling one, as the entry wants it, to one CPU each.
func affinities(c accelerate.Config, _ Model, threads int) []value {
	if c.Threads > 0 {
		threads = c.Threads
	}
	if threads < 2 {
		return nil
	}
	cpus := make([]string, threads-1)
	for i := range cpus {
		cpus[i] = fmt.Sprint(i + 2) // from 1 on; the first is left to the calling thread
	}
	return []value{{"one CPU a thread", func(c *accelerate.Config) {
		entries := map[string]string{threadAffinities: strings.Join(cpus, ";")}
		for k, v := range c.SessionEntries {
			entries[k] = v
		}
		c.Threads, c.SessionEntries = threads, entries
	}}}
}

// DimensionNames lists the names.
func DimensionNames() []string {
	var names []string
	for _, d := range Dimensions() {
		names = append(names, d.Name)
	}
	return slices.Clip(names)
}
