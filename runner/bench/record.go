package bench

import (
	"math"
	"time"

	"github.com/qwenrt/qwenrt/runner/bench/stats"
)

// Record is the result of one test. The names in JSON are llama-bench's where it has the field;
// tokens are counted, sizes are in bytes, and speeds (…_ts) in tokens per second.
type Record struct {
	BuildCommit string `json:"build_commit"` // of qwenrt; empty where the program does not know
	BuildNumber int    `json:"build_number"` // always 0: qwenrt has none
	CPUInfo     string `json:"cpu_info"`
	GPUInfo     string `json:"gpu_info"` // always empty: nobody asks yet
	Backends    string `json:"backends"` // execution providers, such as "CPU"

	ModelFilename string `json:"model_filename"`
	ModelType     string `json:"model_type"` // such as "qwen3 0.60B int4 b32"
	ModelSize     int64  `json:"model_size"`
	ModelParams   int64  `json:"model_n_params"`

	Batch   int    `json:"n_batch"`  // tokens of a prefill that are run at once
	UBatch  int    `json:"n_ubatch"` // the same: nothing divides them further
	Threads int    `json:"n_threads"`
	TypeK   string `json:"type_k"` // of the KV cache
	TypeV   string `json:"type_v"`

	Prompt int `json:"n_prompt"`
	Gen    int `json:"n_gen"`
	Depth  int `json:"n_depth"`

	TestTime string  `json:"test_time"` // when the test began, RFC 3339 in UTC
	AvgNS    int64   `json:"avg_ns"`
	StddevNS int64   `json:"stddev_ns"` // of the sample: divided by one less than the repetitions
	AvgTS    float64 `json:"avg_ts"`
	StddevTS float64 `json:"stddev_ts"`
	// What follows is qwenrt's own.
	MedianTS float64 `json:"median_ts"`
	// The interval of the median at 95 %; 0 where there are fewer than six repetitions.
	MedianLoTS float64 `json:"median_lo_ts"`
	MedianHiTS float64 `json:"median_hi_ts"`
	// TTFT is the time to the logits of the first token of an answer, TPOT that to one more, both the median in ns and 0
	// where the test has no such part, or has both.
	TTFT          int64   `json:"ttft_ns"`
	TPOT          int64   `json:"tpot_ns"`
	QwenrtVersion string  `json:"qwenrt_version"`
	ORTVersion    string  `json:"ort_version"`
	Provider      string  `json:"provider"`   // as in runner.Options, in order
	ModelHash     string  `json:"model_hash"` // see Model.Hash
	LoadSeconds   float64 `json:"load_s"`     // to open the model, its files in the page cache
	PeakRSS       int64   `json:"peak_rss"`   // VmHWM of the process: the most memory by now, mapped files too; 0: not known
	RSSAnon       int64   `json:"rss_anon"`   // RssAnon at the end of the test: without mapped files; 0: not known
	KVBytes       int64   `json:"kv_bytes"`   // of the KV cache at the end of the test; tests of one depth share it

	// EnergyJ is what the CPU's packages took in all repetitions together, other processes included, in joules (RAPL); nil: not known.
	EnergyJ *float64 `json:"energy_j"`

	SamplesNS []int64   `json:"samples_ns"` // one a repetition, in order
	SamplesTS []float64 `json:"samples_ts"`
}

// Test is the test that was run.
func (r *Record) Test() Test { return Test{r.Prompt, r.Gen, r.Depth} }

// setSamples fills in what follows from the times of the repetitions.
func (r *Record) setSamples(times []time.Duration) {
	ns := make([]float64, len(times))
	r.SamplesNS, r.SamplesTS = make([]int64, len(times)), make([]float64, len(times))
	for i, t := range times {
		ns[i], r.SamplesNS[i] = float64(t), t.Nanoseconds()
		r.SamplesTS[i] = float64(r.Test().tokens()) / t.Seconds()
	}
	t, speed := stats.Summarize(ns, 0.95), stats.Summarize(r.SamplesTS, 0.95)
	r.AvgNS, r.StddevNS = int64(math.Round(t.Mean)), int64(math.Round(t.Dev))
	r.AvgTS, r.StddevTS = speed.Mean, speed.Dev
	r.MedianTS = speed.Median
	if !math.IsInf(speed.Lo, 0) && !math.IsInf(speed.Hi, 0) {
		r.MedianLoTS, r.MedianHiTS = speed.Lo, speed.Hi
	}
	switch {
	case r.Gen == 0:
		r.TTFT = int64(t.Median)
	case r.Prompt == 0:
		r.TPOT = int64(t.Median / float64(r.Gen))
	}
}
