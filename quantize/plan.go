package quantize

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// What a model can be refused for.
var (
	// ErrNothing is reported for a graph without a weight that can be quantised.
	ErrNothing = errors.New("nothing to quantise")
	// ErrQuantized is reported for a graph that holds quantised weights already.
	ErrQuantized = errors.New("the model is already quantised")
)

// Plan is what is to be done to a model: all decisions, and no weight read yet.
type Plan struct {
	model   *ir.Model
	set     settings
	weights []*weight // in the order in which the graph first reads them
	sites   []site    // in graph order
	kept    []Kept
	applied bool
	before  totals // all float weights
	rest    totals // those that are still float after Apply
}

// totals is the extent of a set of tensors.
type totals struct{ weights, bytes int64 }

// floats adds up the float initializers of g, each Data once.
func floats(g *ir.Graph) totals {
	var sum totals
	seen := map[ir.Data]bool{}
	for _, v := range g.Initializers() {
		t := v.Const
		if t.DType.Float() && !seen[t.Data] {
			seen[t.Data] = true
			sum.weights += t.Len()
			sum.bytes += t.ByteLen()
		}
	}
	return sum
}

// Decision is what is done to one weight.
type Decision struct {
	Tensor        string // name of the initializer
	Nodes         []string
	Rows, Columns int64 // outputs and inputs of a product; vocabulary and width of an embedding
	Method        Method
	Format        Format
	AccuracyLevel int // of the products; 0 where the weight is only looked up
}

// Kept is a weight that is left as it is, and why.
type Kept struct {
	Tensor string `json:"tensor"`
	Node   string `json:"node"`
	Reason string `json:"reason"`
}

// weight is a matrix to be quantised, once for all nodes that read it.
type weight struct {
	name   string
	rows   *ir.Tensor // [N, K] in the graph's type
	format Format
	p      *producer
	before int64 // bytes
	match  bool  // read by a product
	lookup bool  // read by Gather
}

// site is a node to be replaced.
type site struct {
	node *ir.Node
	w    *weight
}

// NewPlan decides what to do to m. It reads no weight and changes nothing. All faults are reported at
// once: options out of range, globs that match nothing, a model that is quantised already or has
// nothing to quantise, weights of a type that the operators do not take.
func NewPlan(m *ir.Model, o Options) (*Plan, error) {
	set, err := o.resolve()
	if err != nil {
		return nil, err
	}
	if err := checkFloat(m.Graph); err != nil {
		return nil, err
	}
	b := planner{
		Plan:  &Plan{model: m, set: set, before: floats(m.Graph)},
		views: map[viewKey]*ir.Tensor{}, weights: map[weightKey]*weight{}, globs: make([]bool, len(o.Exclude)),
	}
	m.Graph.Walk(b.visit)
	for i, hit := range b.globs {
		if !hit {
			b.fault("exclude %q matches no weight", o.Exclude[i])
		}
	}
	if len(b.faults) > 0 {
		return nil, fmt.Errorf("quantize: %w", oneLine{b.faults})
	}
	if len(b.sites) == 0 {
		return nil, fmt.Errorf("quantize: %w: no MatMul or embedding with a constant float matrix%s", ErrNothing, b.because())
	}
	return b.Plan, nil
}

// checkFloat refuses a graph with quantised weights: quantising what is left would compare to nothing
// that the report could tell.
func checkFloat(g *ir.Graph) (err error) {
	g.Walk(func(n *ir.Node) {
		if err != nil {
			return
		}
		switch n.OpType {
		case "MatMulNBits", "GatherBlockQuantized", "MatMulBnb4", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QLinearMatMul", "MatMulInteger":
		case "DequantizeLinear":
			if c := resolve(n.Input(0)); c == nil || c.view.Rank() < 2 {
				return
			}
		default:
			return
		}
		err = fmt.Errorf("quantize: %w: it has %v; start from the float model", ErrQuantized, n)
	})
	return err
}

// Decisions lists what is done, in the order in which the graph reads the weights.
func (p *Plan) Decisions() []Decision {
	nodes := map[*weight][]string{}
	for _, s := range p.sites {
		nodes[s.w] = append(nodes[s.w], s.node.String())
	}
	all := make([]Decision, len(p.weights))
	for i, w := range p.weights {
		all[i] = Decision{Tensor: w.name, Nodes: nodes[w], Rows: w.rows.Shape[0], Columns: w.rows.Shape[1], Method: p.set.Method, Format: w.format}
		if w.match {
			all[i].AccuracyLevel = p.set.AccuracyLevel
		}
	}
	return all
}

// Kept lists the weights that are left as they are.
func (p *Plan) Kept() []Kept { return append([]Kept(nil), p.kept...) }

// planner is what making a plan needs to remember.
type planner struct {
	*Plan
	views   map[viewKey]*ir.Tensor
	weights map[weightKey]*weight
	globs   []bool // Exclude[i] has matched
	faults  []error
}

// viewKey makes one view of one initializer: a transposed view has an identity of its own.
type viewKey struct {
	root    ir.Data
	flipped bool
	dtype   ir.DType
	n, k    int64
}

// weightKey is what two operands share if they read one weight: the data in the order of rows, and the
// type that the graph computes in.
type weightKey struct {
	rows  ir.Data
	dtype ir.DType
	n, k  int64
}

func (b *planner) fault(format string, args ...any) {
	b.faults = append(b.faults, fmt.Errorf(format, args...))
}

// because gives reasons for which everything was left alone.
func (b *planner) because() string {
	if len(b.kept) == 0 {
		return ""
	}
	k := b.kept[0]
	return fmt.Sprintf(" (%s: %s)", k.Tensor, k.Reason)
}

// visit decides about one node.
func (b *planner) visit(n *ir.Node) {
	switch {
	case n.Output(0) == nil:
	case n.Is("", "MatMul"):
		b.product(n, false)
	case n.Is("com.microsoft", "FusedMatMul"):
		b.product(n, n.Int("transB", 0) != 0)
	case n.Is("", "Gather"):
		b.embedding(n)
	}
}

// product decides about x times a constant matrix, [K, N] or transposed [N, K].
func (b *planner) product(n *ir.Node, transB bool) {
	c := resolve(n.Input(1))
	if c == nil || !c.view.DType.Float() {
		return
	}
	if reason := whyNotProduct(n, c, transB); reason != "" {
		b.keep(c, n, reason)
		return
	}
	b.add(n, c, !transB, func(w *weight) { w.match = true })
}

func whyNotProduct(n *ir.Node, c *constant, transB bool) string {
	switch {
	case c.view.Rank() != 2:
		return fmt.Sprintf("shape %v is not a matrix", c.view.Shape)
	case n.Float("alpha", 1) != 1 || n.Int("transA", 0) != 0 || n.Int("transBatchA", 0) != 0 || n.Int("transBatchB", 0) != 0:
		return "the product scales or transposes its operands"
	}
	k, outputs := c.view.Shape[0], c.view.Shape[1]
	if transB {
		k, outputs = outputs, k
	}
	if outputs == 0 {
		return "it has no outputs"
	}
	if k < minBlock {
		return fmt.Sprintf("%d inputs are less than the smallest block", k)
	}
	if x := n.Input(0); x != nil && x.Type.HasShape() && len(x.Type.Shape) < 2 {
		return "the other operand is a vector"
	}
	return ""
}

// embedding decides about rows taken from a constant table.
func (b *planner) embedding(n *ir.Node) {
	c := resolve(n.Input(0))
	if c == nil || !c.view.DType.Float() || c.view.Rank() != 2 {
		return // indices and shapes are looked up in every graph: not worth a word
	}
	axis, columns := n.Int("axis", 0), c.view.Shape[1]
	switch {
	case axis != 0 && axis != -2:
		b.keep(c, n, "looked up along its columns")
	case !fromInputIDs(n.Input(1)):
		b.keep(c, n, "not looked up by input_ids, so it may be a table of positions")
	case b.set.FloatEmbedding:
		b.keep(c, n, "embeddings stay in their type")
	case c.view.Shape[0] == 0:
		b.keep(c, n, "it has no rows")
	case columns < minBlock || columns*int64(b.set.format.Bits)%8 != 0:
		b.keep(c, n, fmt.Sprintf("rows of %d do not fill whole bytes or blocks", columns))
	default:
		b.add(n, c, false, func(w *weight) { w.lookup = true })
	}
}

// fromInputIDs reports whether indices are the token ids that the model is given. Tables that are read
// by position (rotary cosines and sines) must not be quantised.
func fromInputIDs(v *ir.Value) bool {
	for range maxChain {
		if v == nil {
			return false
		}
		if v.IsInput() {
			return strings.HasSuffix(v.Name, "input_ids")
		}
		n := v.Producer()
		if n == nil {
			return false
		}
		switch n.OpType {
		case "Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze":
		default:
			return false
		}
		v = n.Input(0)
	}
	return false
}

// add takes the weight c of node n into the plan, unless a glob excludes it. flip says that rows are
// the columns of what the node sees.
func (b *planner) add(n *ir.Node, c *constant, flip bool, use func(*weight)) {
	if b.excluded(c.name) {
		b.keep(c, n, "excluded")
		return
	}
	switch c.view.DType {
	case ir.Float32, ir.Float16, ir.BFloat16:
	default:
		b.fault("%s of %v is %v: block formats take float32, float16 or bfloat16", c.name, n, c.view.DType)
		return
	}
	rows, err := b.rows(c, flip)
	if err != nil {
		b.fault("%s of %v: %w", c.name, n, err)
		return
	}
	source := stored(rows)
	key := weightKey{source.Data, rows.DType, rows.Shape[0], rows.Shape[1]}
	w := b.weights[key]
	if w == nil {
		w = &weight{name: c.name, rows: rows, format: b.set.format, before: c.root.ByteLen()}
		w.p = newProducer(c.name, source, w.format, rows.DType)
		b.weights[key] = w
		b.Plan.weights = append(b.Plan.weights, w)
	}
	use(w)
	b.sites = append(b.sites, site{n, w})
}

// rows is the weight with a row for each output, one tensor for all nodes that see it.
func (b *planner) rows(c *constant, flip bool) (*ir.Tensor, error) {
	n, k := c.view.Shape[0], c.view.Shape[1]
	if flip {
		n, k = k, n
	}
	key := viewKey{c.root.Data, c.flipped != flip, c.view.DType, n, k}
	if t := b.views[key]; t != nil {
		return t, nil
	}
	t := c.view
	if flip {
		var err error
		if t, err = ir.Transpose(t); err != nil {
			return nil, err
		}
	}
	b.views[key] = t
	return t, nil
}

func (b *planner) excluded(name string) bool {
	out := false
	for i, glob := range b.set.Exclude {
		if ok, _ := path.Match(glob, name); ok {
			b.globs[i], out = true, true
		}
	}
	return out
}

func (b *planner) keep(c *constant, n *ir.Node, reason string) {
	b.excluded(c.name) // a glob for it has done its work
	b.kept = append(b.kept, Kept{c.name, n.String(), reason})
}
