package tune

// Setting is an option of accelerate.Config.
type Setting struct {
	Name    string `json:"name"` // in configuration files; flags have dashes for underscores
	Default string `json:"default"`
	Effect  string `json:"effect"`
}

// Settings lists every option, with its default and what it does.
func Settings() []Setting {
	return []Setting{
		{"device", "auto", "what runs the model: cpu, cuda, coreml or an execution provider; auto takes the first that works"},
		{"device_id", "0", "which of several GPUs"},
		{"provider_options", "none", "passed to the execution provider, in its own words"},
		{"provider_library", "none", "shared library of a plug-in execution provider"},
		{"threads", "CPUs of the process", "threads of an operator; decoding is bound by memory and gains little beyond the memory's speed"},
		{"spin", "ONNX Runtime's", "how idle threads wait: on (in a loop: faster answers, busy CPUs), off, in_run (in a loop while a run is under way)"},
		{"huge_pages", "true", "packed weights on pages of 2 MB: decoding a tenth faster on Linux"},
		{"arena", "true", "memory of activations is kept between runs; false gives it back, at some price in time"},
		{"precision", "int4", "none, fp16, bf16, dynamic_int8, static_int8, int8, int4: bytes of weights, and with them the time of a token"},
		{"algorithm", "rtn", "how levels are found: rtn (seconds), hqq, gptq, awq, awq+gptq (minutes, with calibration; less loss)"},
		{"scale", "mse", "how rtn finds scales: max as ONNX Runtime does, mse with less loss"},
		{"block_size", "32", "weights that share a scale: larger is smaller and faster, and loses more"},
		{"symmetric", "true", "no zero points; false costs bits and loses less"},
		{"half_scales", "false", "scales in float16: a smaller file, a longer start"},
		{"accuracy_level", "4", "type in which products of blocks are computed: 4 is integers, 1 is fp32 (slower, more exact)"},
		{"rules", "none", "precision of single weights by name"},
		{"target_bits", "none", "mean bits a weight, spent where they change predictions most"},
		{"calibration", "built-in text", "text, samples, length and seed for algorithms that observe the model"},
		{"integers", "see quantization.md", "products in integers: range of weights, calibrated ranges of activations, what is kept out of them"},
		{"smoothquant", "off", "moves outliers of activations into weights before they are rounded"},
		{"dtype", "fp32; fp16 on CUDA", "type of activations; half the memory of the cache where a device has kernels for it"},
		{"target", "the device's", "device for which the graph is optimised"},
		{"passes", "all", "the only graph passes that run"},
		{"disable", "none", "graph passes that do not run"},
		{"keep_fp32", "none", "operators and nodes that a conversion leaves in fp32"},
		{"narrow_logits", "false", "converts logits too"},
		{"lenient", "false", "goes on where a target has no kernel for a type, and reports it"},
		{"sequence", "free", "fixed number of new tokens, for Core ML"},
		{"total", "free", "fixed number of tokens, for Core ML"},
		{"attention", "flash", "flash: tiles and a cache in place; memory_efficient: bounded scores; plain: ONNX's own operators"},
		{"fused_kernels", "true", "operators that do the work of several"},
		{"kv", "that of activations", "type of the KV cache: int8 and int4 make long contexts smaller, and decoding behind them faster"},
		{"kv_scales", "channel", "scales of a quantised KV cache: tensor or channel"},
		{"compile", "default", "off; default: ONNX Runtime's optimisation kept on disk; reduce_overhead: room for the whole context at once; max_autotune: what tune has found"},
		{"prepack_weights", "false", "weights on disk as kernels want them, mapped: a sooner start and less memory, twice the disk"},
		{"prefill_chunk", "512", "tokens of a prompt that run at once: smaller takes less memory, and is slower below 64"},
		{"max_context", "the model's", "the most tokens of prompt and answer"},
		{"slots", "0", "generations that share runs: more tokens in all, fewer for each"},
		{"queue", "64", "generations that may wait for a slot; one more is refused"},
		{"prefix_cache", "0", "bytes for keys and values of earlier prompts: what a prompt has in common with one is not run again"},
		{"session_entries", "none", "configuration entries of ONNX Runtime's sessions"},
		{"strict", "false", "what cannot be applied is an error rather than a line of the report"},
	}
}
