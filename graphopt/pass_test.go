package graphopt_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/graphtest"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

func nothing(*g.Unit) (int, error) { return 0, nil }

// All faults of a list and of its options are reported at once.
func TestCheck(t *testing.T) {
	ok := func(name string) *g.Pass { return &g.Pass{Name: name, Doc: "does nothing", Run: nothing} }
	onlyCPU := ok("cpu-only")
	onlyCPU.Targets = []g.Target{g.CPU}
	late := ok("late")
	late.After = []string{"early", "absent"}
	cases := []struct {
		why    string
		passes []*g.Pass
		o      g.Options
		faults []string
	}{
		{"a good list", []*g.Pass{ok("early"), late}, g.Options{Only: []string{"late"}, Disable: []string{"early"}}, nil},
		{"no name, no description, no function", []*g.Pass{{}, {Name: "a", Run: nothing}, {Name: "b", Doc: "b"}}, g.Options{},
			[]string{`pass 0 ("") lacks`, `pass 1 ("a") lacks`, `pass 2 ("b") lacks`}},
		{"one name twice", []*g.Pass{ok("a"), ok("a")}, g.Options{}, []string{`two passes are named "a"`}},
		{"a wrong order", []*g.Pass{late, ok("early")}, g.Options{}, []string{`pass "late" must run after "early"`}},
		{"names that no pass has", []*g.Pass{ok("a"), ok("b")}, g.Options{Only: []string{"x"}, Disable: []string{"y"}},
			[]string{`unknown pass "x": there are a, b`, `unknown pass "y"`}},
		{"a target that there is not", []*g.Pass{ok("a")}, g.Options{Target: "tpu"}, []string{`unknown target "tpu"`}},
		{"a pass asked for that does not serve the target", []*g.Pass{onlyCPU}, g.Options{Target: g.CoreML, Only: []string{"cpu-only"}},
			[]string{`pass "cpu-only" does not serve target coreml`}},
	}
	for _, c := range cases {
		t.Run(c.why, func(t *testing.T) {
			err := g.Check(c.passes, c.o)
			if c.faults == nil {
				require.NoError(t, err)
				return
			}
			for _, f := range c.faults {
				require.ErrorContains(t, err, f)
			}
			require.Len(t, strings.Split(err.Error(), "\n"), len(c.faults))
			_, rerr := g.Run(context.Background(), newSketch().m, c.passes, c.o)
			require.Equal(t, err, rerr, "Run checks")
		})
	}
}

func TestParseTarget(t *testing.T) {
	for _, want := range []g.Target{g.CPU, g.CUDA, g.CoreML} {
		got, err := g.ParseTarget(string(want))
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err := g.ParseTarget("CPU")
	require.ErrorContains(t, err, "use cpu, cuda or coreml")
}

func TestSelection(t *testing.T) {
	var ran []string
	p := func(name string, targets ...g.Target) *g.Pass {
		return &g.Pass{Name: name, Doc: "says that it ran", Targets: targets, Run: func(*g.Unit) (int, error) {
			ran = append(ran, name)
			return 7, nil
		}}
	}
	list := []*g.Pass{p("a"), p("b", g.CUDA), p("c", g.CPU, g.CUDA), p("d")}
	cases := []struct {
		why  string
		o    g.Options
		want []string
	}{
		{"the target is the CPU unless said otherwise", g.Options{}, []string{"a", "c", "d"}},
		{"a target", g.Options{Target: g.CUDA}, []string{"a", "b", "c", "d"}},
		{"only some, in the order of the list", g.Options{Only: []string{"d", "a"}}, []string{"a", "d"}},
		{"all but some", g.Options{Disable: []string{"a"}}, []string{"c", "d"}},
		{"only some, but some of them not", g.Options{Only: []string{"a", "c"}, Disable: []string{"a"}}, []string{"c"}},
	}
	for _, c := range cases {
		t.Run(c.why, func(t *testing.T) {
			ran = nil
			r, err := g.Run(context.Background(), newSketch().m, list, c.o)
			require.NoError(t, err)
			require.Equal(t, c.want, ran)
			require.Len(t, r.Passes, len(c.want))
			for i, p := range r.Passes {
				require.Equal(t, g.Count{Name: c.want[i], Count: 7}, p)
			}
		})
	}
}

// Rules that undo each other come to an end, with an error.
func TestSteps(t *testing.T) {
	swap := func(from, to string) *g.Rule {
		return &g.Rule{Name: from + "-" + to, Doc: "one for the other", Pattern: g.Op(from, g.Any("x")),
			Rewrite: func(m *g.Match) (*ir.Value, error) { return m.Graph.Op(to, "n", []*ir.Value{m.Value("x")}), nil }}
	}
	s := newSketch()
	s.g.AddOutput(s.op("Neg", s.x))
	_, err := g.Run(context.Background(), s.m, []*g.Pass{pass("circle", swap("Neg", "Abs"), swap("Abs", "Neg"))}, g.Options{})
	require.ErrorIs(t, err, g.ErrSteps)
	require.ErrorContains(t, err, "graphopt: pass circle: ")
}

// A rule runs until it fits nowhere, over what it has made itself too.
func TestFixpoint(t *testing.T) {
	s := newSketch()
	v := s.x
	for range 100 {
		v = s.op("Neg", v)
	}
	s.g.AddOutput(v)
	twice := &g.Rule{Name: "twice", Doc: "two signs are none", Pattern: g.Op("Neg", g.Op("Neg", g.Op("Neg", g.Any("x")).As("y"))),
		Rewrite: func(m *g.Match) (*ir.Value, error) { return m.Graph.Op("Neg", "n", []*ir.Value{m.Value("x")}), nil }}
	r, err := g.Run(context.Background(), s.m, []*g.Pass{pass("signs", twice)}, g.Options{})
	require.NoError(t, err)
	require.Equal(t, 49, r.Passes[0].Count)
	require.Equal(t, 100, r.NodesBefore)
	require.Equal(t, 2, r.NodesAfter)
}

func TestBadRules(t *testing.T) {
	rewrite := func(m *g.Match) (*ir.Value, error) { return nil, nil }
	for why, r := range map[string]*g.Rule{
		"no name":    {Doc: "d", Pattern: g.Op("Neg", g.Any("x")), Rewrite: rewrite},
		"no doc":     {Name: "n", Pattern: g.Op("Neg", g.Any("x")), Rewrite: rewrite},
		"no pattern": {Name: "n", Doc: "d", Rewrite: rewrite},
		"no root":    {Name: "n", Doc: "d", Pattern: g.Any("x"), Rewrite: rewrite},
		"no rewrite": {Name: "n", Doc: "d", Pattern: g.Op("Neg", g.Any("x"))},
	} {
		_, err := g.Run(context.Background(), newSketch().m, []*g.Pass{pass("p", r)}, g.Options{})
		require.ErrorContains(t, err, "lacks", why)
	}
}

func TestErrors(t *testing.T) {
	boom := errors.New("boom")
	s := newSketch()
	s.g.AddOutput(s.op("Neg", s.x))
	rule := &g.Rule{Name: "r", Doc: "fails", Pattern: g.Op("Neg", g.Any("x")), Rewrite: func(*g.Match) (*ir.Value, error) { return nil, boom }}
	_, err := g.Run(context.Background(), s.m, []*g.Pass{pass("p", rule)}, g.Options{})
	require.ErrorIs(t, err, boom)
	require.EqualError(t, err, "graphopt: pass p: rule r at Neg(Neg): boom")

	// Names that clash are an error, not a wrong model.
	s = newSketch()
	s.g.AddOutput(s.op("Neg", s.x))
	clash := &g.Pass{Name: "clash", Doc: "adds a second x", Run: func(u *g.Unit) (int, error) {
		u.Model.Graph.Nodes()[0].SetInput(0, u.Model.Graph.AddInitializer("x", ir.Float32Scalar(1)))
		return 1, nil
	}}
	_, err = g.Run(context.Background(), s.m, []*g.Pass{clash}, g.Options{})
	require.ErrorContains(t, err, `pass clash left a broken graph: ir: two values are named "x"`)

	// A model that is broken before is not the first pass's fault.
	s = newSketch()
	s.g.AddInitializer("x", ir.Float32Scalar(1))
	_, err = g.Run(context.Background(), s.m, nil, g.Options{})
	require.EqualError(t, err, `ir: two values are named "x"`)

	// An output of the graph cannot become an input under its name.
	s = newSketch()
	s.g.AddOutput(s.op("Neg", s.x))
	rule.Rewrite = func(m *g.Match) (*ir.Value, error) { return m.Value("x"), nil }
	_, err = g.Run(context.Background(), s.m, []*g.Pass{pass("p", rule)}, g.Options{})
	require.ErrorContains(t, err, "cannot be taken over")
}

// What the graph calls its outputs stays as it is, and fresh names never clash.
func TestNames(t *testing.T) {
	s := newSketch()
	out := s.op("Neg", s.x)
	out.Name = "result"
	s.g.AddOutput(out)
	s.g.AddOutput(s.op("Exp", out))
	rule := &g.Rule{Name: "r", Doc: "d", Pattern: g.Op("Neg", g.Any("x")), Rewrite: func(m *g.Match) (*ir.Value, error) {
		return m.Graph.Op("Abs", "Exp", []*ir.Value{m.Value("x")}), nil // a prefix that is taken
	}}
	_, err := g.Run(context.Background(), s.m, []*g.Pass{pass("p", rule)}, g.Options{})
	require.NoError(t, err)
	require.Equal(t, "result", s.g.Outputs()[0].Name)
	require.Equal(t, "Abs", s.g.Outputs()[0].Producer().OpType)
	require.Equal(t, "Exp_1", s.g.Outputs()[0].Producer().Name)
	require.Equal(t, "result", s.g.Outputs()[1].Producer().Input(0).Name)
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	s := newSketch()
	s.g.AddOutput(s.op("Neg", s.op("Neg", s.x)))
	seen := 0
	rule := &g.Rule{Name: "r", Doc: "cancels", Pattern: g.Op("Neg", g.Any("x")), Check: func(m *g.Match) error {
		require.Equal(t, ctx, m.Unit.Context())
		seen++
		cancel()
		return errors.New("no")
	}, Rewrite: func(*g.Match) (*ir.Value, error) { return nil, nil }}
	_, err := g.Run(ctx, s.m, []*g.Pass{pass("p", rule)}, g.Options{})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 1, seen)
}

// withBodies is a graph with If and Loop, of which the bodies read values of the graph itself, and a
// function. ir reads it from bytes, as it would a file.
func withBodies(t *testing.T) *ir.Model {
	t.Helper()
	m, err := ir.Parse(graphtest.ControlFlow())
	require.NoError(t, err)
	return m
}

func dump(t *testing.T, m *ir.Model) string {
	t.Helper()
	var b strings.Builder
	require.NoError(t, g.Dump(&b, m))
	return b.String()
}

func TestType(t *testing.T) {
	m := graphtest.Decoder{}.Model(t)
	var got []string
	look := &g.Pass{Name: "look", Doc: "writes types down", Run: func(u *g.Unit) (int, error) {
		require.Nil(t, u.Type(nil))
		for _, n := range u.Model.Graph.Nodes() {
			if typ := u.Type(n.Output(0)); typ != nil {
				n.Output(0).Type = typ
			} else {
				got = append(got, n.String())
			}
		}
		return 0, nil
	}}
	_, err := g.Run(context.Background(), m, []*g.Pass{look}, g.Options{})
	require.NoError(t, err)
	require.Empty(t, got, "all types are known")
	want := map[string]string{
		"/model/embed_tokens/Gather":                 "float32[batch_size,sequence_length,24]",
		"/model/tables.0/And":                        "bool[batch_size,1,sequence_length,total_sequence_length]",
		"/model/tables.0/total/Squeeze":              "int64[]",
		"/model/tables.0/Cos/Unsqueeze":              "float32[batch_size,1,sequence_length,16]",
		"/model/layers.0/self_attn/repeat_k/Reshape": "float32[batch_size,4,total_sequence_length,16]",
		"/model/layers.0/self_attn/Softmax":          "float32[batch_size,4,sequence_length,total_sequence_length]",
		"/lm_head/MatMul":                            "float32[batch_size,sequence_length,50]",
	}
	for _, n := range m.Graph.Nodes() {
		if w, ok := want[n.Name]; ok {
			typ := n.Output(0).Type
			text := typ.DType.String() + strings.ReplaceAll(fmt.Sprint(dimNames(typ)), " ", ",")
			require.Equal(t, w, text, n.Name)
			delete(want, n.Name)
		}
	}
	require.Empty(t, want)
}

func dimNames(t *ir.Type) []string {
	names := []string{}
	for _, d := range t.Shape {
		if d.Size >= 0 {
			names = append(names, fmt.Sprint(d.Size))
		} else {
			names = append(names, d.Param)
		}
	}
	return names
}

// What depends on an operator that nobody knows has the type that the file declares, or none.
func TestTypeUnknown(t *testing.T) {
	s := newSketch()
	v := s.op("Mystery", s.x)
	w := s.op("Neg", v)
	s.g.AddOutput(w)
	look := func(check func(u *g.Unit)) {
		_, err := g.Run(context.Background(), s.m, []*g.Pass{{Name: "look", Doc: "looks", Run: func(u *g.Unit) (int, error) {
			check(u)
			return 0, nil
		}}}, g.Options{})
		require.NoError(t, err)
	}
	look(func(u *g.Unit) { require.Nil(t, u.Type(w)) })
	w.Type = ir.TensorType(ir.Float16, ir.Fixed(2))
	look(func(u *g.Unit) { require.Equal(t, w.Type, u.Type(w)) })
}
