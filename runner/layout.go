package runner

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/ort"
)

// layout is what a graph takes and gives.
type layout struct {
	session *ort.Session
	at      residence
	layers  []layerNames
	kvHeads int64
	headDim int64
	kvType  ort.DType
	kvWidth int64 // elements of kvType that a head takes for a token
	kvBits  int   // of a number in the cache: those of kvType, or 4, two in a byte
	// shared: past and present may be one buffer of fixed capacity, as GroupQueryAttention
	// allows. Otherwise present is a new, longer tensor after each step.
	shared bool
	// batched: rows of a batch may differ in length, and attention_mask may be longer than they are, since attention takes
	// the length of each from the sum of its row, and nothing else looks at the mask.
	batched   bool
	positions bool // the graph wants position_ids
	keep      bool // the graph takes num_logits_to_keep
	vocab     int64
	logits    ort.DType
	context   int64 // positions of the rotary tables; 0 if the graph does not tell
}

// layerNames are the names of one layer's cache.
type layerNames struct{ pastKey, pastValue, presentKey, presentValue string }

func layerName(i int) layerNames {
	n := strconv.Itoa(i)
	return layerNames{
		"past_key_values." + n + ".key", "past_key_values." + n + ".value",
		"present." + n + ".key", "present." + n + ".value",
	}
}

const (
	inputIDs      = "input_ids"
	attentionMask = "attention_mask"
	positionIDs   = "position_ids"
	logitsToKeep  = "num_logits_to_keep"
	logitsOutput  = "logits"
)

var pastName = regexp.MustCompile(`^past_key_values\.(\d+)\.(key|value)$`)

// readLayout reads names and shapes from the session, from the graph what the session does not tell, and
// from the configuration the sizes that the graph leaves open. Its errors are ErrNotModel, and those of the session.
func readLayout(session *ort.Session, model *ir.Model, c modelConfig) (*layout, error) {
	l := &layout{session: session}
	inputs, outputs := byName(session.Inputs()), byName(session.Outputs())
	err := l.readInputs(session.Inputs())
	if err == nil {
		err = l.readLayers(inputs, outputs, c)
	}
	if err == nil {
		err = l.readLogits(outputs)
	}
	if err == nil {
		err = l.readKeep(session.Initializers())
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotModel, err)
	}
	l.readGraph(model.Graph)
	if err := l.readResidence(session.InputLocation, session.OutputLocation); err != nil {
		return nil, wrap(err)
	}
	return l, nil
}

func byName(list []ort.ValueInfo) map[string]ort.ValueInfo {
	m := make(map[string]ort.ValueInfo, len(list))
	for _, v := range list {
		m[v.Name] = v
	}
	return m
}

// readInputs checks that nothing is wanted that this package cannot give.
func (l *layout) readInputs(inputs []ort.ValueInfo) error {
	have := map[string]bool{}
	for _, in := range inputs {
		switch in.Name {
		case inputIDs, attentionMask, positionIDs:
			if in.DType != ort.Int64 || len(in.Shape) != 2 || !fits(in, 1) {
				return fmt.Errorf("input %v should be int64[batch, any length]", in)
			}
			have[in.Name] = true
		default:
			if !pastName.MatchString(in.Name) {
				return fmt.Errorf("input %v is unknown", in)
			}
		}
	}
	if !have[inputIDs] || !have[attentionMask] {
		return fmt.Errorf("the graph should have the inputs %s and %s", inputIDs, attentionMask)
	}
	l.positions = have[positionIDs]
	return nil
}

// fits reports whether an input takes a batch of one, and any length.
func fits(in ort.ValueInfo, length int) bool {
	return (in.Shape[0] < 0 || in.Shape[0] == 1) && in.Shape[length] < 0
}

// readLayers checks that the layers are numbered without gaps, and that all caches are of one kind.
func (l *layout) readLayers(inputs, outputs map[string]ort.ValueInfo, c modelConfig) error {
	pasts := 0
	for name := range inputs {
		if pastName.MatchString(name) {
			pasts++
		}
	}
	if pasts == 0 {
		return errors.New("the graph has no KV cache (inputs past_key_values.N.key and .value)")
	}
	l.layers = make([]layerNames, (pasts+1)/2)
	for i := range l.layers {
		n := layerName(i)
		l.layers[i] = n
		for _, pair := range [][2]string{{n.pastKey, n.presentKey}, {n.pastValue, n.presentValue}} {
			past, ok := inputs[pair[0]]
			if !ok {
				return fmt.Errorf("layer %d of %d has no input %s", i, len(l.layers), pair[0])
			}
			present, ok := outputs[pair[1]]
			if !ok {
				return fmt.Errorf("layer %d has no output %s", i, pair[1])
			}
			if err := l.readCache(past, present, c); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *layout) readCache(past, present ort.ValueInfo, c modelConfig) error {
	if len(past.Shape) != 4 || !fits(past, 2) {
		return fmt.Errorf("input %v should be [batch, heads, any length, head size]", past)
	}
	heads, size := past.Shape[1], past.Shape[3]
	if heads < 0 {
		heads = c.kvHeads
	}
	if size < 0 { // as in the graphs of onnxruntime-genai 0.18
		size = c.headDim
	}
	if heads <= 0 || size <= 0 {
		return fmt.Errorf("input %v leaves open how large it is, and no configuration beside it tells num_key_value_heads and head_dim", past)
	}
	if past.DType.Bits() < 8 {
		return fmt.Errorf("input %v: a cache of %s is not supported", past, past.DType)
	}
	if present.DType != past.DType {
		return fmt.Errorf("output %v is not of the type of input %v", present, past)
	}
	if l.kvHeads == 0 {
		l.kvHeads, l.kvWidth, l.kvType = heads, size, past.DType
	}
	if l.kvHeads != heads || l.kvWidth != size || l.kvType != past.DType {
		return fmt.Errorf("input %v differs from the other layers", past)
	}
	return nil
}

// cacheType names the type of the numbers in the cache.
func (l *layout) cacheType() string {
	if l.kvBits == 4 {
		return "int4"
	}
	return l.kvType.String()
}

func (l *layout) readLogits(outputs map[string]ort.ValueInfo) error {
	out, ok := outputs[logitsOutput]
	if !ok {
		return fmt.Errorf("the graph has no output %s", logitsOutput)
	}
	if len(out.Shape) != 3 || out.Shape[2] <= 0 {
		return fmt.Errorf("output %v should be [batch, sequence, vocabulary] with a fixed vocabulary", out)
	}
	switch out.DType {
	case ort.Float32, ort.Float16, ort.BFloat16:
	default:
		return fmt.Errorf("output %v should be float32, float16 or bfloat16", out)
	}
	l.logits, l.vocab = out.DType, out.Shape[2]
	return nil
}

func (l *layout) readKeep(initializers []ort.ValueInfo) error {
	v, ok := byName(initializers)[logitsToKeep]
	if ok && (v.DType != ort.Int64 || len(v.Shape) != 1) {
		return fmt.Errorf("input %v should be int64[1]", v)
	}
	l.keep = ok
	return nil
}

// readGraph finds out whether every cache is read and written by a GroupQueryAttention alone, how many bits its
// numbers have, and how many positions the rotary tables have.
func (l *layout) readGraph(g *ir.Graph) {
	inputs, outputs := map[string]*ir.Value{}, map[string]*ir.Value{}
	for _, v := range g.Inputs() {
		inputs[v.Name] = v
	}
	for _, v := range g.Outputs() {
		outputs[v.Name] = v
	}
	l.shared, l.batched = true, anyBatch(g) && summed(inputs[attentionMask])
	l.kvBits, l.headDim = l.kvType.Bits(), l.kvWidth
	for _, n := range l.layers {
		if past := inputs[n.pastKey]; past != nil && len(past.Uses()) == 1 && past.Uses()[0].Node.Int("kv_cache_bit_width", 0) == 4 {
			l.kvBits, l.headDim = 4, 2*l.kvWidth
		}
		key := inPlace(inputs[n.pastKey], outputs[n.presentKey], 0)
		value := inPlace(inputs[n.pastValue], outputs[n.presentValue], 1)
		if key == nil || key != value {
			l.shared, l.batched = false, false
			continue
		}
		l.batched = l.batched && countsRow(key.Input(5), inputs[attentionMask])
		if table := key.Input(7).Constant(); table != nil && len(table.Shape) == 2 {
			if rows := table.Shape[0]; l.context == 0 || rows < l.context {
				l.context = rows
			}
		}
	}
}

// inPlace gives the GroupQueryAttention node for which past and present may be one buffer, nil if there
// is none. Keys (0) and values (1) are its inputs 3 and 4 and its outputs 1 and 2.
func inPlace(past, present *ir.Value, which int) *ir.Node {
	if past == nil || present == nil {
		return nil
	}
	n := past.SoleUse()
	if n == nil || !n.Is("com.microsoft", "GroupQueryAttention") || n.Input(3+which) != past || n.Output(1+which) != present {
		return nil
	}
	return n
}

func anyBatch(g *ir.Graph) bool {
	return !slices.ContainsFunc(g.Inputs(), func(v *ir.Value) bool {
		return v.Type != nil && len(v.Type.Shape) > 1 && v.Type.Shape[0].Size >= 0
	})
}

// summed reports whether all that is made of v, a mask, are sums and its shape.
func summed(v *ir.Value) bool {
	return !slices.ContainsFunc(v.Uses(), func(u ir.Use) bool {
		n := u.Node
		return !(n.Is("", "Shape") || n.Is("", "ReduceSum") || n.Is("", "Cast") && summed(n.Output(0)))
	})
}

// countsRow reports whether v, a GroupQueryAttention's seqlens_k [batch], is computed from the sums of mask's
// rows and constants alone.
func countsRow(v, mask *ir.Value) bool {
	summed := false
	for v != nil && v != mask {
		n := v.Producer()
		if n == nil {
			return false
		}
		switch {
		case n.Is("", "ReduceSum"):
			summed = true
		case n.Is("", "Sub") && (n.Input(1).Constant() != nil || n.Input(1).Producer().Is("", "Constant")), n.Is("", "Cast"), n.Is("", "Squeeze"), n.Is("", "Reshape"):
		default:
			return false
		}
		v = n.Input(0)
	}
	return summed && v == mask
}
