// Package packedtest makes checkpoints with weights in the formats of GPTQ and AWQ, and says what those weights are. It
// takes numbers and writes them as the formats' definitions have them, element by element: it shares nothing with
// package packed, which reads them. Only tests import it.
package packedtest

import (
	"encoding/binary"
	"math"
	"math/rand/v2"

	"github.com/qwenrt/qwenrt/models/safetensors"
)

// Format is how a layer is written.
type Format struct {
	AWQ       bool
	Bits      int // 4 or 8
	Group     int
	StoreZ    bool // GPTQ version 2: zero points as they are; version 1 stores z - 1
	Symmetric bool
	ActOrder  uint64 // not 0: inputs belong to groups in a random order, from this seed
	Highest   bool   // some zero points are 2^Bits, as only z - 1 can say
}

// Layer is a quantised layer with K inputs and N outputs.
type Layer struct {
	Format
	N, K  int
	Q     [][]int     // [K][N]
	Z     [][]int     // [groups][N]
	S     [][]float32 // [groups][N], exact in float16
	Index []int       // group of each input
}

// Random makes a layer. Its weights are about as large as those of an initialised model.
func Random(f Format, n, k int, seed uint64) *Layer {
	r := rand.New(rand.NewPCG(seed, 5))
	l := &Layer{Format: f, N: n, K: k, Index: make([]int, k)}
	top := 1 << f.Bits
	for i := range l.Index {
		l.Index[i] = i / f.Group
	}
	if f.ActOrder != 0 {
		rand.New(rand.NewPCG(f.ActOrder, uint64(k))).Shuffle(k, func(i, j int) { l.Index[i], l.Index[j] = l.Index[j], l.Index[i] })
	}
	for range k {
		row := make([]int, n)
		for j := range row {
			row[j] = r.IntN(top)
		}
		l.Q = append(l.Q, row)
	}
	for range (k + f.Group - 1) / f.Group {
		z, s := make([]int, n), make([]float32, n)
		for j := range z {
			switch z[j] = top/2 - 2 + r.IntN(5); {
			case f.Symmetric:
				z[j] = top / 2
			case f.Highest && r.IntN(4) == 0:
				z[j] = top
			}
			s[j] = float32(1+r.IntN(1000)) / float32(int(1)<<21) * 64 / float32(top) // of 10 bits
		}
		l.Z, l.S = append(l.Z, z), append(l.S, s)
	}
	return l
}

// Weight is what input k counts for output n, exactly.
func (l *Layer) Weight(n, k int) float64 {
	g := l.Index[k]
	return float64(l.Q[k][n]-l.Z[g][n]) * float64(l.S[g][n])
}

// Tensor is a tensor to write.
type Tensor struct {
	safetensors.Entry
	Data []byte
}

// awqOrder is the output of each four bits of a word, from the lowest.
var awqOrder = []int{0, 2, 4, 6, 1, 3, 5, 7}

// Tensors are the layer's, as a checkpoint has them.
func (l *Layer) Tensors(module string) []Tensor {
	per := 32 / l.Bits
	groups := len(l.Z)
	qweight, qzeros := make([]uint32, l.K*l.N/per), make([]uint32, groups*l.N/per)
	put := func(words []uint32, at, lane, value int) {
		words[at] |= uint32(value) << (lane * l.Bits)
	}
	for k, row := range l.Q {
		for n, q := range row {
			if !l.AWQ {
				put(qweight, k/per*l.N+n, k%per, q)
			}
		}
		if l.AWQ {
			for c := range l.N / 8 {
				for lane, n := range awqOrder {
					put(qweight, k*l.N/8+c, lane, row[8*c+n])
				}
			}
		}
	}
	for g, row := range l.Z {
		for c := range l.N / per {
			for lane := range per {
				z := row[per*c+lane]
				switch {
				case l.AWQ:
					z = row[8*c+awqOrder[lane]]
				case !l.StoreZ:
					z--
				}
				put(qzeros, g*l.N/per+c, lane, z)
			}
		}
	}
	shape := []int64{int64(l.K / per), int64(l.N)}
	if l.AWQ {
		shape = []int64{int64(l.K), int64(l.N / 8)}
	}
	scales := make([]byte, 0, 2*groups*l.N)
	for _, row := range l.S {
		for _, s := range row {
			scales = binary.LittleEndian.AppendUint16(scales, half(s))
		}
	}
	all := []Tensor{
		{safetensors.Entry{Name: module + ".qweight", DType: safetensors.I32, Shape: shape}, words(qweight)},
		{safetensors.Entry{Name: module + ".qzeros", DType: safetensors.I32, Shape: []int64{int64(groups), int64(l.N / per)}}, words(qzeros)},
		{safetensors.Entry{Name: module + ".scales", DType: safetensors.F16, Shape: []int64{int64(groups), int64(l.N)}}, scales},
	}
	if !l.AWQ {
		index := make([]uint32, l.K)
		for k, g := range l.Index {
			index[k] = uint32(g)
		}
		all = append(all, Tensor{safetensors.Entry{Name: module + ".g_idx", DType: safetensors.I32, Shape: []int64{int64(l.K)}}, words(index)})
	}
	return all
}

// Dense is the layer's weight in float32, [N, K]: exact, as the product of small integers and scales of 11 bits is.
func (l *Layer) Dense(name string) Tensor {
	var data []byte
	for n := range l.N {
		for k := range l.K {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(float32(l.Weight(n, k))))
		}
	}
	return Tensor{safetensors.Entry{Name: name, DType: safetensors.F32, Shape: []int64{int64(l.N), int64(l.K)}}, data}
}

func words(v []uint32) (b []byte) {
	for _, w := range v {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return b
}

// half is a float16 of a number that is one, normal or not.
func half(s float32) uint16 {
	fraction, exponent := math.Frexp(float64(s)) // in [0.5, 1)
	if exponent < -13 {
		return uint16(math.Ldexp(float64(s), 24))
	}
	return uint16(exponent+14)<<10 | uint16(math.Ldexp(fraction, 11))&0x3ff
}
