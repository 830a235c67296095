package packed_test

import (
	"encoding/binary"
	"io"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/models/packed"
	"github.com/qwenrt/qwenrt/models/packed/packedtest"
	"github.com/qwenrt/qwenrt/models/safetensors"
)

// write makes a checkpoint of tensors.
func write(t *testing.T, tensors ...packedtest.Tensor) *safetensors.Checkpoint {
	t.Helper()
	dir := t.TempDir()
	data := map[string][]byte{}
	var entries []safetensors.Entry
	for _, x := range tensors {
		entries, data[x.Name] = append(entries, x.Entry), x.Data
	}
	require.NoError(t, safetensors.Create(filepath.Join(dir, "model.safetensors"), entries, func(name string, w io.Writer) error {
		_, err := w.Write(data[name])
		return err
	}))
	c, err := safetensors.Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// weight is that of output r and input j of the product, by the definition of MatMulNBits.
func weight(t *testing.T, m *packed.Matrix, levels, scales, zeros []byte, r, j int) float64 {
	blocks := int(m.Levels.Shape[1])
	b := j / m.BlockSize
	value := func(data []byte, width, i int) int {
		if m.Bits == 8 {
			return int(data[r*width+i])
		}
		return int(data[r*width+i/2]>>(4*(i%2))) & 15
	}
	q, z := value(levels, blocks*m.BlockSize*m.Bits/8, j), 1<<(m.Bits-1)
	if zeros != nil {
		z = value(zeros, (blocks*m.Bits+7)/8, b)
	}
	h := binary.LittleEndian.Uint16(scales[2*(r*blocks+b):])
	s := math.Ldexp(float64(h&0x3ff|0x400), int(h>>10)-25)
	if h>>10 == 0 {
		s = math.Ldexp(float64(h), -24)
	}
	return float64(q-z) * s
}

// requireEqual holds that every weight is the same real number.
func requireEqual(t *testing.T, l *packedtest.Layer, m *packed.Matrix, rows []int) {
	t.Helper()
	levels, err := m.Levels.Bytes()
	require.NoError(t, err)
	scales, err := m.Scales.Bytes()
	require.NoError(t, err)
	var zeros []byte
	if m.ZeroPoints != nil {
		zeros, err = m.ZeroPoints.Bytes()
		require.NoError(t, err)
	}
	for r := range l.N {
		for j := range l.K {
			n, k := r, j
			if rows != nil {
				n = rows[r]
			}
			if m.Order != nil {
				k = m.Order[j]
			}
			if got, want := weight(t, m, levels, scales, zeros, r, j), l.Weight(n, k); got != want {
				require.Equal(t, want, got, "output %d, input %d", r, j)
			}
		}
	}
}

func TestExact(t *testing.T) {
	const n = 72 // more than one tile
	for _, c := range []struct {
		why       string
		k         int
		f         packedtest.Format
		config    packed.Config
		bits      int
		block     int
		symmetric bool
		ordered   bool
	}{
		{"as most are published", 256, packedtest.Format{Bits: 4, Group: 128, Symmetric: true}, packed.Config{Method: packed.GPTQ, Bits: 4, GroupSize: 128, Symmetric: true, Version: 1}, 4, 128, true, false},
		{"zero points, stored as z - 1", 256, packedtest.Format{Bits: 4, Group: 64}, packed.Config{Method: packed.GPTQ, Bits: 4, GroupSize: 64, Version: 1}, 4, 64, false, false},
		{"zero points, stored as they are", 256, packedtest.Format{Bits: 4, Group: 32, StoreZ: true}, packed.Config{Method: packed.GPTQ, Bits: 4, GroupSize: 32, Version: 2}, 4, 32, false, false},
		{"said to be of version 1, and of 2", 128, packedtest.Format{Bits: 4, Group: 32, StoreZ: true, Symmetric: true}, packed.Config{Method: packed.GPTQ, Bits: 4, GroupSize: 32, Symmetric: true, Version: 1}, 4, 32, true, false},
		{"said to be of version 2, and of 1", 128, packedtest.Format{Bits: 4, Group: 32, Symmetric: true}, packed.Config{Method: packed.GPTQ, Bits: 4, GroupSize: 32, Symmetric: true, Version: 2}, 4, 32, true, false},
		{"a zero point of 16 does not fit 4 bits", 128, packedtest.Format{Bits: 4, Group: 32, Highest: true}, packed.Config{Method: packed.GPTQ, Bits: 4, GroupSize: 32, Version: 1}, 8, 32, false, false},
		{"act-order", 256, packedtest.Format{Bits: 4, Group: 64, ActOrder: 7}, packed.Config{Method: packed.GPTQ, Bits: 4, GroupSize: 64, Version: 1}, 4, 64, false, true},
		{"act-order, and a last group that is not full", 208, packedtest.Format{Bits: 4, Group: 64, Symmetric: true, ActOrder: 7}, packed.Config{Method: packed.GPTQ, Bits: 4, GroupSize: 64, Symmetric: true, Version: 1}, 4, 64, true, true},
		{"one group, whose scale is repeated; the last block is padded", 200, packedtest.Format{Bits: 4, Group: 200}, packed.Config{Method: packed.GPTQ, Bits: 4, GroupSize: -1, Version: 1}, 4, 128, false, false},
		{"groups that are no blocks", 288, packedtest.Format{Bits: 4, Group: 96}, packed.Config{Method: packed.GPTQ, Bits: 4, GroupSize: 96, Version: 1}, 4, 32, false, false},
		{"groups beyond the largest block", 1024, packedtest.Format{Bits: 4, Group: 512}, packed.Config{Method: packed.GPTQ, Bits: 4, GroupSize: 512, Version: 1}, 4, 128, false, false},
		{"8 bits", 128, packedtest.Format{Bits: 8, Group: 32}, packed.Config{Method: packed.GPTQ, Bits: 8, GroupSize: 32, Version: 1}, 8, 32, false, false},
		{"bits and group of its own", 128, packedtest.Format{Bits: 8, Group: 64, Symmetric: true}, packed.Config{Method: packed.GPTQ, Bits: 4, GroupSize: 128, Symmetric: true, Version: 1, Mixed: true}, 8, 64, true, false},
		{"AWQ", 256, packedtest.Format{AWQ: true, Bits: 4, Group: 128}, packed.Config{Method: packed.AWQ, Bits: 4, GroupSize: 128}, 4, 128, false, false},
		{"AWQ, an odd number of blocks", 96, packedtest.Format{AWQ: true, Bits: 4, Group: 32}, packed.Config{Method: packed.AWQ, Bits: 4, GroupSize: 32}, 4, 32, false, false},
	} {
		t.Run(c.why, func(t *testing.T) {
			l := packedtest.Random(c.f, n, c.k, 3)
			w := write(t, l.Tensors("layer")...)
			require.True(t, packed.Has(w, "layer"))
			m, err := c.config.Open(w, "layer", n, int64(c.k))
			require.NoError(t, err)
			require.Equal(t, []any{c.bits, c.block, c.symmetric, c.ordered}, []any{m.Bits, m.BlockSize, m.ZeroPoints == nil, m.Order != nil})
			requireEqual(t, l, m, nil)

			rows := make([]int, n) // another order of the outputs, twice
			for i := range rows {
				rows[i] = (i*5 + 1) % n
			}
			once, err := m.WithRows(rows)
			require.NoError(t, err)
			requireEqual(t, l, once, rows)
			twice, err := once.WithRows(rows)
			require.NoError(t, err)
			both := make([]int, n)
			for i := range both {
				both[i] = rows[rows[i]]
			}
			requireEqual(t, l, twice, both)
		})
	}
}

// Any range may be read, not whole rows alone.
func TestReadAt(t *testing.T) {
	l := packedtest.Random(packedtest.Format{Bits: 4, Group: 32}, 72, 96, 3)
	c := packed.Config{Method: packed.GPTQ, Bits: 4, GroupSize: 32, Version: 1}
	m, err := c.Open(write(t, l.Tensors("layer")...), "layer", 72, 96)
	require.NoError(t, err)
	for _, data := range []interface {
		io.ReaderAt
		Len() int64
	}{m.Levels.Data, m.Scales.Data, m.ZeroPoints.Data} {
		whole := make([]byte, data.Len())
		_, err := data.ReadAt(whole, 0)
		require.NoError(t, err)
		for _, at := range [][2]int64{{0, 0}, {1, 5}, {40, 49}, {0, 97}, {97, data.Len() - 97}, {data.Len() - 1, 1}} {
			part := make([]byte, at[1])
			_, err := data.ReadAt(part, at[0])
			require.NoError(t, err)
			require.Equal(t, whole[at[0]:at[0]+at[1]], part)
		}
		_, err = data.ReadAt(make([]byte, 2), data.Len()-1)
		require.Error(t, err)
		_, err = data.ReadAt(make([]byte, 1), -1)
		require.Error(t, err)
	}
}

func TestMalformed(t *testing.T) {
	const n, k = 16, 64
	good := packedtest.Random(packedtest.Format{Bits: 4, Group: 32}, n, k, 3).Tensors("layer")
	change := func(name string, f func(*packedtest.Tensor)) []packedtest.Tensor {
		all := append([]packedtest.Tensor(nil), good...)
		for i := range all {
			if all[i].Name == "layer."+name {
				all[i].Data = append([]byte(nil), all[i].Data...)
				f(&all[i])
			}
		}
		return all
	}
	c := packed.Config{Method: packed.GPTQ, Bits: 4, GroupSize: 32, Version: 1}
	symmetric := c
	symmetric.Symmetric = true
	for _, x := range []struct {
		why     string
		tensors []packedtest.Tensor
		c       packed.Config
		is      error
		text    string
	}{
		{"a tensor is missing", good[1:], c, packed.ErrMalformed, "it has no qweight"},
		{"no scales", good[:2], c, packed.ErrMalformed, "it has no scales"},
		{"another type", change("qweight", func(x *packedtest.Tensor) { x.DType = safetensors.F32 }), c, packed.ErrMalformed, "qweight is F32"},
		{"another shape", change("qweight", func(x *packedtest.Tensor) { x.Shape = []int64{16, 8} }), c, packed.ErrMalformed, "want [8 16]"},
		{"scales of other outputs", change("scales", func(x *packedtest.Tensor) { x.Shape = []int64{4, 8} }), c, packed.ErrMalformed, "scales are [4 8]"},
		{"zero points of other groups", change("qzeros", func(x *packedtest.Tensor) { x.Shape = []int64{1, 4} }), c, packed.ErrMalformed, "qzeros are [1 4]"},
		{"other groups than config.json says", good, packed.Config{Method: packed.GPTQ, Bits: 4, GroupSize: 16, Version: 1}, packed.ErrMalformed, "2 groups, and a group_size of 16"},
		{"it says symmetric and is not", good, symmetric, packed.ErrMalformed, "config.json says sym"},
		{"an input of no group", change("g_idx", func(x *packedtest.Tensor) { x.Data[0] = 2 }), c, packed.ErrMalformed, "input 0 is in group 2 of 2"},
		{"groups of other sizes", change("g_idx", func(x *packedtest.Tensor) { x.Data[0] = 1 }), c, packed.ErrUnsupported, "group 0 has 31 inputs, want 32"},
		{"a bias", append(append([]packedtest.Tensor(nil), good...), packedtest.Tensor{Entry: safetensors.Entry{Name: "layer.bias", DType: safetensors.F16, Shape: []int64{1}}, Data: make([]byte, 2)}),
			c, packed.ErrUnsupported, "it has a bias"},
		{"groups without blocks", packedtest.Random(packedtest.Format{Bits: 4, Group: 8}, n, k, 3).Tensors("layer"),
			packed.Config{Method: packed.GPTQ, Bits: 4, GroupSize: 8, Version: 1}, packed.ErrUnsupported, "groups of 8 inputs"},
		{"a zero point of 256", packedtest.Random(packedtest.Format{Bits: 8, Group: 32, Highest: true}, n, k, 3).Tensors("layer"),
			packed.Config{Method: packed.GPTQ, Bits: 8, GroupSize: 32, Version: 1}, packed.ErrUnsupported, "a zero point of 256"},
	} {
		_, err := x.c.Open(write(t, x.tensors...), "layer", n, k)
		require.ErrorIs(t, err, x.is, x.why)
		require.ErrorContains(t, err, x.text, x.why)
		require.ErrorContains(t, err, "packed: layer: ", x.why)
	}
	// Scales are looked at when they are read.
	m, err := c.Open(write(t, change("scales", func(x *packedtest.Tensor) { x.Data[1] = 0x7c })...), "layer", n, k)
	require.NoError(t, err)
	_, err = m.Scales.Bytes()
	require.ErrorIs(t, err, packed.ErrMalformed)
	require.ErrorContains(t, err, "the scale of output 0 in group 0 is not finite")
	_, err = m.WithRows([]int{0})
	require.Error(t, err)
}

func TestParseConfig(t *testing.T) {
	for _, x := range []struct {
		why, text string
		want      packed.Config
		fault     string
	}{
		{"AutoGPTQ", `{"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": true, "desc_act": false}`, packed.Config{Method: "gptq", Bits: 4, GroupSize: 128, Symmetric: true, Version: 1}, ""},
		{"GPTQModel", `{"quant_method": "gptq", "bits": 8, "group_size": -1, "sym": false, "checkpoint_format": "gptq_v2", "pack_dtype": "int32", "dynamic": null}`, packed.Config{Method: "gptq", Bits: 8, GroupSize: -1, Version: 2}, ""},
		{"layers of their own", `{"quant_method": "gptq", "bits": 4, "dynamic": {"+:.*down.*": {"bits": 8}}}`, packed.Config{Method: "gptq", Bits: 4, GroupSize: 128, Version: 1, Mixed: true}, ""},
		{"AutoAWQ", `{"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": true, "modules_to_not_convert": null}`, packed.Config{Method: "awq", Bits: 4, GroupSize: 128, Version: 1}, ""},
		{"other method", `{"quant_method": "fp8"}`, packed.Config{}, `quant_method "fp8": want gptq or awq`},
		{"3 bits", `{"quant_method": "gptq", "bits": 3}`, packed.Config{}, "gptq of 3 bits"},
		{"marlin", `{"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}`, packed.Config{}, `checkpoint_format "marlin"`},
		{"gemv", `{"quant_method": "awq", "bits": 4, "version": "gemv"}`, packed.Config{}, `awq of version "gemv"`},
		{"no zero points", `{"quant_method": "awq", "bits": 4, "zero_point": false}`, packed.Config{}, "awq without zero points"},
		{"group size", `{"quant_method": "gptq", "bits": 4, "group_size": 0}`, packed.Config{}, "group_size 0"},
		{"words of 64 bits", `{"quant_method": "gptq", "bits": 4, "pack_dtype": "int64"}`, packed.Config{}, `pack_dtype "int64"`},
	} {
		c, err := packed.ParseConfig([]byte(x.text))
		if x.fault != "" {
			require.ErrorIs(t, err, packed.ErrUnsupported, x.why)
			require.ErrorContains(t, err, x.fault, x.why)
			require.NotContains(t, strings.TrimSpace(err.Error()), "\n")
			continue
		}
		require.NoError(t, err, x.why)
		require.Equal(t, x.want, *c, x.why)
	}
	_, err := packed.ParseConfig([]byte(`[]`))
	require.ErrorContains(t, err, "quantization_config")
}
