package bench

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// slice is a complete event of the Trace Event format as writeTrace writes it; times are in microseconds.
type slice struct {
	Name  string         `json:"name"`
	Cat   string         `json:"cat,omitempty"`
	Phase string         `json:"ph"`
	TS    float64        `json:"ts"`
	Dur   float64        `json:"dur"`
	PID   int            `json:"pid"`
	TID   int            `json:"tid"`
	Args  map[string]any `json:"args,omitempty"`
}

// writeTrace writes what ui.perfetto.dev and chrome://tracing read: a track for each test, on it runs, in those layers, in
// those operators. ONNX Runtime's own trace has them side by side, on the track of whatever thread Go was on, the
// operators without the time between them.
func writeTrace(w io.Writer, phases []phase) error {
	out := bufio.NewWriter(w)
	separator := "[\n"
	var failed error
	write := func(v any) {
		b, err := json.Marshal(v)
		if err != nil && failed == nil {
			failed = err
		}
		out.WriteString(separator)
		out.Write(b)
		separator = ",\n"
	}
	for i, p := range phases {
		tid := i + 1
		write(map[string]any{"name": "thread_name", "ph": "M", "pid": 1, "tid": tid, "args": map[string]any{"name": p.test.String()}})
		event := func(name, category string, start, length time.Duration, args map[string]any) {
			write(slice{name, category, "X", float64(start.Microseconds()), float64(length.Microseconds()), 1, tid, args})
		}
		for n, run := range p.runs {
			event(fmt.Sprintf("run %d", n+1), "run", run.start, run.length, map[string]any{"kernels": len(run.kernels)})
			for _, layer := range layerSpans(run.kernels) {
				if name := layer[0].layer; name != "" {
					last := layer[len(layer)-1]
					event("layer "+name, "layer", layer[0].start, last.start+last.length-layer[0].start, nil)
				}
				for _, k := range layer {
					args := map[string]any{"node": k.name, "bytes": k.bytes}
					if k.shapes != "" {
						args["inputs"] = json.RawMessage(k.shapes)
					}
					event(strings.TrimSpace(k.op+" "+shortName(k.name)), k.op, k.start, k.length, args)
				}
			}
		}
	}
	out.WriteString("\n]\n")
	if failed != nil {
		return failed
	}
	return out.Flush()
}

// layerSpans divides operators, in the order in which they ran, where the layer changes.
func layerSpans(kernels []kernel) (spans [][]kernel) {
	for i, k := range kernels {
		if i == 0 || k.layer != kernels[i-1].layer {
			spans = append(spans, nil)
		}
		last := len(spans) - 1
		spans[last] = append(spans[last], k)
	}
	return spans
}

// shortName is the part of a node's path that names the weight: "qkv_proj" of /model/layers.0/self_attn/qkv_proj/MatMul.
func shortName(node string) string {
	parts := strings.Split(strings.Trim(node, "/"), "/")
	if len(parts) < 2 || strings.HasPrefix(parts[len(parts)-2], "layers") {
		return ""
	}
	return parts[len(parts)-2]
}
