package quantize

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// readVectors reads testdata/rtn.safetensors, which scripts/reference/rtn_vectors.py made with ONNX
// Runtime's own quantiser.
func readVectors(t *testing.T) map[string]*ir.Tensor {
	t.Helper()
	b, err := os.ReadFile("testdata/rtn.safetensors")
	require.NoError(t, err)
	size := binary.LittleEndian.Uint64(b)
	header, data := b[8:8+size], b[8+size:]
	var entries map[string]struct {
		DType   string  `json:"dtype"`
		Shape   []int64 `json:"shape"`
		Offsets [2]int  `json:"data_offsets"`
	}
	require.NoError(t, json.Unmarshal(header, &entries))
	delete(entries, "__metadata__")
	dtypes := map[string]ir.DType{"F32": ir.Float32, "U8": ir.Uint8}
	all := map[string]*ir.Tensor{}
	for name, e := range entries {
		all[name], err = ir.NewTensor(dtypes[e.DType], e.Shape, ir.NewBuffer(data[e.Offsets[0]:e.Offsets[1]]))
		require.NoError(t, err, name)
	}
	return all
}

func TestRTNEqualsONNXRuntime(t *testing.T) {
	vectors := readVectors(t)
	name := regexp.MustCompile(`^(b(\d+)\.(sym|asym)\.(\d)\..*\.)weight$`)
	cases := 0
	for key, w := range vectors {
		m := name.FindStringSubmatch(key)
		if m == nil {
			continue
		}
		cases++
		base := m[1]
		block, _ := strconv.Atoi(m[2])
		bits, _ := strconv.Atoi(m[4])
		f := Format{Bits: bits, BlockSize: block, Symmetric: m[3] == "sym"}
		rows, err := ir.Transpose(w)
		require.NoError(t, err)
		got := newProducer(key, rows, spanning(f), ir.Float32).data()
		require.Equal(t, bytesOf(t, vectors[base+"packed"].Data), bytesOf(t, got[outPadded]), "%spacked", base)
		require.Equal(t, bytesOf(t, vectors[base+"scales"].Data), bytesOf(t, got[outScales]), "%sscales", base)
		if !f.Symmetric {
			require.Equal(t, bytesOf(t, vectors[base+"zp"].Data), bytesOf(t, got[outZeroPoints]), "%szp", base)
		}
	}
	require.GreaterOrEqual(t, cases, 60, "five block sizes, two precisions, with and without zero points, three cases")
}

func bytesOf(t *testing.T, d ir.Data) []byte {
	t.Helper()
	b := make([]byte, d.Len())
	_, err := d.ReadAt(b, 0)
	require.NoError(t, err)
	return b
}

// The fast kernels add zero point and one half in one step. They must give what the definition gives on
// both sides of every threshold, for every zero point.
func TestKernelsEqualDefinition(t *testing.T) {
	for _, bits := range []int{4, 8} {
		q := rtn{Format{Bits: bits, BlockSize: 16}, ir.Float32}
		w := make([]float32, 0, 16)
		check := func(g grid) {
			w = w[:16]
			want, got := make([]byte, q.BlockBytes()), make([]byte, q.BlockBytes())
			q.packAny(want, w, g)
			q.pack(got, w, g)
			require.Equal(t, want, got, "zero point %d, weights %v", g.zero, w)
			w = w[:0]
		}
		for zero := range q.top() + 1 {
			g := grid{scale: 1, recip: 1, zero: zero, fast: true}
			for level := int32(-1); level <= q.top()+1; level++ {
				threshold := float32(level-zero) + 0.5
				v := threshold
				for range 4 {
					v = math.Nextafter32(v, float32(math.Inf(-1)))
				}
				for range 8 {
					// a grid reaches at most half a step beyond its ends
					w = append(w, min(max(v, float32(-zero)-0.5), float32(q.top()-zero)+0.5))
					if v = math.Nextafter32(v, float32(math.Inf(1))); len(w) == 16 {
						check(g)
					}
				}
			}
			for len(w) < 16 {
				w = append(w, 0)
			}
			check(g)
		}
	}
}

// formats are those that the properties below are held against.
func formats() []Format {
	var all []Format
	for _, bits := range []int{4, 8} {
		for _, block := range []int{16, 32, 64, 128, 256} {
			for _, sym := range []bool{false, true} {
				all = append(all, Format{bits, block, sym})
			}
		}
	}
	return all
}

// spanning is round-to-nearest on grids that span their blocks.
func spanning(f Format) form { return form{RTN, ScaleMax, f} }

func normal(seed uint64, n int) []float32 {
	rng := rand.New(rand.NewPCG(seed, 1))
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(rng.NormFloat64() * 0.02)
	}
	return v
}

// as narrows v to a type and gives it as a tensor.
func as(t *testing.T, d ir.DType, v []float32, shape ...int64) *ir.Tensor {
	t.Helper()
	narrow, err := ir.Cast(ir.Float32Tensor(v, shape...), d)
	require.NoError(t, err)
	b, err := narrow.Bytes()
	require.NoError(t, err)
	return &ir.Tensor{DType: d, Shape: shape, Data: ir.NewBuffer(b)}
}

// matrix quantises source and gives the result with its scales.
func matrix(t *testing.T, source *ir.Tensor, f Format, scale ir.DType) (*Matrix, []float32) {
	t.Helper()
	p := newProducer("w", source, spanning(f), scale)
	d := p.data()
	m := &Matrix{Format: f, N: p.n, K: p.k, stride: f.RowBytes(p.k)}
	m.packed = &ir.Tensor{DType: ir.Uint8, Shape: []int64{p.n, m.stride}, Data: d[outPadded]}
	m.scales = &ir.Tensor{DType: scale, Shape: []int64{p.n, f.Blocks(p.k)}, Data: d[outScales]}
	if !f.Symmetric {
		m.zeros = &ir.Tensor{DType: ir.Uint8, Shape: []int64{p.n, f.ZeroPointBytes(p.k)}, Data: d[outZeroPoints]}
	}
	scales, err := m.scales.Float32s()
	require.NoError(t, err)
	return m, scales
}

// Whatever the types, an error is at most half a step, except at the one end of a symmetric grid that
// has a level less, where it is at most a whole one.
func TestErrorIsAtMostHalfAStep(t *testing.T) {
	const n, k = 7, 300 // 300: the last block is not full for any block size
	for _, source := range []ir.DType{ir.Float32, ir.BFloat16, ir.Float16} {
		for _, scale := range []ir.DType{ir.Float32, ir.Float16, ir.BFloat16} {
			for _, f := range formats() {
				w := as(t, source, normal(3, n*k), n, k)
				m, scales := matrix(t, w, f, scale)
				want, err := w.Float32s()
				require.NoError(t, err)
				got := make([]float32, k)
				for r := range int64(n) {
					require.NoError(t, m.Row(got, r))
					for i := range got {
						step := math.Abs(float64(scales[r*f.Blocks(k)+int64(i/f.BlockSize)]))
						limit := 0.5 * step
						if f.Symmetric {
							limit = step
						}
						if scale != ir.Float32 { // the scale itself is rounded, by at most 2^-9, over 2^bits levels
							limit += step * math.Exp2(float64(f.Bits)-9)
						}
						require.InDelta(t, want[r*k+int64(i)], got[i], limit*1.0001, "%v of %v, scales %v", f, source, scale)
					}
				}
			}
		}
	}
}

// A weight that is read in its narrow type gives what it gives when it has been widened first.
func TestSourceTypesAgree(t *testing.T) {
	const n, k = 5, 160
	for _, d := range []ir.DType{ir.BFloat16, ir.Float16} {
		narrow := as(t, d, normal(4, n*k), n, k)
		v, err := narrow.Float32s()
		require.NoError(t, err)
		for _, f := range formats() {
			want := newProducer("w", ir.Float32Tensor(v, n, k), spanning(f), ir.Float32).data()
			got := newProducer("w", narrow, spanning(f), ir.Float32).data()
			for i := range want {
				require.Equal(t, bytesOf(t, want[i]), bytesOf(t, got[i]), "%v of %v, result %d", f, d, i)
			}
		}
	}
}

func TestTinyScales(t *testing.T) {
	for _, f := range formats() {
		v := make([]float32, f.BlockSize)
		for i := range v {
			v[i] = math.Float32frombits(uint32(i + 1)) // subnormal: 1/scale is infinite
		}
		m, _ := matrix(t, ir.Float32Tensor(v, 1, int64(len(v))), f, ir.Float32)
		got := make([]float32, len(v))
		require.NoError(t, m.Row(got, 0))
		for i := range got {
			require.False(t, math.IsNaN(float64(got[i])), f)
			require.InDelta(t, v[i], got[i], 1e-37)
		}
		// In float16 the scale is far from what was asked for, or 0.
		for i := range v {
			v[i] = float32(i-3) * 1e-8
		}
		m, _ = matrix(t, ir.Float32Tensor(v, 1, int64(len(v))), f, ir.Float16)
		require.NoError(t, m.Row(got, 0))
		for i := range got {
			require.InDelta(t, v[i], got[i], 3e-6, f)
		}
	}
}

func TestNotFinite(t *testing.T) {
	inf := float32(math.Inf(1))
	for _, c := range []struct {
		why  string
		bad  float32
		want string
	}{
		{"not a number", float32(math.NaN()), "NaN at output 2, input 37"},
		{"overflow of an earlier step", inf, "+Inf at output 2, input 37"},
		{"negative", -inf, "-Inf at output 2, input 37"},
	} {
		for _, d := range []ir.DType{ir.Float32, ir.BFloat16, ir.Float16} {
			for _, sym := range []bool{true, false} {
				v := normal(5, 3*64)
				v[2*64+37] = c.bad
				p := newProducer("model.w", as(t, d, v, 3, 64), spanning(Format{4, 32, sym}), ir.Float32)
				_, err := p.data()[outPadded].ReadAt(make([]byte, 1), 0)
				require.ErrorIs(t, err, ErrNotFinite, c.why)
				require.ErrorContains(t, err, "model.w has "+c.want, c.why)
			}
		}
	}
	v := normal(6, 32)
	v[3], v[9] = math.MaxFloat32, -math.MaxFloat32
	_, err := newProducer("model.w", ir.Float32Tensor(v, 1, 32), spanning(Format{4, 32, false}), ir.Float32).data()[outPadded].ReadAt(make([]byte, 1), 0)
	require.ErrorContains(t, err, "the range of model.w at output 0, inputs 0 to 31, exceeds float32")
}

// Shards must not show in the result, and the measured error must be that of the whole.
func TestManyShards(t *testing.T) {
	const n, k = 3000, 512
	f := Format{4, 32, false}
	v := normal(7, n*k)
	p := newProducer("w", ir.Float32Tensor(v, n, k), spanning(f), ir.Float32)
	require.Greater(t, p.Shards(), 4)
	require.Greater(t, p.stride, int64(1), "the error is measured on a part")
	d := p.data()
	last := newProducer("w", ir.Float32Tensor(v[(n-1)*k:], 1, k), spanning(f), ir.Float32).data()
	packed := bytesOf(t, d[outPadded])
	require.Equal(t, bytesOf(t, last[outPadded]), packed[(n-1)*f.RowBytes(k):])

	whole := newProducer("w", p.source, spanning(f), ir.Float32)
	whole.stride = 1
	bytesOf(t, whole.data()[outPadded])
	got, want := (&weight{p: p, rows: p.source, form: spanning(f)}).report(), (&weight{p: whole, rows: p.source, form: spanning(f)}).report()
	require.InEpsilon(t, want.RMSE, got.RMSE, 0.02)
	require.InDelta(t, want.SNR, got.SNR, 0.2)
	require.InDelta(t, 21.8, want.SNR, 0.5, "INT4 of a normal distribution in blocks of 32")
}

func BenchmarkProduce(b *testing.B) {
	const n, k = 1024, 1024
	for _, source := range []ir.DType{ir.BFloat16, ir.Float32, ir.Float16} {
		for _, f := range []form{
			{RTN, ScaleMax, Format{4, 32, true}}, {RTN, ScaleMax, Format{4, 32, false}}, {RTN, ScaleMax, Format{4, 128, false}}, {RTN, ScaleMax, Format{8, 32, false}},
			{RTN, ScaleMSE, Format{4, 32, true}}, {RTN, ScaleMSE, Format{4, 32, false}}, {RTN, ScaleMSE, Format{4, 128, true}}, {RTN, ScaleMSE, Format{8, 128, true}},
			{HQQ, "", Format{4, 32, true}}, {HQQ, "", Format{4, 32, false}},
		} {
			b.Run(fmt.Sprintf("%v to %v, %s %s", source, f.format, f.method, f.scale), func(b *testing.B) {
				narrow, err := ir.Cast(ir.Float32Tensor(normal(1, n*k), n, k), source)
				require.NoError(b, err)
				raw, err := narrow.Bytes()
				require.NoError(b, err)
				p := newProducer("w", &ir.Tensor{DType: source, Shape: narrow.Shape, Data: ir.NewBuffer(raw)}, f, ir.Float32)
				out := []io.WriterAt{discard{}, discard{}, discard{}, discard{}}
				for b.Loop() {
					for s := range p.Shards() {
						if err := p.Produce(s, out); err != nil {
							b.Fatal(err)
						}
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(n*k), "ns/weight")
			})
		}
	}
}
