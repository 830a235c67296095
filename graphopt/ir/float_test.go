package ir

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// half computes a 16-bit float from its definition, in float64, where every step is exact.
func half(bits uint16, fraction int) float64 {
	exponent := 15 - fraction
	bias := 1<<(exponent-1) - 1
	e := int(bits>>fraction) & (1<<exponent - 1)
	f := float64(bits&(1<<fraction-1)) / float64(int(1)<<fraction)
	v := 0.0
	switch e {
	case 0:
		v = math.Ldexp(f, 1-bias)
	case 1<<exponent - 1:
		v = math.Inf(1)
		if f != 0 {
			v = math.NaN()
		}
	default:
		v = math.Ldexp(1+f, e-bias)
	}
	if bits>>15 == 1 {
		v = -v
	}
	return v
}

func TestHalfFloats(t *testing.T) {
	formats := []struct {
		name     string
		fraction int
		widen    func(uint16) float32
		narrow   func(float32) uint16
	}{
		{"float16", 10, Float16ToFloat32, Float32ToFloat16},
		{"bfloat16", 7, func(x uint16) float32 { return math.Float32frombits(uint32(x) << 16) }, Float32ToBFloat16},
	}
	for _, f := range formats {
		t.Run(f.name, func(t *testing.T) {
			inf := uint16(1<<15 - 1<<f.fraction)
			for bits := range 1 << 16 {
				x := uint16(bits)
				want, got := half(x, f.fraction), float64(f.widen(x))
				if math.IsNaN(want) {
					require.Truef(t, math.IsNaN(got), "%#x widened", x)
					y := f.narrow(float32(got))
					require.Truef(t, y&inf == inf && y&^(inf|1<<15) != 0, "%#x must stay a NaN, is %#x", x, y)
					require.Equal(t, x>>15, y>>15, "sign of a NaN")
					continue
				}
				if got != want || math.Signbit(got) != math.Signbit(want) {
					t.Fatalf("%#x widens to %v, want %v", x, got, want)
				}
				if y := f.narrow(float32(got)); y != x {
					t.Fatalf("%#x widens to %v, which narrows to %#x", x, got, y)
				}
				if x&0x7fff >= inf {
					continue
				}
				// Half way to the next number goes to the even one, anything beside it to the nearer
				// one. Beyond the largest finite number the next one would be 2^(emax+1).
				next := half(x+1, f.fraction)
				if x&0x7fff == inf-1 {
					next = 2*got - half(x-1, f.fraction)
				}
				middle := float32((got + next) / 2)
				if float64(middle) != (got+next)/2 {
					t.Fatalf("the middle after %#x is not a float32", x)
				}
				away := float32(math.Inf(1))
				if got < 0 || math.Signbit(got) {
					away = -away
				}
				even := x + x&1
				for _, c := range []struct {
					in   float32
					want uint16
				}{{middle, even}, {math.Nextafter32(middle, 0), x}, {math.Nextafter32(middle, away), x + 1}} {
					if y := f.narrow(c.in); y != c.want {
						t.Fatalf("%v (%x) narrows to %#x, want %#x", c.in, c.in, y, c.want)
					}
				}
			}
			require.Equal(t, inf, f.narrow(math.MaxFloat32), "overflow")
			require.Equal(t, uint16(0), f.narrow(math.SmallestNonzeroFloat32), "underflow")
			require.Equal(t, uint16(1<<15), f.narrow(-math.SmallestNonzeroFloat32), "underflow keeps the sign")
		})
	}
}

// A number that would become infinite is found, the last one that would not is not.
func TestConvertOverflow(t *testing.T) {
	inf := float32(math.Inf(1))
	for _, c := range []struct {
		to   DType
		v    []float32
		want int
	}{
		{Float16, []float32{65504, -65519.996, inf, -inf}, -1},
		{Float16, []float32{1, -65520}, 1},
		{Float16, append(make([]float32, 1000), 1e9), 1000}, // behind the first pieces that are converted
		{BFloat16, []float32{65536, 3.39e38}, -1},
		{BFloat16, []float32{math.MaxFloat32}, 0},
		{Float64, []float32{math.MaxFloat32}, -1},
	} {
		src := make([]byte, 4*len(c.v))
		encodeFloats(src, c.v, Float32)
		i, x := convert(make([]byte, len(c.v)*c.to.Bits()/8), src, Float32, c.to)
		require.Equal(t, c.want, i, "%v", c.v)
		if i >= 0 {
			require.Equal(t, c.v[i], x)
		}
	}
}

// Data inside a protobuf begins at any byte; converting must not depend on it.
func TestConvertUnaligned(t *testing.T) {
	values := []float32{0, 1, -2.5, 65504, 0.0009765625, float32(math.Inf(-1)), 7}
	types := []DType{Float32, Float64, Float16, BFloat16}
	for _, from := range types {
		for _, to := range types {
			src := make([]byte, len(values)*from.Bits()/8)
			encodeFloats(src, values, from)
			want := make([]byte, len(values)*to.Bits()/8)
			convert(want, src, from, to)
			got := make([]byte, len(want)+8)[1:][:len(want)]
			convert(got, append(make([]byte, 1), src...)[1:], from, to)
			require.Equal(t, want, got, "%v to %v", from, to)
			back := make([]float32, len(values))
			decodeFloats(back, got, to)
			if from != BFloat16 && to != BFloat16 { // 65504 needs eleven bits
				require.Equal(t, values, back, "%v to %v", from, to)
			}
		}
	}
}
