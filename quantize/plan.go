package quantize

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
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
	rounded map[*ir.Value]*ir.Value // activations, and what they are in 8 bits and back
	before  totals                  // all float weights
	rest    totals                  // those that are still float after Apply
}

// totals is the extent of a set of tensors.
type totals struct{ weights, bytes int64 }

// floats adds up the float weights of g, each Data once. Rotary tables are none: they are computed from the
// configuration, and as long as the context, not the model, is. Nor are scales of quantised weights.
func floats(g *ir.Graph) totals {
	var sum totals
	seen := map[ir.Data]bool{}
	for _, v := range g.Initializers() {
		t := v.Const
		if t.DType.Float() && !seen[t.Data] && !rotary(v) && !scale(v) {
			seen[t.Data] = true
			sum.weights += t.Len()
			sum.bytes += t.ByteLen()
		}
	}
	return sum
}

// scale reports whether v is the scales of weights that are quantised already.
func scale(v *ir.Value) bool {
	for _, u := range v.Uses() {
		if u.Index != 2 || !u.Node.Is(microsoft, "MatMulNBits") && !u.Node.Is(microsoft, "GatherBlockQuantized") {
			return false
		}
	}
	return v.NumUses() > 0
}

// rotary reports whether v is a table of cosines or sines: read by attention as such, or looked up by position.
func rotary(v *ir.Value) bool {
	for _, u := range v.Uses() {
		n := u.Node
		switch {
		case n.Is(microsoft, "GroupQueryAttention") && (n.Input(7) == v || n.Input(8) == v):
		case n.Is(microsoft, "RotaryEmbedding") && (n.Input(2) == v || n.Input(3) == v):
		case n.Is("", "RotaryEmbedding") && (n.Input(1) == v || n.Input(2) == v):
		case n.Is("", "Gather") && n.Input(0) == v && v.Const.Rank() == 2 && !fromInputIDs(n.Input(1)):
		default:
			return false
		}
	}
	return v.NumUses() > 0
}

// Decision is what is done to one weight.
type Decision struct {
	Tensor        string // name of the initializer
	Nodes         []string
	Rows, Columns int64 // outputs and inputs of a product; vocabulary and width of an embedding
	Method        Method
	Scale         Scale // of RTN
	Format        Format
	AccuracyLevel int // of the products, the lowest where they differ; 0 where the weight is only looked up
}

// Kept is a weight that is left as it is, and why.
type Kept struct {
	Tensor string `json:"tensor"`
	Node   string `json:"node"`
	Reason string `json:"reason"`
}

// weight is a matrix to be quantised, once for all nodes that read it in the same form.
type weight struct {
	form
	name   string
	root   *ir.Tensor // the initializer
	turned bool       // its rows are columns of root
	rows   *ir.Tensor // [N, K] in the graph's type
	scales ir.DType   // in which its scales are stored
	p      *producer  // of block formats
	c      *channels  // of products in integers
	asked  Precision  // DynamicInt8 or StaticInt8; "" for blocks
	reason string     // for blocks where integers are asked for
	levels *ir.Value  // of products in integers, once the plan has been applied
	before int64      // bytes
	chosen bool       // a rule has named the format
	match  bool       // read by a product
	lookup bool       // read by Gather
}

// n is the number of outputs of w, k that of its inputs.
func (w *weight) n() int64 { return w.rows.Shape[0] }
func (w *weight) k() int64 { return w.rows.Shape[1] }

// site is a node to be replaced.
type site struct {
	node  *ir.Node
	w     *weight
	level int // accuracy level; 0: no product
}

// NewPlan decides what to do to m. It reads no weight and changes nothing. All faults are reported at
// once: options out of range, globs that match nothing, a model that is quantised already or has
// nothing to quantise, weights of a type that the operators do not take.
func NewPlan(m *ir.Model, o Options) (*Plan, error) {
	set, err := o.resolve()
	if err != nil {
		return nil, err
	}
	if o.Precision == StaticInt8 && len(o.Int8.Activations) == 0 {
		return nil, fmt.Errorf("quantize: %s: %w: there are no ranges of activations", o.Precision, ErrNotCalibrated)
	}
	return newPlan(m, set)
}

// newPlan is NewPlan where ranges of activations may still be missing.
func newPlan(m *ir.Model, set settings) (*Plan, error) {
	if err := checkFloat(m.Graph); err != nil && !set.Mixed {
		return nil, err
	}
	b := planner{
		Plan:  &Plan{model: m, set: set, before: floats(m.Graph), rounded: map[*ir.Value]*ir.Value{}},
		views: map[viewKey]*ir.Tensor{}, weights: map[weightKey]*weight{}, matched: make([]bool, len(set.Rules)),
	}
	m.Graph.Walk(b.visit)
	for i, hit := range b.matched {
		if !hit {
			b.fault("rule %q matches no weight: there are %s", set.Rules[i], b.names())
		}
	}
	if len(b.faults) > 0 {
		return nil, fmt.Errorf("quantize: %w", oneLine{b.faults})
	}
	if len(b.sites) == 0 && !set.Mixed {
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
	all := make([]Decision, len(p.weights))
	index := map[*weight]*Decision{}
	for i, w := range p.weights {
		all[i] = Decision{Tensor: w.name, Rows: w.rows.Shape[0], Columns: w.rows.Shape[1], Method: w.method, Scale: w.scale, Format: w.format}
		index[w] = &all[i]
	}
	for _, s := range p.sites {
		d := index[s.w]
		d.Nodes = append(d.Nodes, s.node.String())
		if s.level != 0 && (d.AccuracyLevel == 0 || s.level < d.AccuracyLevel) {
			d.AccuracyLevel = s.level
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
	matched []bool // Rules[i] has
	faults  []error
}

// viewKey makes one view of one initializer: a transposed view has an identity of its own.
type viewKey struct {
	root    ir.Data
	flipped bool
	dtype   ir.DType
	n, k    int64
}

// weightKey is what two operands share if they read one weight: the data in the order of rows, the type
// that the graph computes in, and the form in which it is to be stored.
type weightKey struct {
	form
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
	r := b.recipe(c, n) // also of what is kept: a rule for it has done its work
	if reason := whyNotProduct(n, c, transB); reason != "" {
		b.keep(c, n, reason)
		return
	}
	asked, reason := b.integers(n, c, r)
	if asked != "" && reason == "" {
		r = recipe{form: form{Method(asked), "", perChannel}, chosen: r.chosen}
	}
	if w := b.add(n, c, !transB, r); w != nil {
		w.match, w.asked, w.reason = true, asked, reason
		b.sites = append(b.sites, site{n, w, r.level})
	}
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
	axis, columns, r := n.Int("axis", 0), c.view.Shape[1], b.recipe(c, n)
	switch {
	case axis != 0 && axis != -2:
		b.keep(c, n, "looked up along its columns")
	case !fromInputIDs(n.Input(1)):
		b.keep(c, n, "not looked up by input_ids, so it may be a table of positions")
	case b.set.FloatEmbedding:
		b.keep(c, n, "embeddings stay in their type")
	case c.view.Shape[0] == 0:
		b.keep(c, n, "it has no rows")
	case columns < minBlock || columns*int64(r.format.Bits)%8 != 0:
		b.keep(c, n, fmt.Sprintf("rows of %d do not fill whole bytes or blocks", columns))
	default:
		if w := b.add(n, c, false, r); w != nil {
			w.lookup = true
			b.sites = append(b.sites, site{n, w, 0})
		}
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

// add takes the weight c of node n into the plan, unless a rule keeps it; then it gives nil. flip says
// that rows are the columns of what the node sees.
func (b *planner) add(n *ir.Node, c *constant, flip bool, r recipe) *weight {
	if r.keep {
		b.keep(c, n, "a rule keeps it")
		return nil
	}
	switch c.view.DType {
	case ir.Float32, ir.Float16, ir.BFloat16:
	default:
		b.fault("%s of %v is %v: block formats take float32, float16 or bfloat16", c.name, n, c.view.DType)
		return nil
	}
	rows, err := b.rows(c, flip)
	if err != nil {
		b.fault("%s of %v: %w", c.name, n, err)
		return nil
	}
	source := stored(rows)
	key := weightKey{r.form, source.Data, rows.DType, rows.Shape[0], rows.Shape[1]}
	w := b.weights[key]
	if w == nil {
		w = &weight{form: r.form, name: c.name, root: c.root, turned: c.flipped != flip, rows: rows, scales: rows.DType, before: c.root.ByteLen()}
		if b.set.HalfScales && w.scales == ir.Float32 {
			w.scales = ir.Float16
		}
		if w.format == perChannel {
			w.c = newChannels(c.name, source, b.set.Int8.Weights)
		} else {
			w.p = newProducer(c.name, source, w.form, w.scales)
		}
		b.weights[key] = w
		b.Plan.weights = append(b.Plan.weights, w)
	}
	w.chosen = w.chosen || r.chosen
	return w
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

var number = regexp.MustCompile(`\b\d+\b`)

// names lists the weights for a message: those of all layers as one, and not all where there are many.
func (b *planner) names() string {
	const most = 12
	var all []string
	add := func(name string) {
		if name = number.ReplaceAllString(name, "*"); !slices.Contains(all, name) && len(all) <= most {
			all = append(all, name)
		}
	}
	for _, w := range b.Plan.weights {
		add(w.name)
	}
	for _, k := range b.kept {
		add(k.Tensor)
	}
	if len(all) > most {
		all[most] = "..."
	}
	return cmp.Or(strings.Join(all, ", "), "none")
}

// recipe is what options and rules say about the weight c where n reads it.
func (b *planner) recipe(c *constant, n *ir.Node) recipe {
	r := b.set.base
	for i, rule := range b.set.Rules {
		if rule.matches(c.name) || rule.matches(n.Name) {
			b.matched[i] = true
			r = rule.apply(r)
		}
	}
	if r.method == HQQ {
		r.scale = "" // it has its own
	}
	return r
}

func (b *planner) keep(c *constant, n *ir.Node, reason string) {
	b.kept = append(b.kept, Kept{c.name, n.String(), reason})
}
