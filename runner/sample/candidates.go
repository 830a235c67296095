package sample

import "math"

// span is the number of candidates whose weights are added up together: to draw one is to draw a span, and
// then to look at no more than that.
const span = 512

// candidates are tokens that may yet be chosen, by id.
type candidates struct {
	ids     []int32 // nil where every token is one: their index is the id
	scores  []float32
	weights []float64 // 1 for the most probable

	spans  []float64 // weights of each span together
	total  float64
	moment float64         // weights times depths
	mass   *[slots]float64 // weights by slots, for filters that need them: else nil
}

func (c *candidates) id(i int) int32 {
	if c.ids == nil {
		return int32(i)
	}
	return c.ids[i]
}

// depth is how far a score lies below the best, in steps.
func (s *Sampler) depth(score float32) float64 { return depthOf(score, s.best, s.scale) }

func depthOf(score float32, best, scale float64) float64 {
	return float64((best - float64(score)) * scale)
}

// all makes every token a candidate.
func (s *Sampler) all(scores []float32) candidates {
	return candidates{scores: scores, weights: s.weights}
}

// atLeast makes the tokens of a score candidates.
func (s *Sampler) atLeast(scores []float32, least float32) candidates {
	if least == 0 {
		least = math.Float32frombits(1 << 31) // minus zero, which is as large, comes first
	}
	above := rangeOf(ordered(least), ordered(float32(math.Inf(1)))+1)
	below := math.Nextafter32(least, float32(math.Inf(-1)))
	ids, kept := s.ids[:len(scores)], s.scores[:len(scores)]
	n := 0
	for i := 0; i < len(scores); {
		i = skipBlocks(scores, i, below)
		for end := min(i+block, len(scores)); i < end; i++ { // without a branch, which would be taken at random
			ids[n], kept[n] = int32(i), scores[i]
			n += int(above.has(ordered(scores[i])))
		}
	}
	return candidates{ids: ids[:n], scores: kept[:n], weights: s.weights}
}

// leastScore is the lowest score of a token that has a share of the most probable one's probability.
func (s *Sampler) leastScore(share float64) float32 {
	if share == 0 {
		return float32(math.Inf(-1))
	}
	r := s.scoresFrom(func(score float32) bool {
		depth := s.depth(score)
		if depth >= maxDepth {
			return false
		}
		w, _ := weight(depth)
		return w >= share
	}, never)
	return fromOrdered(r.first)
}

func never(float32) bool { return false }

// keep leaves out the candidates that f does not want.
func (s *Sampler) keep(c *candidates, f func(i int) bool) {
	n := 0
	for i, score := range c.scores {
		if f(i) {
			s.ids[n], s.scores[n] = c.id(i), score
			n++
		}
	}
	c.ids, c.scores = s.ids[:n], s.scores[:n]
}

// weigh fills in all that is known of the candidates beside their scores.
func (s *Sampler) weigh(c *candidates, mass *[slots]float64) {
	c.mass, c.total, c.moment, c.spans = mass, 0, 0, s.spans[:0]
	if mass != nil {
		clear(mass[:])
	}
	for first := 0; first < len(c.scores); first += span {
		part := c.scores[first:min(first+span, len(c.scores))]
		total := 0.0
		if mass == nil {
			total = s.weighSpan(c.weights[first:], part)
		} else {
			var moment float64
			total, moment = s.survey(c.weights[first:], part, mass)
			c.moment += moment
		}
		c.spans = append(c.spans, total)
		c.total += total
	}
}

// weighSpan fills in weights and returns their sum.
func (s *Sampler) weighSpan(weights []float64, scores []float32) (total float64) {
	weights = weights[:len(scores)]
	best, scale := s.best, s.scale // in registers
	for i, score := range scores {
		depth := depthOf(score, best, scale)
		if !(depth < maxDepth) { // NaN too
			weights[i] = 0
			continue
		}
		w, _ := weight(depth)
		weights[i] = w
		total += w
	}
	return total
}

// survey does so too, and adds weights up by slots, and weights times depths.
func (s *Sampler) survey(weights []float64, scores []float32, mass *[slots]float64) (total, moment float64) {
	weights = weights[:len(scores)]
	best, scale := s.best, s.scale // in registers
	for i, score := range scores {
		depth := depthOf(score, best, scale)
		if !(depth < maxDepth) {
			weights[i] = 0
			continue
		}
		w, slot := weight(depth)
		weights[i] = w
		mass[slot%slots] += w
		total += w
		moment += float64(w * depth)
	}
	return total, moment
}
