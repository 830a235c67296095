package accelerate

import (
	"cmp"
	"context"
	"regexp"
	"slices"

	"github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/models/folder"
	"github.com/qwenrt/qwenrt/quantize"
	"github.com/qwenrt/qwenrt/quantize/calib"
)

// Quantized reports whether t is one of the types that are for ONNX Runtime's kernels on the CPU, in fp32.
func (t KVType) Quantized() bool { return t.bits() != 0 }

// bits of a number in the cache; 0 where it is not quantised.
func (t KVType) bits() int {
	switch t {
	case KVInt8:
		return 8
	case KVInt4:
		return 4
	}
	return 0
}

// KVScales says what shares a scale in a quantised KV cache.
type KVScales string

// The kinds of scales.
const (
	ChannelScales KVScales = "channel" // one for each channel of each head: finer, at no cost in time
	TensorScales  KVScales = "tensor"  // one for the keys of a layer, and one for its values
)

// resolveKV reports what is wrong with what c says about the cache.
func (s *settings) resolveKV(c Config, fault func(string, ...any)) {
	if !c.KV.Quantized() {
		if c.KVScales != "" && slices.Contains([]KVType{"", KVFP32, KVFP16, KVBF16}, c.KV) {
			fault("kv_scales %q, and no quantised KV cache: want kv int8 or int4", c.KVScales)
		}
		return
	}
	s.KV, s.KVScales = c.KV, cmp.Or(c.KVScales, DefaultKVScales)
	if s.KVScales != ChannelScales && s.KVScales != TensorScales {
		fault("kv_scales %q: want channel or tensor", s.KVScales)
	}
	if s.DType != FP32 || s.Target != graphopt.CPU {
		fault("kv %s is for dtype fp32 and target cpu", s.KV)
	}
	if c.Attention == Plain {
		fault("kv %s is for fused attention: want attention flash or memory_efficient", s.KV)
	}
}

// quantizeKV finds the scales of the KV cache on calibration text and writes them into the graph. Methods that
// rescale values must have done so.
func (w *work) quantizeKV(ctx context.Context) error {
	bits := w.set.KV.bits()
	if bits == 0 {
		return nil
	}
	kv, err := quantize.NewKV(w.model, quantize.KVOptions{Bits: bits, PerTensor: w.set.KVScales == TensorScales})
	if err != nil {
		return err
	}
	samples, err := w.samples(ctx)
	if err != nil {
		return err
	}
	err = calib.ObserveKV(ctx, w.model, kv, some(samples, calib.KVSamples), calib.Options{
		Dir: w.stage.Dir(),
		Progress: func(p calib.Progress) {
			w.events.tensor(TensorProgress{Phase: PhaseCache, Tensor: p.Tensor, Done: p.Done, Total: p.Total})
		},
	})
	if err != nil {
		return err
	}
	return kv.Apply()
}

// kvOptions adds to the settings that the manifest records.
func (s settings) kvOptions(o map[string]string) map[string]string {
	if s.KV != "" {
		o["kv"], o["kv_scales"] = string(s.KV), string(s.KVScales)
	}
	return o
}

// some gives at most n of all, evenly spread.
func some[T any](all []T, n int) []T {
	if len(all) <= n {
		return all
	}
	list := make([]T, n)
	for i := range list {
		list[i] = all[i*len(all)/n]
	}
	return list
}

var cacheName = regexp.MustCompile(`^past_key_values\.\d+\.(key|value)$`)

// kvCache describes the cache of the first layer.
func kvCache(g *ir.Graph) folder.KVCache {
	for _, in := range g.Inputs() {
		if in.Type == nil || len(in.Uses()) == 0 || !cacheName.MatchString(in.Name) {
			continue
		}
		c := folder.KVCache{DType: in.Type.DType.String()}
		n := in.Uses()[0].Node
		switch n.Str("k_quant_type", "NONE") {
		case "PER_CHANNEL":
			c.Bits, c.Scales = int(n.Int("kv_cache_bit_width", 8)), string(ChannelScales)
		case "PER_TENSOR":
			c.Bits, c.Scales = int(n.Int("kv_cache_bit_width", 8)), string(TensorScales)
		}
		return c
	}
	return folder.KVCache{}
}
