package serve

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/qwenrt/qwenrt/runner"
)

// metrics are what the server has counted since it was made.
type metrics struct {
	mu        sync.Mutex
	requests  map[outcome]uint64
	prompt    uint64 // tokens
	cached    uint64 // of them
	generated uint64
	first     [len(buckets) + 1]uint64 // times to the first token in each bucket, the last without a bound
	firstSum  float64
}

// outcome is how a request for an endpoint ended.
type outcome struct {
	path   string
	status int
}

// buckets are bounds of the time to the first token, in seconds.
var buckets = [...]float64{0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120}

func (m *metrics) request(path string, status int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.requests == nil {
		m.requests = map[outcome]uint64{}
	}
	m.requests[outcome{path, status}]++
}

// event counts tokens as they come, and the rest of an answer with its end.
func (m *metrics) event(ev runner.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := ev.Result; r != nil {
		if ev.Answer == 0 {
			m.prompt += uint64(r.PromptTokens)
			m.cached += uint64(r.CachedTokens)
		}
		if r.TTFT > 0 {
			s := r.TTFT.Seconds()
			at, _ := slices.BinarySearch(buckets[:], s)
			m.first[at]++
			m.firstSum += s
		}
		return
	}
	if !ev.Prompt {
		m.generated++
	}
}

// write writes Prometheus' text format, version 0.0.4.
func (m *metrics) write(w io.Writer, info runner.Info, batch runner.BatchStats) {
	m.mu.Lock()
	defer m.mu.Unlock()
	metric := func(name, kind, help string) {
		fmt.Fprintf(w, "# HELP qwenrt_%s %s\n# TYPE qwenrt_%[1]s %[3]s\n", name, help, kind)
	}
	value := func(name, kind, help string, v uint64) {
		metric(name, kind, help)
		fmt.Fprintf(w, "qwenrt_%s %d\n", name, v)
	}
	metric("requests_total", "counter", "Requests that have ended.")
	byPath := func(a, b outcome) int { return cmp.Or(cmp.Compare(a.path, b.path), a.status-b.status) }
	for _, o := range slices.SortedFunc(maps.Keys(m.requests), byPath) {
		fmt.Fprintf(w, "qwenrt_requests_total{path=%q,status=\"%d\"} %d\n", o.path, o.status, m.requests[o])
	}
	value("prompt_tokens_total", "counter", "Tokens of prompts that were answered.", m.prompt)
	value("cached_prompt_tokens_total", "counter", "Of them, those that the prefix cache had.", m.cached)
	value("generated_tokens_total", "counter", "Tokens of answers.", m.generated)
	value("slots", "gauge", "Generations that can be under way at a time.", uint64(info.Slots))
	value("slots_busy", "gauge", "Generations under way.", uint64(batch.Busy))
	value("queue_waiting", "gauge", "Generations that wait for a slot.", uint64(batch.Waiting))
	value("queue", "gauge", "Generations that may wait.", uint64(info.Queue))

	const first = "time_to_first_token_seconds"
	metric(first, "histogram", "Time from a request's call of the model to the first token of an answer.")
	count := uint64(0)
	for i, n := range m.first {
		count += n
		bound := "+Inf"
		if i < len(buckets) {
			bound = fmt.Sprint(buckets[i])
		}
		fmt.Fprintf(w, "qwenrt_%s_bucket{le=%q} %d\n", first, bound, count)
	}
	fmt.Fprintf(w, "qwenrt_%s_sum %g\nqwenrt_%[1]s_count %[3]d\n", first, m.firstSum, count)
}
