package quantize_test

import (
	"context"
	"errors"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/quantize"
)

// effects gives each tensor the effect that is said, and 1 to others.
func effects(by map[string]float64) quantize.Effect {
	return func(_ context.Context, _ *ir.Model, probes []quantize.Probe) ([]float64, error) {
		out := make([]float64, len(probes))
		for i, p := range probes {
			out[i] = 1
			if e, ok := by[p.Tensor]; ok {
				out[i] = e
			}
		}
		return out, nil
	}
}

const up, down, embed = "model.up.weight", "model.down.weight", "model.embed_tokens.weight"

func allocate(t *testing.T, o quantize.Options, b quantize.Budget) map[string]quantize.Format {
	t.Helper()
	m := newTiny(ir.Float32).tied()
	a, err := quantize.Allocate(context.Background(), m, o, b)
	require.NoError(t, err)
	require.LessOrEqual(t, a.Bits, b.Bits)
	o.Rules = append(o.Rules, a.Rules...)
	p := apply(t, m, o)
	require.InDelta(t, a.Bits, p.Report().BitsPerWeight(), 1e-9, "what was promised is what it comes to")
	got := map[string]quantize.Format{}
	for _, d := range p.Decisions() {
		got[d.Tensor] = d.Format
	}
	for _, w := range a.Weights {
		require.Equal(t, w.Format, got[w.Tensor])
	}
	return got
}

func TestAllocateSpendsWhereItPays(t *testing.T) {
	for _, name := range []string{up, down, embed} {
		got := allocate(t, quantize.Options{}, quantize.Budget{Bits: 8.5, Effect: effects(map[string]float64{name: 1000})})
		require.Equal(t, 8, got[name].Bits, name)
		for other, f := range got {
			require.LessOrEqual(t, f.Bits, got[name].Bits, "%s, where %s counts", other, name)
		}
	}
}

func TestAllocateBudgets(t *testing.T) {
	all := allocate(t, quantize.Options{}, quantize.Budget{Bits: 30})
	for name, f := range all {
		require.Equal(t, 8, f.Bits, "%s: there is room for everything", name)
	}
	least := quantize.Format{Bits: 4, BlockSize: 64, Symmetric: true}
	formats := []quantize.Format{{Bits: 8, BlockSize: 32}, least}
	_, err := quantize.Allocate(context.Background(), newTiny(ir.Float32).tied(), quantize.Options{}, quantize.Budget{Bits: 4, Formats: formats,
		Effect: func(context.Context, *ir.Model, []quantize.Probe) ([]float64, error) {
			t.Fatal("nothing is measured for a budget that cannot be met")
			return nil, nil
		}})
	require.ErrorIs(t, err, quantize.ErrBudget)
	require.ErrorContains(t, err, "the least that the formats reach is")
	for name, f := range allocate(t, quantize.Options{}, quantize.Budget{Bits: 6, Formats: formats}) {
		require.Equal(t, least, f, name)
	}
}

// Formats of tensors that do not matter are the smallest, whatever is left to be spent.
func TestAllocateSpendsNothingForNothing(t *testing.T) {
	got := allocate(t, quantize.Options{}, quantize.Budget{Bits: 30, Effect: effects(map[string]float64{up: 0, down: 0})})
	require.Equal(t, 4, got[up].Bits)
	require.Equal(t, 8, got[embed].Bits)
}

func TestAllocateKeepsToRules(t *testing.T) {
	o := quantize.Options{Rules: rules(t, "*up*=int4:b16:asym", "*down*=level1", "/lm_head/*=int8:b32:sym")}
	m := newTiny(ir.Float32).tied()
	a, err := quantize.Allocate(context.Background(), m, o, quantize.Budget{Bits: 30})
	require.NoError(t, err)
	o.Rules = append(o.Rules, a.Rules...)
	p := apply(t, m, o)
	ds := p.Decisions()
	require.Len(t, ds, 3)
	require.Equal(t, quantize.Format{Bits: 8, BlockSize: 32, Symmetric: true}, ds[0].Format, "the embedding is open, the head settled")
	require.Len(t, ds[0].Nodes, 2, "where both have one form they share a table")
	require.Equal(t, quantize.Format{Bits: 4, BlockSize: 16}, ds[1].Format, "up is settled")
	require.Equal(t, 8, ds[2].Format.Bits, "of down a rule says only the accuracy level")
	require.Equal(t, 1, ds[2].AccuracyLevel)
	require.Len(t, a.Weights, 2)

	o = quantize.Options{Rules: rules(t, "*=int4")}
	_, err = quantize.Allocate(context.Background(), newTiny(ir.Float32).tied(), o, quantize.Budget{Bits: 5})
	require.ErrorContains(t, err, "nothing to spend bits on")
}

// A probe has the initializer's shape, and the values that quantising it gives.
func TestProbes(t *testing.T) {
	formats := []quantize.Format{{Bits: 4, BlockSize: 16}, {Bits: 8, BlockSize: 16}}
	m := newTiny(ir.Float16).tied()
	var probes []quantize.Probe
	_, err := quantize.Allocate(context.Background(), m, quantize.Options{}, quantize.Budget{Bits: 30, Formats: formats,
		Effect: func(_ context.Context, _ *ir.Model, all []quantize.Probe) ([]float64, error) {
			probes = all
			return make([]float64, len(all)), nil
		}})
	require.NoError(t, err)
	require.Len(t, probes, 3)
	apply(t, m, quantize.Options{BlockSize: 16})
	products := find(t, m, "MatMulNBits")
	for i, c := range []struct {
		n     *ir.Node
		shape []int64
	}{{find(t, m, "GatherBlockQuantized")[0], []int64{vocab, hidden}}, {products[0], []int64{hidden, 48}}, {products[1], []int64{48, hidden}}} {
		require.Equal(t, formats[0], probes[i].Format, "the coarsest")
		got, err := probes[i].Rounded()
		require.NoError(t, err)
		require.Equal(t, c.shape, got.Shape)
		require.Equal(t, ir.Float16, got.DType)
		v, err := got.Float32s()
		require.NoError(t, err)
		mat := matrixOf(t, c.n)
		for r := range mat.N {
			for k, want := range row(t, mat, r) {
				at := r*mat.K + int64(k)
				if c.shape[0] == mat.K && c.shape[0] != mat.N {
					at = int64(k)*mat.N + r
				}
				require.InDelta(t, want, v[at], 1e-3, "%s, row %d, column %d", probes[i].Tensor, r, k)
			}
		}
	}
}

func TestAllocateErrors(t *testing.T) {
	failing := errors.New("no")
	for _, c := range []struct {
		why  string
		b    quantize.Budget
		text string
	}{
		{"no budget", quantize.Budget{}, "0 bits a weight"},
		{"not a number", quantize.Budget{Bits: math.NaN()}, "NaN bits a weight"},
		{"formats that do not exist", quantize.Budget{Bits: 5, Formats: []quantize.Format{{Bits: 3, BlockSize: 7}}}, "candidate: 3 bits a weight"},
		{"an effect that fails", quantize.Budget{Bits: 6, Effect: func(context.Context, *ir.Model, []quantize.Probe) ([]float64, error) {
			return nil, failing
		}}, "no"},
		{"too few effects", quantize.Budget{Bits: 6, Effect: func(context.Context, *ir.Model, []quantize.Probe) ([]float64, error) {
			return nil, nil
		}}, "0 effects of 3 probes"},
		{"effects that are none", quantize.Budget{Bits: 6, Effect: effects(map[string]float64{up: math.NaN()})}, "the effect of model.up.weight is NaN"},
	} {
		_, err := quantize.Allocate(context.Background(), newTiny(ir.Float32).tied(), quantize.Options{}, c.b)
		require.ErrorContains(t, err, c.text, c.why)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := quantize.Allocate(ctx, newTiny(ir.Float32).tied(), quantize.Options{}, quantize.Budget{Bits: 6})
	require.ErrorIs(t, err, context.Canceled)
}
