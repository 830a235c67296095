package quantize_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/quantize"
)

func TestParseRule(t *testing.T) {
	for _, c := range []struct {
		text string
		want quantize.Rule
	}{
		{"model.layers.0.*=int8", quantize.Rule{Match: "model.layers.0.*", Precision: quantize.Int8}},
		{"*=keep", quantize.Rule{Match: "*", Keep: true}},
		{"*=float", quantize.Rule{Match: "*", Keep: true}},
		{"a=INT4:b64:asym", quantize.Rule{Match: "a", Precision: quantize.Int4, BlockSize: 64, Symmetric: new(false)}},
		{"a=sym:hqq", quantize.Rule{Match: "a", Symmetric: new(true), Method: quantize.HQQ}},
		{"a=level1:max:rtn", quantize.Rule{Match: "a", Method: quantize.RTN, Scale: quantize.ScaleMax, AccuracyLevel: 1}},
		{"x=y=int4", quantize.Rule{Match: "x=y", Precision: quantize.Int4}},
	} {
		got, err := quantize.ParseRule(c.text)
		require.NoError(t, err, c.text)
		require.Equal(t, c.want, got, c.text)
		again, err := quantize.ParseRule(got.String())
		require.NoError(t, err, got)
		require.Equal(t, got, again)
	}
	for text, want := range map[string]string{
		"int8":         "want GLOB=VALUE",
		"a=":           `"": want keep, int4`,
		"a=int3":       `"int3": want keep, int4`,
		"a=int4:int8":  "the same thing twice",
		"a=b0":         "a number is 0",
		"a=bx":         `"bx": want`,
		"a=keep:b32":   "weights that keep their type have no format",
		"[=int4":       "not a valid glob",
		"=int4":        "not a valid glob",
		"a=sym:asym":   "the same thing twice",
		"a=level1:":    `"": want`,
		"a=b32:b64:b8": "the same thing twice",
	} {
		_, err := quantize.ParseRule(text)
		require.ErrorContains(t, err, want, text)
		require.NotContains(t, err.Error(), "\n")
	}
}

// Rules choose between integers and blocks, product by product, in both directions.
func TestRulesForIntegers(t *testing.T) {
	channel := quantize.Format{Bits: 8, Symmetric: true}
	for _, c := range []struct {
		why       string
		precision quantize.Precision
		rules     []string
		up, down  quantize.Format
	}{
		{"none", quantize.DynamicInt8, nil, channel, channel},
		{"blocks in a model of integers", quantize.DynamicInt8, []string{"*up*=int4:b32"}, quantize.Format{Bits: 4, BlockSize: 32}, channel},
		{"a block size asks for blocks", quantize.DynamicInt8, []string{"*up*=b64"}, quantize.Format{Bits: 8, BlockSize: 64}, channel},
		{"what says nothing about the format changes nothing", quantize.DynamicInt8, []string{"*=max:level1"}, channel, channel},
		{"integers in a model of blocks", quantize.Int4, []string{"*down*=dynamic-int8"}, quantize.Format{Bits: 4, BlockSize: 32}, channel},
		{"the later one counts", quantize.Int4, []string{"*=dynamic-int8", "*=int8:b16"}, quantize.Format{Bits: 8, BlockSize: 16}, quantize.Format{Bits: 8, BlockSize: 16}},
		{"kept", quantize.DynamicInt8, []string{"*up*=keep"}, quantize.Format{}, channel},
	} {
		m := newTiny(ir.Float32).tied()
		p := apply(t, m, quantize.Options{Precision: c.precision, Rules: rules(t, c.rules...)})
		got := map[string]quantize.Format{}
		for _, d := range p.Decisions() {
			got[d.Tensor] = d.Format
		}
		require.Equal(t, c.up, got["model.up.weight"], c.why)
		require.Equal(t, c.down, got["model.down.weight"], c.why)
		require.NotZero(t, got["model.embed_tokens.weight"].BlockSize, "%s: a table that is looked up is in blocks", c.why)
		integers := 0
		for _, f := range got {
			if f == channel {
				integers++
			}
		}
		require.Len(t, find(t, m, "DynamicQuantizeMatMul"), integers, c.why)
	}
}

func FuzzParseRule(f *testing.F) {
	for _, s := range []string{"a=int4", "[a-z]*=keep", `\*=b32:level4`, "=", "a=b99999999999999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := quantize.ParseRule(s)
		if err != nil {
			return
		}
		again, err := quantize.ParseRule(r.String())
		require.NoError(t, err)
		require.Equal(t, r, again)
	})
}

func rules(t *testing.T, texts ...string) []quantize.Rule {
	t.Helper()
	var all []quantize.Rule
	for _, s := range texts {
		r, err := quantize.ParseRule(s)
		require.NoError(t, err)
		all = append(all, r)
	}
	return all
}

func TestRules(t *testing.T) {
	format := func(bits, block int, symmetric bool) quantize.Format {
		return quantize.Format{Bits: bits, BlockSize: block, Symmetric: symmetric}
	}
	for _, c := range []struct {
		why   string
		rules []string
		want  map[string]quantize.Format
		level map[string]int // 4 where it does not say
	}{
		{"none", nil, map[string]quantize.Format{"embed": format(4, 32, false), "up": format(4, 32, false), "down": format(4, 32, false)}, nil},
		{"the later one counts", []string{"*=int8:b64", "model.up*=int4"},
			map[string]quantize.Format{"embed": format(8, 64, false), "up": format(4, 64, false), "down": format(8, 64, false)}, nil},
		{"each for what it names", []string{"*up*=b16", "*=sym:level1"},
			map[string]quantize.Format{"embed": format(4, 32, true), "up": format(4, 16, true), "down": format(4, 32, true)},
			map[string]int{"embed": 1, "up": 1, "down": 1}},
		{"kept, and one taken in again", []string{"*=keep", "*down*=int8"}, map[string]quantize.Format{"down": format(8, 32, false)}, nil},
		{"by the name of a node, through slashes", []string{"/model/*/MatMul=int8:level2"},
			map[string]quantize.Format{"embed": format(4, 32, false), "up": format(8, 32, false), "down": format(8, 32, false)},
			map[string]int{"up": 2, "down": 2}},
	} {
		m := newTiny(ir.Float32).tied()
		p := apply(t, m, quantize.Options{Rules: rules(t, c.rules...)})
		got := map[string]quantize.Format{}
		for _, d := range p.Decisions() {
			name := map[string]string{"model.embed_tokens.weight": "embed", "model.up.weight": "up", "model.down.weight": "down"}[d.Tensor]
			got[name] = d.Format
			level := 4
			if l := c.level[name]; l != 0 {
				level = l
			}
			require.Equal(t, level, d.AccuracyLevel, "%s: %s", c.why, name)
		}
		require.Equal(t, c.want, got, c.why)
	}
}

// A rule about the head alone parts it from the embedding: two tables, each in its own precision.
func TestEmbeddingAndHeadInTheirOwnPrecision(t *testing.T) {
	m := newTiny(ir.Float32).tied()
	p := apply(t, m, quantize.Options{Rules: rules(t, "/lm_head/*=int8")})
	require.Len(t, p.Decisions(), 4)
	gather, products := find(t, m, "GatherBlockQuantized")[0], find(t, m, "MatMulNBits")
	head := products[len(products)-1]
	require.Equal(t, int64(4), gather.Int("bits", 0))
	require.Equal(t, int64(8), head.Int("bits", 0))
	a, b := matrixOf(t, gather), matrixOf(t, head)
	for r := range int64(vocab) {
		require.InDeltaSlice(t, row(t, b, r), row(t, a, r), 0.05)
	}
	r := p.Report()
	require.Equal(t, int64(vocab*(hidden/2+2*4+1)), r.Tensors[0].BytesAfter)
	require.Equal(t, int64(vocab*(hidden+2*4+2)), r.Tensors[3].BytesAfter)
}

// Products of one table may be computed in different types: that is not stored.
func TestAccuracyLevelByNode(t *testing.T) {
	b := newTiny(ir.Float32)
	m := b.finish(b.Graph.Op("MatMul", "/again/MatMul", []*ir.Value{b.x, b.up}))
	p := apply(t, m, quantize.Options{Rules: rules(t, "/again/*=level1")})
	ns := find(t, m, "MatMulNBits")
	require.Same(t, ns[0].Input(1), ns[2].Input(1))
	require.Equal(t, int64(4), ns[0].Int("accuracy_level", 0))
	require.Equal(t, int64(1), ns[2].Int("accuracy_level", 0))
	require.Equal(t, 1, p.Decisions()[1].AccuracyLevel, "the lowest")
}

// A rule for what cannot be quantised has found its weight: it is no slip of the pen.
func TestRuleForAKeptWeight(t *testing.T) {
	b := newTiny(ir.Float32)
	w := b.Graph.AddInitializer("outer", ir.Float32Tensor(weights(1, 32), 1, 32))
	m := b.finish(b.Graph.Op("MatMul", "/n/MatMul", []*ir.Value{b.x, w}))
	_, err := quantize.NewPlan(m, quantize.Options{Rules: rules(t, "outer=int8")})
	require.NoError(t, err)
}
