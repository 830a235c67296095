package runner

import (
	"fmt"
	"regexp"
	"strconv"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/ort"
)

// layout is what a graph takes and gives.
type layout struct {
	layers  []layerNames
	kvHeads int64
	headDim int64
	kvType  ort.DType
	// shared: past and present may be one buffer of fixed capacity, as GroupQueryAttention
	// allows. Otherwise present is a new, longer tensor after each step.
	shared    bool
	positions bool // the graph wants position_ids
	keep      bool // the graph takes num_logits_to_keep
	vocab     int64
	logits    ort.DType
	context   int64 // positions of the rotary tables; 0 if the graph does not tell
}

// layerNames are the names of one layer's cache.
type layerNames struct{ pastKey, pastValue, presentKey, presentValue string }

const (
	inputIDs      = "input_ids"
	attentionMask = "attention_mask"
	positionIDs   = "position_ids"
	logitsToKeep  = "num_logits_to_keep"
	logitsOutput  = "logits"
)

var pastName = regexp.MustCompile(`^past_key_values\.(\d+)\.(key|value)$`)

// readLayout reads names and shapes from the session, and from the graph what the session does not tell.
func readLayout(session *ort.Session, model *ir.Model) (*layout, error) {
	l := &layout{}
	have := map[string]bool{}
	for _, in := range session.Inputs() {
		have[in.Name] = true
		m := pastName.FindStringSubmatch(in.Name)
		if m == nil {
			switch in.Name {
			case inputIDs, attentionMask:
			case positionIDs:
				l.positions = true
			default:
				return nil, fmt.Errorf("runner: %w: unknown input %v", ErrNotModel, in)
			}
			if in.DType != ort.Int64 {
				return nil, fmt.Errorf("runner: %w: input %v should be int64", ErrNotModel, in)
			}
			continue
		}
		if m[2] == "value" {
			continue
		}
		if len(in.Shape) != 4 || in.Shape[1] <= 0 || in.Shape[3] <= 0 {
			return nil, fmt.Errorf("runner: %w: input %v should be [batch, heads, past, head size]", ErrNotModel, in)
		}
		if l.kvHeads != 0 && (l.kvHeads != in.Shape[1] || l.headDim != in.Shape[3] || l.kvType != in.DType) {
			return nil, fmt.Errorf("runner: %w: input %v differs from the other layers", ErrNotModel, in)
		}
		l.kvHeads, l.headDim, l.kvType = in.Shape[1], in.Shape[3], in.DType
	}
	if !have[inputIDs] || !have[attentionMask] {
		return nil, fmt.Errorf("runner: %w: the graph has no inputs %s and %s", ErrNotModel, inputIDs, attentionMask)
	}
	for _, in := range session.Initializers() {
		l.keep = l.keep || in.Name == logitsToKeep
	}
	outputs := map[string]ort.ValueInfo{}
	for _, o := range session.Outputs() {
		outputs[o.Name] = o
	}
	out, ok := outputs[logitsOutput]
	if !ok || len(out.Shape) != 3 {
		return nil, fmt.Errorf("runner: %w: the graph has no output %s [batch, sequence, vocabulary]", ErrNotModel, logitsOutput)
	}
	l.logits, l.vocab = out.DType, out.Shape[2]
	if l.vocab <= 0 {
		return nil, fmt.Errorf("runner: %w: output %v has no fixed vocabulary", ErrNotModel, out)
	}
	switch l.logits {
	case ort.Float32, ort.Float16, ort.BFloat16:
	default:
		return nil, fmt.Errorf("runner: %w: output %v is not floating point", ErrNotModel, out)
	}
	for i := 0; ; i++ {
		n := layerName(i)
		if !have[n.pastKey] {
			break
		}
		_, key := outputs[n.presentKey]
		_, value := outputs[n.presentValue]
		if !have[n.pastValue] || !key || !value {
			return nil, fmt.Errorf("runner: %w: layer %d lacks one of %s, %s, %s", ErrNotModel, i, n.pastValue, n.presentKey, n.presentValue)
		}
		l.layers = append(l.layers, n)
	}
	if len(l.layers) == 0 {
		return nil, fmt.Errorf("runner: %w: the graph has no KV cache (inputs past_key_values.N.key and .value)", ErrNotModel)
	}
	l.readGraph(model)
	return l, nil
}

func layerName(i int) layerNames {
	n := strconv.Itoa(i)
	return layerNames{
		"past_key_values." + n + ".key", "past_key_values." + n + ".value",
		"present." + n + ".key", "present." + n + ".value",
	}
}

// readGraph finds out whether every layer's cache is read by GroupQueryAttention alone, and how many
// positions its rotary tables have.
func (l *layout) readGraph(model *ir.Model) {
	l.shared = true
	for _, in := range model.Graph.Inputs() {
		if !pastName.MatchString(in.Name) {
			continue
		}
		for _, u := range in.Uses() {
			if !u.Node.Is("com.microsoft", "GroupQueryAttention") {
				l.shared = false
				continue
			}
			if table := u.Node.Input(7).Constant(); table != nil && len(table.Shape) == 2 {
				l.context = table.Shape[0]
			}
		}
	}
}
