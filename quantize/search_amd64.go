package quantize

import "golang.org/x/sys/cpu"

// run computes the sums of all trials on a block.
func (t *trials) run(w []float32) {
	if !cpu.X86.HasAVX2 || len(w) == 0 || len(w)%8 != 0 {
		t.runPortable(w)
		return
	}
	sumsAVX2(t, &w[0], len(w))
}

// runWeighted is run with the sums Σ count·q·w and Σ count·q².
func (t *trials) runWeighted(w, counts []float32) {
	if counts = counts[:len(w)]; !cpu.X86.HasAVX2 || len(w) == 0 || len(w)%8 != 0 {
		t.runWeightedPortable(w, counts)
		return
	}
	weightedSumsAVX2(t, &w[0], &counts[0], len(w))
}

// pack4Cut packs levels of 4 bits of weights that may lie anywhere: those beyond the ends go to the ends.
func pack4Cut(dst []byte, w []float32, recip, bias float32) {
	if n := len(w) / 2; !cpu.X86.HasAVX2 || n == 0 || n%16 != 0 || len(dst) < n {
		pack4CutPortable(dst, w, recip, bias)
		return
	}
	pack4CutAVX2(&dst[0], &w[0], len(w), recip, bias)
}

// The functions below give what those in Go give, to the bit, for a number of weights that is a multiple of 8, and of 32
// for pack4CutAVX2, and not 0.

//go:noescape
func sumsAVX2(t *trials, w *float32, weights int)

//go:noescape
func weightedSumsAVX2(t *trials, w, counts *float32, weights int)

//go:noescape
func pack4CutAVX2(dst *byte, w *float32, weights int, recip, bias float32)
