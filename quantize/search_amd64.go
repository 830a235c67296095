package quantize

import "golang.org/x/sys/cpu"

// run computes the sums of all trials on a block.
func (t *trials) run(w []float32) {
	if !cpu.X86.HasAVX2 || t.n == 0 || t.n%2 != 0 || len(w) == 0 || len(w)%8 != 0 {
		t.runPortable(w)
		return
	}
	sumsAVX2(&t.sum[0], &t.grid[0], t.n, &w[0], len(w))
}

// sumsAVX2 is runPortable, to the bit, for an even number of trials and a multiple of eight weights, neither 0.
//
//go:noescape
func sumsAVX2(s *sum, t *trial, trials int, w *float32, weights int)
