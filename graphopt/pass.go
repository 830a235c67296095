package graphopt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Target is the execution provider for which forms are chosen.
type Target string

// The targets.
const (
	CPU    Target = "cpu"
	CUDA   Target = "cuda"
	CoreML Target = "coreml"
)

// ParseTarget reads a target's name.
func ParseTarget(s string) (Target, error) {
	switch t := Target(s); t {
	case CPU, CUDA, CoreML:
		return t, nil
	}
	return "", fmt.Errorf("graphopt: unknown target %q: use cpu, cuda or coreml", s)
}

// Pass is one step of the optimiser.
type Pass struct {
	Name  string   // as in --passes and --disable
	Doc   string   // one line: what it does
	Needs string   // one line: what a graph must have for it, and what it should run behind
	After []string // passes that must come earlier if they run at all
	// Targets for which the pass is worth running; all if empty.
	Targets []Target
	// Check, if there is one, finds faults in the options that the pass reads, before any pass runs.
	Check func(Options) error
	// Run applies the pass and gives how many times it changed something.
	Run func(*Unit) (int, error)
}

// Rule replaces one form of subgraph by another.
type Rule struct {
	Name    string
	Doc     string
	Pattern *Pattern
	// Check may decline a match that has the right shape; the error is the reason.
	Check func(*Match) error
	// Rewrite adds the new nodes and gives the value that stands for the root's result from then
	// on. Nil: it has redirected all readers itself. An error ends the run.
	Rewrite func(*Match) (*ir.Value, error)
}

// Options of a run. The zero value optimises for the CPU.
type Options struct {
	Target Target // default CPU
	// MaxPositions is the number of positions for which rotary tables are made: the model's
	// context length. Required by the attention pass.
	MaxPositions int64
	// DType is what the precision pass gives weights, activations and KV cache: float16 or bfloat16.
	// Default: they stay what they are.
	DType ir.DType
	// KeepFloat32 names operators, as "Sigmoid", and nodes, as "/model/layers.0/*", that the precision pass
	// leaves in float32. In the names of nodes * stands for any text, and ? for a character.
	KeepFloat32 []string
	// NarrowLogits gives the logits DType too. Default: float32.
	NarrowLogits bool
	// Lenient goes on without what the target does not support, which Trace is told; else that is an error.
	Lenient bool
	// Static are fixed lengths for a target that wants them; see the static pass. Default: none.
	Static Lengths
	// Only, if not empty, names the passes to run; Disable names those to leave out.
	Only, Disable []string
	// Trace, if set, is told of every match, decline and near miss.
	Trace func(Event)
}

// Lengths fix the dimensions of a decoder with a KV cache. Sequence is the number of new tokens of a run, Total
// that of new and cached tokens together.
type Lengths struct{ Batch, Sequence, Total int64 }

// Event is something that a rule did or did not do.
type Event struct {
	Pass, Rule string
	Kind       EventKind
	Node       string   // where the match ends
	Reason     string   // why not
	Nodes      []string // inside the match, or the node at which matching stopped
}

// EventKind says what kind of event it is.
type EventKind uint8

// The kinds of events.
const (
	Applied  EventKind = iota // the rule rewrote a match
	Declined                  // the pattern fits, the rule's check or a reader outside forbids it
	NearMiss                  // at least three nodes fit, then one did not
)

// String gives the kind's name.
func (k EventKind) String() string { return [...]string{"applied", "declined", "near miss"}[k] }

// Unit is what a pass works on.
type Unit struct {
	Model *ir.Model
	Options
	ctx   context.Context
	pass  string
	types *types
}

// Context is the run's context.
func (u *Unit) Context() context.Context { return u.ctx }

// Applied records, for a pass that is not made of rules, that it changed something at node.
func (u *Unit) Applied(rule, node string) { u.trace(Event{Rule: rule, Kind: Applied, Node: node}) }

// Decline records why a pass that is not made of rules left something alone.
func (u *Unit) Decline(rule, node string, reason error) {
	u.trace(Event{Rule: rule, Kind: Declined, Node: node, Reason: reason.Error()})
}

func (u *Unit) trace(e Event) {
	if u.Trace != nil {
		e.Pass = u.pass
		u.Trace(e)
	}
}

// Report says what a run did.
type Report struct {
	Passes                  []Count
	NodesBefore, NodesAfter int
}

// Count says how often one pass changed something.
type Count struct {
	Name  string `json:"name"`
	Count int    `json:"count"`
}

// Check finds faults in a list of passes and in the options for them: missing documentation, double
// names, a wrong order, names that no pass has, passes asked for that do not serve the target. All
// faults are reported at once.
func Check(passes []*Pass, o Options) error {
	var faults []error
	if o.Target == "" {
		o.Target = CPU
	}
	if _, err := ParseTarget(string(o.Target)); err != nil {
		faults = append(faults, err)
	}
	seen := map[string]int{}
	for i, p := range passes {
		if p.Name == "" || p.Doc == "" || p.Run == nil {
			faults = append(faults, fmt.Errorf("graphopt: pass %d (%q) lacks a name, a description or a function", i, p.Name))
		}
		if _, dup := seen[p.Name]; dup {
			faults = append(faults, fmt.Errorf("graphopt: two passes are named %q", p.Name))
		}
		seen[p.Name] = i
	}
	for i, p := range passes {
		for _, a := range p.After {
			if j, ok := seen[a]; ok && j > i {
				faults = append(faults, fmt.Errorf("graphopt: pass %q must run after %q", p.Name, a))
			}
		}
	}
	for _, name := range slices.Concat(o.Only, o.Disable) {
		if _, ok := seen[name]; !ok {
			names := make([]string, len(passes))
			for i, p := range passes {
				names[i] = p.Name
			}
			faults = append(faults, fmt.Errorf("graphopt: unknown pass %q: there are %s", name, strings.Join(names, ", ")))
		}
	}
	for _, p := range passes {
		if slices.Contains(o.Only, p.Name) && !p.serves(o.Target) {
			faults = append(faults, fmt.Errorf("graphopt: pass %q does not serve target %s", p.Name, o.Target))
		}
		if p.Check != nil && o.runs(p) {
			if err := p.Check(o); err != nil {
				faults = append(faults, fmt.Errorf("graphopt: pass %s: %w", p.Name, err))
			}
		}
	}
	return errors.Join(faults...)
}

func (p *Pass) serves(t Target) bool { return len(p.Targets) == 0 || slices.Contains(p.Targets, t) }

// runs reports whether p is among the passes that are asked for.
func (o *Options) runs(p *Pass) bool {
	return (len(o.Only) == 0 || slices.Contains(o.Only, p.Name)) && !slices.Contains(o.Disable, p.Name) && p.serves(o.Target)
}

// Run applies passes to a model in order. The model is changed in place; after an error it must
// not be used.
func Run(ctx context.Context, m *ir.Model, passes []*Pass, o Options) (*Report, error) {
	if o.Target == "" {
		o.Target = CPU
	}
	if err := Check(passes, o); err != nil {
		return nil, err
	}
	if err := m.Validate(); err != nil {
		return nil, err
	}
	r := &Report{NodesBefore: m.Graph.NumNodes()}
	for _, p := range passes {
		if !o.runs(p) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n, err := p.Run(&Unit{Model: m, Options: o, ctx: ctx, pass: p.Name})
		if err != nil {
			return nil, fmt.Errorf("graphopt: pass %s: %w", p.Name, err)
		}
		if err := m.Graph.Sort(); err != nil {
			return nil, fmt.Errorf("graphopt: pass %s: %w", p.Name, err)
		}
		m.Graph.Prune()
		if err := m.Validate(); err != nil {
			return nil, fmt.Errorf("graphopt: pass %s left a broken graph: %w", p.Name, err)
		}
		r.Passes = append(r.Passes, Count{p.Name, n})
	}
	r.NodesAfter = m.Graph.NumNodes()
	return r, nil
}

// ErrSteps is reported when rules keep rewriting each other's results.
var ErrSteps = errors.New("graphopt: rules do not come to an end")

// stepsPerNode bounds the rewrites of one pass: each rule makes the graph smaller or ends a chain,
// so a run that needs more goes in circles.
const stepsPerNode = 4

// Apply runs rules over the main graph until none fits any more. Nodes are visited in topological
// order and rules in the order given, so the result does not depend on anything else.
func (u *Unit) Apply(rules ...*Rule) (int, error) {
	byRoot := map[string][]*Rule{}
	for _, r := range rules {
		if r.Name == "" || r.Doc == "" || r.Pattern == nil || r.Rewrite == nil || len(r.Pattern.roots()) == 0 {
			return 0, fmt.Errorf("rule %q lacks a name, a description, a pattern that ends in an operator, or a rewrite", r.Name)
		}
		for _, op := range r.Pattern.roots() {
			byRoot[op] = append(byRoot[op], r)
		}
	}
	g := u.Model.Graph
	limit := stepsPerNode*g.NumNodes() + 64
	total := 0
	for {
		changed := 0
		for _, n := range g.Nodes() {
			for _, r := range byRoot[n.OpType] {
				if n.Removed() {
					break
				}
				if err := u.ctx.Err(); err != nil {
					return total, err
				}
				ok, err := u.applyAt(r, n)
				if err != nil {
					return total, fmt.Errorf("rule %s at %v: %w", r.Name, n, err)
				}
				if ok {
					changed++
				}
			}
			if total+changed > limit {
				return total, ErrSteps
			}
		}
		total += changed
		if changed == 0 {
			return total, nil
		}
		if err := g.Sort(); err != nil {
			return total, err
		}
		g.Prune()
	}
}

// nearMissNodes is how many nodes must fit before a failed match is worth reporting.
const nearMissNodes = 3

func (u *Unit) applyAt(r *Rule, n *ir.Node) (bool, error) {
	m, miss := try(u, r.Pattern, n)
	if m == nil {
		if miss.depth >= nearMissNodes {
			e := Event{Rule: r.Name, Kind: NearMiss, Node: n.String(), Reason: miss.reason}
			if miss.node != nil {
				e.Nodes = []string{miss.node.String()}
			}
			u.trace(e)
		}
		return false, nil
	}
	decline := func(reason string) (bool, error) {
		u.trace(Event{Rule: r.Name, Kind: Declined, Node: n.String(), Reason: reason, Nodes: names(m.Nodes)})
		return false, nil
	}
	if v := m.leak(); v != nil {
		return decline(fmt.Sprintf("%q is also read outside of the match", v.Name))
	}
	if r.Check != nil {
		if err := r.Check(m); err != nil {
			return decline(err.Error())
		}
	}
	inside := names(m.Nodes)
	v, err := r.Rewrite(m)
	if err != nil {
		return false, err
	}
	if v != nil {
		if err := m.Graph.Replace(n.Output(0), v); err != nil {
			return false, err
		}
	}
	removeDead(m)
	u.trace(Event{Rule: r.Name, Kind: Applied, Node: n.String(), Nodes: inside})
	return true, nil
}

// removeDead takes the nodes of a match out of the graph as far as nothing reads them any more,
// so that the rest of the sweep does not see them.
func removeDead(m *Match) {
	for again := true; again; {
		again = false
		for _, n := range m.Nodes {
			if n.Removed() {
				continue
			}
			dead := !slices.ContainsFunc(n.Outputs(), func(o *ir.Value) bool { return o != nil && o.NumUses() > 0 })
			if dead && m.Graph.Remove(n) == nil {
				again = true
			}
		}
	}
}

func names(ns []*ir.Node) []string {
	out := make([]string, len(ns))
	for i, n := range ns {
		out[i] = n.String()
	}
	return out
}

// Require imports an operator set that a rewrite uses. Those of ONNX Runtime have version 1.
func Require(m *ir.Model, domain string) { m.RequireOpset(domain, 1) }
