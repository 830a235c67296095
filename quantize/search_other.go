//go:build !amd64

package quantize

// run computes the sums of all trials on a block.
func (t *trials) run(w []float32) { t.runPortable(w) }

// runWeighted is run with the sums Σ count·q·w and Σ count·q².
func (t *trials) runWeighted(w, counts []float32) { t.runWeightedPortable(w, counts) }

// pack4Cut packs levels of 4 bits of weights that may lie anywhere: those beyond the ends go to the ends.
func pack4Cut(dst []byte, w []float32, recip, bias float32) { pack4CutPortable(dst, w, recip, bias) }
