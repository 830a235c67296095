package sample

import (
	"cmp"
	"math"
	"slices"
	"sort"
)

// Top-p and typical sampling both keep the candidates nearest to a depth, the fewest that have a share of the
// weight together: nearest to the best one, and nearest to the mean. Nothing is sorted for it. The slots of depth,
// whose weights are known, are taken from the nearest on until they have the share: so the last candidate
// that is kept is within half a slot of the last one's distance. Those nearer are kept, those farther are not, and
// the few between are parted further.

// A cut keeps the candidates nearer to a depth than radius, and of those just there the ones up to an index.
type cut struct {
	center, radius float64
	until          int32
}

func (s *Sampler) kept(c *candidates, k cut, i int) bool {
	d := math.Abs(s.depth(c.scores[i]) - k.center)
	return d < k.radius || d == k.radius && int32(i) <= k.until
}

// nearest finds the cut for a share of the weight of candidates, of which slots are known. Of those equally near it
// keeps all (ties), or as many as it takes, of the lowest ids. spans becomes the weights of what is kept.
func (s *Sampler) nearest(c *candidates, center, share float64, ties bool) cut {
	target := share * c.total
	far := farthest(c.mass, center, target)
	edge := s.between(c, center, far-0.5, far+0.5)
	k := s.settle(c, edge, cut{center: center, radius: far - 0.5, until: -1}, target)
	if ties && k.until >= 0 {
		k.until = math.MaxInt32
	}
	for _, i := range edge {
		if s.kept(c, k, int(i)) {
			c.spans[i/span] += c.weights[i]
		}
	}
	return k
}

// farthest is how far from center the last slot is that a target takes, the nearest first.
func farthest(mass *[slots]float64, center, target float64) (far float64) {
	up := int(math.Ceil(center))
	down := up - 1
	for sum := 0.0; sum < target && (down >= 0 || up < slots); {
		if up == slots || down >= 0 && center-float64(down) < float64(up)-center {
			far = center - float64(down)
			sum += mass[down]
			down--
		} else {
			far = float64(up) - center
			sum += mass[up]
			up++
		}
	}
	return far
}

// between returns the candidates from lo to hi away from center, and makes spans the weights of those nearer.
// Both sets are ranges of scores, so that depths are compared only to find the ends of these ranges.
func (s *Sampler) between(c *candidates, center, lo, hi float64) (edge []int32) {
	beyond := func(score float32) float64 { return s.depth(score) - center } // falls as scores rise
	near := s.scoresFrom(func(score float32) bool { return beyond(score) < lo }, func(score float32) bool { return beyond(score) <= -lo })
	far := s.scoresFrom(func(score float32) bool { return beyond(score) <= hi }, func(score float32) bool { return beyond(score) < -hi })
	below := math.Nextafter32(fromOrdered(far.first), float32(math.Inf(-1)))
	n := 0
	for j := range c.spans {
		first := j * span
		part := c.scores[first:min(first+span, len(c.scores))]
		weights := c.weights[first:][:len(part)]
		i := skipBlocks(part, 0, below) // mostly all of it, where few tokens have nearly all the weight
		total, found := divide(part[i:], weights[i:], near, far, s.edge[n:], int32(first+i))
		c.spans[j] = total
		n += found
	}
	return s.edge[:n]
}

// divide adds up the weights of the scores that are near, and puts the places of those that are only far into edge.
// Which are near no processor could predict: there is no branch for it.
func divide(scores []float32, weights []float64, near, far scoreRange, edge []int32, first int32) (total float64, n int) {
	weights = weights[:len(scores)]
	for i, score := range scores {
		bits := ordered(score)
		isNear := near.has(bits)
		total += math.Float64frombits(math.Float64bits(weights[i]) & -isNear)
		if far.has(bits) != isNear { // rare
			edge[n] = first + int32(i)
			n++
		}
	}
	return total, n
}

// A scoreRange is consecutive scores, by their order.
type scoreRange struct{ first, size uint32 }

func rangeOf(first, end uint32) scoreRange { return scoreRange{first, max(end, first) - first} }

// has is 1 for a score in the range, else 0.
func (r scoreRange) has(bits uint32) (one uint64) {
	if bits-r.first < r.size {
		one = 1
	}
	return one
}

// scoresFrom finds the range that begins where begun becomes true, and ends before ended does.
func (s *Sampler) scoresFrom(begun, ended func(score float32) bool) scoreRange {
	least := ordered(float32(math.Inf(-1)))
	n := int(ordered(float32(s.best))-least) + 1
	first := sort.Search(n, func(i int) bool { return begun(fromOrdered(least + uint32(i))) })
	end := sort.Search(n, func(i int) bool { return ended(fromOrdered(least + uint32(i))) })
	return rangeOf(least+uint32(first), least+uint32(end))
}

const (
	// fewEdge candidates are sorted; more are first parted into edgeParts.
	fewEdge   = 64
	edgeParts = 1024
)

// settle takes as many candidates of the edge as the target lacks, the nearest first.
func (s *Sampler) settle(c *candidates, edge []int32, k cut, target float64) cut {
	sum := 0.0
	for _, w := range c.spans {
		sum += w
	}
	distance := func(i int32) float64 { return math.Abs(s.depth(c.scores[i]) - k.center) }
	left := append(s.left[:0], edge...)
	for len(left) > fewEdge {
		lo, hi := math.Inf(1), 0.0
		for _, i := range left {
			d := distance(i)
			lo, hi = min(lo, d), max(hi, d)
		}
		scale := edgeParts / (hi - lo)
		if !(scale < math.MaxFloat64) { // all are equally near
			break
		}
		partOf := func(i int32) int { return min(int((distance(i)-lo)*scale), edgeParts-1) }
		parts := s.parts
		clear(parts[:])
		for _, i := range left {
			parts[partOf(i)] += c.weights[i]
		}
		last := 0
		for ; last < edgeParts-1 && sum+parts[last] < target; last++ {
			sum += parts[last]
		}
		left = slices.DeleteFunc(left, func(i int32) bool { return partOf(i) != last })
	}
	slices.SortFunc(left, func(a, b int32) int { return cmp.Or(cmp.Compare(distance(a), distance(b)), cmp.Compare(a, b)) })
	for _, i := range left {
		if sum >= target {
			break
		}
		sum += c.weights[i]
		k.radius, k.until = distance(i), i
	}
	return k
}
