package sample

import (
	"math"
	"unsafe"
)

// argmax returns the lowest index of the largest value, or -1 if there is none above
// minus infinity.
func argmax(v []float32) int {
	best := -1
	for i := nextAbove(v, 0, float32(math.Inf(-1))); i >= 0; i = nextAbove(v, i+1, v[i]) {
		best = i
	}
	return best
}

// kthLargest returns the k-th largest value, or minus infinity if there are fewer.
// It keeps the largest k in a heap, whose root few values of a large vocabulary exceed.
func kthLargest(v []float32, heap []float32, k int) float32 {
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
		if bound >= 0 {
			i = skipBlocks(v, i, int32(math.Float32bits(bound)&^(1<<31))) // minus zero is zero
		}
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

// skipBlocks returns i moved on over whole blocks without a value above the float
// whose bits are given, which is not negative.
func skipBlocks(v []float32, i int, bits int32) int {
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
