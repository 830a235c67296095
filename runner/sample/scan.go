package sample

import (
	"math"
	"unsafe"
)

// Argmax returns the lowest index of the largest value, or -1 if there is none above
// minus infinity. NaN is passed over.
func Argmax(v []float32) int {
	best := -1
	for i := nextAbove(v, 0, float32(math.Inf(-1))); i >= 0; i = nextAbove(v, i+1, v[i]) {
		best = i
	}
	return best
}

// fewLargest is up to which k the k largest are kept in a heap.
const fewLargest = 128

// largestRoom is the room that kthLargest wants.
func largestRoom(n, k int) int {
	if k <= fewLargest {
		return k
	}
	return n
}

// kthLargest returns the k-th largest value, or minus infinity if there are fewer.
// Of a small k it keeps the largest in a heap, whose root few values of a large vocabulary exceed.
func kthLargest(v, room []float32, k int) float32 {
	if k > fewLargest {
		return kthByDigits(v, room, k)
	}
	heap := room[:0]
	i := 0
	for ; i < len(v) && len(heap) < k; i++ {
		if v[i] == v[i] { // not NaN
			heap = append(heap, v[i])
		}
	}
	if len(heap) < k {
		return float32(math.Inf(-1))
	}
	for j := k/2 - 1; j >= 0; j-- {
		sift(heap, j)
	}
	for i = nextAbove(v, i, heap[0]); i >= 0; i = nextAbove(v, i+1, heap[0]) {
		heap[0] = v[i]
		sift(heap, 0)
	}
	return heap[0]
}

// kthByDigits finds the k-th largest value digit by digit of its bits, from the highest: it counts values by
// digits, and goes on with those whose digit is the one that the k-th must have.
func kthByDigits(v, room []float32, k int) float32 {
	const digits = 1 << 11
	var counts [digits]int32
	left, known := v, uint32(0)
	for _, shift := range [...]uint{21, 10, 0} {
		clear(counts[:])
		for _, x := range left {
			if x == x {
				counts[ordered(x)>>shift%digits]++
			}
		}
		digit := uint32(digits - 1)
		for ; digit > 0 && k > int(counts[digit]); digit-- {
			k -= int(counts[digit])
		}
		if k > int(counts[digit]) {
			return float32(math.Inf(-1))
		}
		known |= digit % digits << shift
		n, same := 0, rangeOf(known, known+1<<shift)
		for _, x := range left { // without a branch, which would be taken at random
			room[n] = x
			n += int(same.has(ordered(x)))
		}
		left = room[:n]
	}
	return fromOrdered(known)
}

// ordered maps floats to integers that are ordered as they are; minus zero comes before zero.
func ordered(x float32) uint32 {
	bits := math.Float32bits(x)
	return bits ^ (uint32(int32(bits)>>31) | 1<<31)
}

func fromOrdered(bits uint32) float32 {
	return math.Float32frombits(bits ^ (uint32(int32(^bits)>>31) | 1<<31))
}

// sift moves heap[i] down to where no child is smaller.
func sift(heap []float32, i int) {
	x := heap[i]
	for {
		child := 2*i + 1
		if child >= len(heap) {
			break
		}
		if child+1 < len(heap) && heap[child+1] < heap[child] {
			child++
		}
		if x <= heap[child] {
			break
		}
		heap[i] = heap[child]
		i = child
	}
	heap[i] = x
}

// nextAbove returns the first index from i on whose value is above bound, or -1.
//
// Almost no value is, once bound is near the largest. Floats with the sign bit 0 are
// ordered as the integers of their bits are, and those with the sign bit 1 are below
// as integers too. So for a bound of at least 0 the integers are compared, which takes
// half the time (one instruction for load and comparison, where a float takes two and
// a check for NaN); what passes, a NaN perhaps, is compared again as a float.
func nextAbove(v []float32, i int, bound float32) int {
	for i < len(v) {
		i = skipBlocks(v, i, bound)
		for end := min(i+block, len(v)); i < end; i++ {
			if v[i] > bound {
				return i
			}
		}
	}
	return -1
}

// block is the number of values that skipBlocks looks at together.
const block = 8

// skipBlocks returns i moved on over whole blocks without a value above bound; for a bound below 0, i.
func skipBlocks(v []float32, i int, bound float32) int {
	if !(bound >= 0) {
		return i
	}
	bits := int32(math.Float32bits(bound) &^ (1 << 31)) // minus zero is zero
	ints := unsafe.Slice((*int32)(unsafe.Pointer(unsafe.SliceData(v))), len(v))
	for ; i+block <= len(ints); i += block {
		q := (*[block]int32)(ints[i:])
		// One test each: joined by || they compile to twice the instructions.
		if q[0] > bits {
			break
		}
		if q[1] > bits {
			break
		}
		if q[2] > bits {
			break
		}
		if q[3] > bits {
			break
		}
		if q[4] > bits {
			break
		}
		if q[5] > bits {
			break
		}
		if q[6] > bits {
			break
		}
		if q[7] > bits {
			break
		}
	}
	return i
}
