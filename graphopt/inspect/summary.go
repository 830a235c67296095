package inspect

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Summary says what is in a model. Lists are in the model's order, or sorted.
type Summary struct {
	Producer  string   `json:"producer"` // name and version
	IRVersion int64    `json:"ir_version"`
	Opsets    []Opset  `json:"opsets"`
	Inputs    []Value  `json:"inputs"`
	Outputs   []Value  `json:"outputs"`
	Functions []string `json:"functions,omitempty"`

	Nodes     int        `json:"nodes"`     // of the main graph and of bodies
	Operators []Operator `json:"operators"` // the most frequent first
	Fusions   []Operator `json:"fusions"`   // those of them that stand for several of ONNX's basic operators

	Constants []Constants `json:"constants"` // all initializers by type
	// Parameters are the weights: scales, zero points, tables and shapes do not count. Shared ones
	// count once.
	Parameters int64 `json:"parameters"`
	// WeightBytes is what weights take with their scales and zero points.
	WeightBytes   int64          `json:"weight_bytes"`
	BitsPerWeight float64        `json:"bits_per_weight"`
	Quantization  []Quantization `json:"quantization"`
	KVCache       *KVCache       `json:"kv_cache,omitempty"` // nil where the graph has none
}

// Opset is an operator set that the model imports.
type Opset struct {
	Domain  string `json:"domain"` // "ai.onnx" is ONNX's own
	Version int64  `json:"version"`
}

// Value is an input or an output.
type Value struct {
	Name     string `json:"name"`
	Type     string `json:"type"` // such as float32[batch,4,past,64]
	Optional bool   `json:"optional,omitempty"`
}

// Operator is how often an operator occurs. The name has the domain in front where it is not ONNX's own.
type Operator struct {
	Name  string `json:"name"`
	Count int    `json:"count"`
}

// Constants are the initializers of one type. Those that share their data count once.
type Constants struct {
	DType    string `json:"dtype"`
	Tensors  int    `json:"tensors"`
	Elements int64  `json:"elements"`
	Bytes    int64  `json:"bytes"`
}

// KVCache is the layout of the inputs past_key_values.N.
type KVCache struct {
	Layers  int    `json:"layers"`
	Type    string `json:"type"` // of the first layer's keys
	DType   string `json:"dtype"`
	Heads   int64  `json:"heads"`
	HeadDim int64  `json:"head_dim"` // in numbers, of which there are two in a byte where a cache has 4 bits
	// Shared: only operators read the cache that can write it in place, so past and present may be one
	// buffer of fixed capacity.
	Shared bool `json:"shared"`
	// BytesPerToken is what the cache of all layers takes for one token; 0 where sizes are not fixed.
	BytesPerToken int64 `json:"bytes_per_token"`
}

// Summarize describes a model. It reads no weights.
func Summarize(m *ir.Model) *Summary {
	s := &Summary{
		Producer:  strings.TrimSpace(m.ProducerName + " " + m.ProducerVersion),
		IRVersion: m.IRVersion,
		Inputs:    values(m.Graph.Inputs()),
		Outputs:   values(m.Graph.Outputs()),
		KVCache:   kvCache(m.Graph),
	}
	for _, o := range m.Opsets {
		s.Opsets = append(s.Opsets, Opset{domain(o.Domain), o.Version})
	}
	for _, f := range m.Functions {
		s.Functions = append(s.Functions, domain(f.Domain)+"."+f.Name)
	}
	counts := operators(m.Graph)
	s.Operators, s.Fusions = ranked(counts), []Operator{}
	for _, o := range s.Operators {
		s.Nodes += o.Count
		if slices.Contains(fused, o.Name) {
			s.Fusions = append(s.Fusions, o)
		}
	}
	s.Constants = constants(m.Graph)
	s.weigh(m.Graph)
	return s
}

// fused are the operators that stand for several basic ones, by the names that opName gives.
var fused = []string{
	"Attention", "RMSNormalization", "RotaryEmbedding", "LayerNormalization", "SimplifiedLayerNormalization", "Gelu", "Swish",
	"com.microsoft.Attention", "com.microsoft.BiasGelu", "com.microsoft.DynamicQuantizeMatMul", "com.microsoft.FastGelu",
	"com.microsoft.FusedMatMul", "com.microsoft.GatherBlockQuantized", "com.microsoft.GroupQueryAttention",
	"com.microsoft.MatMulIntegerToFloat", "com.microsoft.MatMulNBits", "com.microsoft.MultiHeadAttention",
	"com.microsoft.PackedMultiHeadAttention", "com.microsoft.QLinearMul", "com.microsoft.QuickGelu",
	"com.microsoft.RotaryEmbedding", "com.microsoft.SkipLayerNormalization",
	"com.microsoft.SkipSimplifiedLayerNormalization", "com.microsoft.SparseAttention",
}

func domain(d string) string {
	if d == "" {
		return "ai.onnx"
	}
	return d
}

// opName is an operator's name with its domain, unless that is ONNX's own.
func opName(n *ir.Node) string {
	if n.Is("", n.OpType) {
		return n.OpType
	}
	return n.Domain + "." + n.OpType
}

// operators counts the nodes of a graph and of its bodies.
func operators(g *ir.Graph) map[string]int {
	counts := map[string]int{}
	g.Walk(func(n *ir.Node) { counts[opName(n)]++ })
	return counts
}

// ranked sorts by count, and by name where that is the same.
func ranked(counts map[string]int) []Operator {
	list := make([]Operator, 0, len(counts))
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		list = append(list, Operator{name, counts[name]})
	}
	slices.SortStableFunc(list, func(a, b Operator) int { return cmp.Compare(b.Count, a.Count) })
	return list
}

func values(vs []*ir.Value) []Value {
	list := make([]Value, len(vs))
	for i, v := range vs {
		list[i] = Value{v.Name, typeText(v.Type), v.IsInput() && v.Const != nil}
	}
	return list
}

// typeText is a type such as float32[batch,4,past,64], "?" where it is not known.
func typeText(t *ir.Type) string {
	if t == nil {
		return "?"
	}
	if !t.HasShape() {
		return t.DType.String()
	}
	dims := make([]string, len(t.Shape))
	for i, d := range t.Shape {
		switch {
		case d.Size >= 0:
			dims[i] = strconv.FormatInt(d.Size, 10)
		case d.Param != "":
			dims[i] = d.Param
		default:
			dims[i] = "?"
		}
	}
	return fmt.Sprintf("%v[%s]", t.DType, strings.Join(dims, ","))
}

func tensorText(t *ir.Tensor) string {
	return t.DType.String() + strings.ReplaceAll(fmt.Sprint(t.Shape), " ", ",")
}

func constants(g *ir.Graph) []Constants {
	byType := map[ir.DType]*Constants{}
	seen := map[ir.Data]bool{}
	for _, v := range g.Initializers() {
		t := v.Const
		if t.Data != nil && seen[t.Data] {
			continue
		}
		seen[t.Data] = true
		c := byType[t.DType]
		if c == nil {
			c = &Constants{DType: t.DType.String()}
			byType[t.DType] = c
		}
		c.Tensors++
		c.Elements += t.Len()
		c.Bytes += t.ByteLen()
	}
	list := make([]Constants, 0, len(byType))
	for _, d := range slices.Sorted(maps.Keys(byType)) {
		list = append(list, *byType[d])
	}
	slices.SortStableFunc(list, func(a, b Constants) int { return cmp.Compare(b.Bytes, a.Bytes) })
	return list
}

var pastName = regexp.MustCompile(`^past_key_values\.(\d+)\.key$`)

func kvCache(g *ir.Graph) *KVCache {
	var c *KVCache
	packed := false
	for _, in := range g.Inputs() {
		if !strings.HasPrefix(in.Name, "past_key_values.") || in.Type == nil {
			continue
		}
		if c == nil {
			c = &KVCache{Type: typeText(in.Type), DType: in.Type.DType.String(), Shared: true}
			if dims := in.Type.Shape; len(dims) == 4 {
				c.Heads, c.HeadDim = max(dims[1].Size, 0), max(dims[3].Size, 0)
			}
		}
		if pastName.MatchString(in.Name) {
			c.Layers++
		}
		for _, u := range in.Uses() {
			c.Shared = c.Shared && u.Node.Is("com.microsoft", "GroupQueryAttention")
		}
		c.BytesPerToken += c.Heads * c.HeadDim * int64(in.Type.DType.Bits()) / 8
		packed = packed || len(in.Uses()) > 0 && in.Uses()[0].Node.Int("kv_cache_bit_width", 0) == 4
	}
	if packed {
		c.HeadDim *= 2
	}
	return c
}
