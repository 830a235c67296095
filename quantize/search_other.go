//go:build !amd64

package quantize

// run computes the sums of all trials on a block.
func (t *trials) run(w []float32) { t.runPortable(w) }
