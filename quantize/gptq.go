package quantize

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"
)

// GPTQ (Frantar et al. 2022, arXiv:2210.17323): the inputs of a weight are rounded one after the
// other, and what an input's rounding does to the product is made good by those that are still to be
// rounded. With H = XᵀX of calibration inputs X the squared error of the product is tr(E H Eᵀ), E being
// the error of the weights.
//
// It is computed in the form that Chee et al. (2023, arXiv:2307.13304, theorem 6) show to be the same:
// with H = U D Uᵀ, U unit upper triangular,
//
//	q(j) = round(w(j) + Σ_{i<j} (w(i) - q(i)) · U(i, j))
//
// which takes one Cholesky decomposition of H and no inverse. Inputs with large H(j, j) go first
// ("act-order"); the blocks that share a scale stay those of the original order, and their scales are
// fixed beforehand, so that no permutation reaches the file.

// ErrHessian is reported for statistics that cannot be decomposed: inputs that are not finite.
var ErrHessian = errors.New("calibration statistics are not positive definite")

// GPTQOptions says how GPTQ works. The zero value is what is recommended.
type GPTQOptions struct {
	// Damping is added to the diagonal of H, in units of its mean: it keeps corrections small where
	// calibration has seen little. Default DefaultDamping; up to 1.
	Damping float64 `yaml:"damping"`
	// InOrder rounds inputs in the order in which they are stored, not in the order of H's diagonal.
	InOrder bool `yaml:"in_order"`
}

// DefaultDamping is what the paper takes.
const DefaultDamping = 0.01

// Validate reports what is wrong with o.
func (o GPTQOptions) Validate() error {
	_, err := o.resolve()
	return err
}

func (o GPTQOptions) resolve() (GPTQOptions, error) {
	if o.Damping == 0 {
		o.Damping = DefaultDamping
	}
	if !(o.Damping > 0 && o.Damping <= 1) {
		return o, fmt.Errorf("quantize: damping %v: it must be above 0 and at most 1", o.Damping)
	}
	return o, nil
}

const (
	// panelWidth is how many inputs are rounded between two products with everything before them.
	panelWidth = 128
	// chunkFloats is about how many weights are rounded together: 32 MB, with their errors 64.
	chunkFloats = 8 << 20
	// tileRows is how many outputs a goroutine takes through a panel: 32 kB of weights.
	tileRows = 64
)

// Factor is the decomposition of the second moments of a product's inputs, ready for any number of
// weights that are multiplied with those inputs.
type Factor struct {
	alg   Algebra
	k     int
	order []int // input at each place; the last place is rounded first
	// panels[b] holds columns b·panelWidth and on of the factor in the order of places, from the
	// diagonal down: unit lower triangular.
	panels [][]float32
	pivots []float64 // D, by place
	counts []float32 // H's diagonal over its mean, by input: how much an error of a weight counts
	mean   float64   // of H's diagonal
}

// Close gives the memory back.
func (f *Factor) Close() {
	for _, p := range f.panels {
		f.alg.Free(p)
	}
	f.panels = nil
}

// Factorise decomposes h, [k, k] and symmetric, the sum or mean of xxᵀ over inputs x. It does not change h.
// Inputs that were 0 throughout are rounded to nearest.
//
// It takes k²/6 multiplications in the algebra, and 2k² bytes until Close.
func Factorise(ctx context.Context, alg Algebra, h []float32, k int, o GPTQOptions) (*Factor, error) {
	o, err := o.resolve()
	if err != nil {
		return nil, err
	}
	if k < 1 || len(h) != k*k {
		return nil, fmt.Errorf("quantize: second moments of %d inputs in %d numbers", k, len(h))
	}
	diagonal, mean, err := diagonalOf(h, k)
	if err != nil {
		return nil, err
	}
	f := &Factor{alg: alg, k: k, order: placeOrder(diagonal, o.InOrder), counts: normalised(diagonal), mean: mean}
	// What is short of positive definite by rounding is so by a little: more damping mends it.
	for damping := o.Damping; damping <= 1; damping *= 10 {
		err = f.decompose(ctx, h, damping*mean, mean)
		if !errors.Is(err, ErrHessian) {
			break
		}
		f.Close()
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	f.normalise()
	return f, nil
}

// diagonalOf gives H's diagonal and its mean.
func diagonalOf(h []float32, k int) (d []float32, mean float64, err error) {
	d = make([]float32, k)
	for i := range d {
		d[i] = h[i*k+i]
		if !(d[i] >= 0) || d[i] > math.MaxFloat32 {
			return nil, 0, fmt.Errorf("quantize: %w: input %d has the second moment %v", ErrHessian, i, d[i])
		}
		mean += float64(d[i]) / float64(k)
	}
	if mean == 0 { // nothing is known: every error counts the same
		mean = 1
	}
	return d, mean, nil
}

// placeOrder puts the input that is rounded first last. Elimination in the decomposition then goes from
// the first place to the last.
func placeOrder(diagonal []float32, inOrder bool) []int {
	order := make([]int, len(diagonal))
	for i := range order {
		order[i] = i
	}
	if !inOrder {
		slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(diagonal[b], diagonal[a]) })
	}
	slices.Reverse(order)
	return order
}

// decompose fills the panels with the lower Cholesky factor of H + damping, in the order of places, one
// panel after the other: each has those to its left subtracted, then its own triangle is solved for.
func (f *Factor) decompose(ctx context.Context, h []float32, damping, unseen float64) error {
	for first := 0; first < f.k; first += panelWidth {
		width, height := min(panelWidth, f.k-first), f.k-first
		panel, err := f.alg.Alloc(width * height)
		if err != nil {
			return err
		}
		f.panels = append(f.panels, panel)
		f.gather(panel, h, first, width, damping, unseen)
		if err := f.eliminate(ctx, len(f.panels)-1, width, height); err != nil {
			return err
		}
	}
	return nil
}

// gather takes a panel out of H.
func (f *Factor) gather(panel, h []float32, first, width int, damping, unseen float64) {
	parallel(f.k-first, tileRows, func(lo, hi int) {
		for r := lo; r < hi; r++ {
			row := h[f.order[first+r]*f.k:][:f.k]
			dst := panel[r*width:][:width]
			for c := range dst {
				dst[c] = row[f.order[first+c]]
			}
			if r < width {
				if dst[r] == 0 {
					dst[r] = float32(unseen)
				}
				dst[r] += float32(damping)
			}
		}
	})
}

// eliminate turns panel b, [height, width], into its columns of the factor.
func (f *Factor) eliminate(ctx context.Context, b, width, height int) error {
	other, err := f.alg.Alloc(width * height)
	if err != nil {
		return err
	}
	defer func() { f.alg.Free(other) }()
	for p := range b {
		left := f.panels[p][(b-p)*panelWidth*panelWidth:] // panels to the left are of full width
		err := f.alg.Gemm(ctx, Gemm{
			M: height, N: width, K: panelWidth, TransB: true, Negative: true,
			A: left[:height*panelWidth], B: left[:width*panelWidth], C: f.panels[b], Y: other,
		})
		if err != nil {
			return err
		}
		f.panels[b], other = other, f.panels[b]
	}
	panel := f.panels[b]
	lower, err := cholesky(panel, width)
	if err != nil {
		return err
	}
	for r := range width {
		for c := range width {
			panel[r*width+c] = float32(lower[r*width+c])
		}
	}
	if height == width {
		return nil
	}
	inverse := invertLower(lower, width)
	below := panel[width*width:]
	solved := other[:len(below)]
	err = f.alg.Gemm(ctx, Gemm{M: height - width, N: width, K: width, TransB: true, A: below, B: inverse, Y: solved})
	if err != nil {
		return err
	}
	copy(below, solved)
	return nil
}

// cholesky is the lower factor of the square at the top of a panel.
func cholesky(a []float32, n int) ([]float64, error) {
	l := make([]float64, n*n)
	for r := range n {
		for c := range r + 1 {
			sum := float64(a[r*n+c])
			for i := range c {
				sum -= l[r*n+i] * l[c*n+i]
			}
			switch {
			case r > c:
				l[r*n+c] = sum / l[c*n+c]
			case !(sum > 0) || math.IsInf(sum, 0):
				return nil, fmt.Errorf("quantize: %w", ErrHessian)
			default:
				l[r*n+r] = math.Sqrt(sum)
			}
		}
	}
	return l, nil
}

// invertLower is the inverse of a lower triangular matrix.
func invertLower(l []float64, n int) []float32 {
	inv := make([]float64, n*n)
	for c := range n {
		inv[c*n+c] = 1 / l[c*n+c]
		for r := c + 1; r < n; r++ {
			sum := 0.0
			for i := c; i < r; i++ {
				sum -= l[r*n+i] * inv[i*n+c]
			}
			inv[r*n+c] = sum / l[r*n+r]
		}
	}
	narrow := make([]float32, n*n)
	for i, v := range inv {
		narrow[i] = float32(v)
	}
	return narrow
}

// normalise makes the factor's diagonal 1 and keeps its squares.
func (f *Factor) normalise() {
	f.pivots = make([]float64, f.k)
	for b, panel := range f.panels {
		first := b * panelWidth
		width := min(panelWidth, f.k-first)
		scale := make([]float32, width)
		for c := range width {
			d := panel[c*width+c]
			scale[c] = 1 / d
			f.pivots[first+c] = float64(d) * float64(d)
		}
		for r := 0; r < len(panel); r += width {
			for c := range width {
				panel[r+c] *= scale[c]
			}
		}
	}
}

// LevelWriters take a weight in its format: packed weights, scales and zero points as Format lays them
// out, at their offsets. ZeroPoints is not used by symmetric formats.
type LevelWriters struct{ Packed, Scales, ZeroPoints io.WriterAt }

// Compensated says what rounding has cost.
type Compensated struct {
	// Loss is tr(E H Eᵀ) over tr(W H Wᵀ): the squared error of the product relative to the product.
	Loss float64
	// RMSE and SNR (in decibels) are of the weights themselves, which GPTQ lets grow.
	RMSE, SNR float64
}

// Round quantises a weight of the plan that is multiplied with the factor's inputs and writes it to out.
// What the levels stand for goes to values, [K, N], unless that is nil.
//
// Outputs are independent of each other, and each is computed in one order: the result does not depend
// on the number of cores, as far as it does not in the algebra.
func (f *Factor) Round(ctx context.Context, t Target, out LevelWriters, values []float32) (Compensated, error) {
	if int(t.Columns()) != f.k {
		return Compensated{}, fmt.Errorf("quantize: %s has %d inputs, the statistics %d", t.Tensor, t.Columns(), f.k)
	}
	n := int(t.Rows())
	if values != nil && len(values) != n*f.k {
		return Compensated{}, fmt.Errorf("quantize: %s: %d values for %d by %d", t.Tensor, len(values), f.k, n)
	}
	size := min(n, max(tileRows, chunkFloats/f.k/tileRows*tileRows))
	c, err := f.newChunk(t, size)
	if err != nil {
		return Compensated{}, err
	}
	defer c.close()
	var sums compensationSums
	for first := 0; first < n; first += size {
		if err := c.run(ctx, first, min(size, n-first)); err != nil {
			return Compensated{}, err
		}
		if err := c.write(out, values, n); err != nil {
			return Compensated{}, err
		}
		sums.add(c.sums)
	}
	return sums.result(), nil
}

// compensationSums are added up over tiles in order.
type compensationSums struct {
	count                        int64
	loss, energy, noise, squares float64
}

func (s *compensationSums) add(o compensationSums) {
	s.count += o.count
	s.loss += o.loss
	s.energy += o.energy
	s.noise += o.noise
	s.squares += o.squares
}

func (s compensationSums) result() Compensated {
	var c Compensated
	if s.energy > 0 {
		c.Loss = s.loss / s.energy
	}
	if s.count > 0 {
		c.RMSE = math.Sqrt(s.noise / float64(s.count))
	}
	if s.noise > 0 {
		c.SNR = 10 * math.Log10(s.squares/s.noise)
	}
	return c
}

// chunk is some outputs of a weight on their way. Arrays are [places or blocks, outputs].
type chunk struct {
	*Factor
	Target
	q            *rtn
	first, count int // outputs
	w, e, panel  []float32
	levels       []uint8
	scale        []float32
	recip        []float32
	zero         []float32
	sums         compensationSums
}

func (f *Factor) newChunk(t Target, size int) (*chunk, error) {
	blocks := int(t.Format.Blocks(t.Columns()))
	c := &chunk{
		Factor: f, Target: t, q: &rtn{t.Format, t.scaleType()},
		levels: make([]uint8, f.k*size),
		scale:  make([]float32, blocks*size), recip: make([]float32, blocks*size), zero: make([]float32, blocks*size),
	}
	var err error
	for _, b := range []struct {
		to *[]float32
		n  int
	}{{&c.w, f.k * size}, {&c.e, f.k * size}, {&c.panel, panelWidth * size}} {
		if *b.to, err = f.alg.Alloc(b.n); err != nil {
			c.close()
			return nil, err
		}
	}
	return c, nil
}

func (c *chunk) close() {
	for _, b := range [][]float32{c.w, c.e, c.panel} {
		if b != nil {
			c.alg.Free(b)
		}
	}
}

// run rounds outputs [first, first+count).
func (c *chunk) run(ctx context.Context, first, count int) error {
	c.first, c.count, c.sums = first, count, compensationSums{}
	if err := c.load(); err != nil {
		return err
	}
	tiles := (count + tileRows - 1) / tileRows
	sums := make([]compensationSums, tiles)
	for b := len(c.panels) - 1; b >= 0; b-- {
		from := b * panelWidth
		width := min(panelWidth, c.k-from)
		done := from + width // places from here on are rounded
		adjusted := c.panel[:width*count]
		if done == c.k {
			copy(adjusted, c.w[from*count:])
		} else {
			err := c.alg.Gemm(ctx, Gemm{
				M: width, N: count, K: c.k - done, TransA: true,
				A: c.panels[b][width*width:], B: c.e[done*count : c.k*count],
				C: c.w[from*count : done*count], Y: adjusted,
			})
			if err != nil {
				return err
			}
		}
		parallel(count, tileRows, func(lo, hi int) {
			c.round(b, from, width, lo, hi, &sums[lo/tileRows])
		})
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("quantize: %w", err)
		}
	}
	for _, s := range sums {
		c.sums.add(s)
	}
	return nil
}

// load reads the chunk's weights into places and fixes the scales of their blocks.
func (c *chunk) load() error {
	k := c.k
	place := make([]int, k) // of an input
	for p, i := range c.order {
		place[i] = p
	}
	tiles := (c.count + tileRows - 1) / tileRows
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for tile := range tiles {
		group.Go(func() error {
			lo := tile * tileRows
			hi := min(lo+tileRows, c.count)
			rows := make([]float32, (hi-lo)*k)
			if err := c.matrix.ReadFloat32(rows, int64(c.first+lo)*int64(k)); err != nil {
				return fmt.Errorf("quantize: read %s: %w", c.Tensor, err)
			}
			for n := lo; n < hi; n++ {
				row := rows[(n-lo)*k:][:k]
				if err := c.grids(row, n); err != nil {
					return err
				}
			}
			for i := range k {
				dst := c.w[place[i]*c.count+lo:][:hi-lo]
				for n := range dst {
					dst[n] = rows[n*k+i]
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// grids fixes the scales and zero points of output n of the chunk.
func (c *chunk) grids(row []float32, n int) error {
	for b, at := 0, 0; at < len(row); b, at = b+1, at+c.Format.BlockSize {
		end := min(at+c.Format.BlockSize, len(row))
		g, ok := c.q.blockGrid(row[at:end], c.counts[at:end])
		if !ok {
			return notFiniteRow(c.Tensor, row, int64(c.first+n))
		}
		if g.recip-g.recip != 0 { // weights next to nothing
			g.recip = 0
		}
		i := b*c.count + n
		c.scale[i], c.recip[i], c.zero[i] = g.scale, g.recip, float32(g.zero)
	}
	return nil
}

// round takes outputs [lo, hi) of the chunk through the places of panel b, from the last to the first.
func (c *chunk) round(b, from, width, lo, hi int, sums *compensationSums) {
	top := float32(c.Format.top())
	factor := c.panels[b]
	for p := width - 1; p >= 0; p-- {
		block := c.order[from+p] / c.Format.BlockSize * c.count
		scale, recip, zero := c.scale[block+lo:block+hi], c.recip[block+lo:block+hi], c.zero[block+lo:block+hi]
		at := (from+p)*c.count + lo
		a := c.panel[p*c.count+lo:][:hi-lo]
		w, e, levels := c.w[at:][:len(a)], c.e[at:][:len(a)], c.levels[at:][:len(a)]
		scale, recip, zero = scale[:len(a)], recip[:len(a)], zero[:len(a)]
		var loss, squares, noise float64
		for n, v := range a {
			x := min(max(float32(v*recip[n])+zero[n]+0.5, 0), top)
			level := float32(int32(x))
			value := (level - zero[n]) * scale[n]
			levels[n] = uint8(level)
			e[n] = w[n] - value
			d := float64(v - value)
			loss += d * d
			noise += float64(e[n]) * float64(e[n])
			squares += float64(w[n]) * float64(w[n])
		}
		place := from + p
		sums.loss += loss * c.pivots[place]
		sums.energy += squares * float64(c.counts[c.order[place]]) * c.mean
		sums.noise += noise
		sums.squares += squares
		sums.count += int64(len(a))
		for r := range p {
			addScaled(c.panel[r*c.count+lo:][:len(a)], e, factor[p*width+r])
		}
	}
}

// addScaled adds u·x to y.
func addScaled(y, x []float32, u float32) {
	x = x[:len(y)]
	for len(y) >= 4 {
		a, b := (*[4]float32)(y), (*[4]float32)(x)
		a[0] += u * b[0]
		a[1] += u * b[1]
		a[2] += u * b[2]
		a[3] += u * b[3]
		y, x = y[4:], x[4:]
	}
	for i := range y {
		y[i] += u * x[i]
	}
}

// write packs the chunk.
func (c *chunk) write(out LevelWriters, values []float32, n int) error {
	k, f := int64(c.k), c.Format
	packed := make([]byte, int64(c.count)*f.RowBytes(k))
	scales := make([]byte, int64(c.count)*f.Blocks(k)*int64(c.q.scaleType.Bits()/8))
	zeros := make([]byte, int64(c.count)*f.ZeroPointBytes(k))
	place := make([]int, c.k)
	for p, i := range c.order {
		place[i] = p
	}
	parallel(c.count, tileRows, func(lo, hi int) {
		for i := range c.k {
			levels := c.levels[place[i]*c.count:]
			for r := lo; r < hi; r++ {
				row := packed[int64(r)*f.RowBytes(k):]
				if f.Bits == 4 {
					row[i/2] |= levels[r] << (i & 1 * 4)
				} else {
					row[i] = levels[r]
				}
			}
		}
		for r := lo; r < hi; r++ {
			c.packGrids(scales, zeros, r)
		}
		if values == nil {
			return
		}
		for i := range c.k {
			block := i / f.BlockSize * c.count
			levels, dst := c.levels[place[i]*c.count:], values[i*n+c.first:]
			for r := lo; r < hi; r++ {
				dst[r] = (float32(levels[r]) - c.zero[block+r]) * c.scale[block+r]
			}
		}
	})
	for _, part := range []struct {
		w io.WriterAt
		b []byte
	}{{out.Packed, packed}, {out.Scales, scales}, {out.ZeroPoints, zeros}} {
		if len(part.b) == 0 {
			continue
		}
		off := int64(c.first) * (int64(len(part.b)) / int64(c.count))
		if _, err := part.w.WriteAt(part.b, off); err != nil {
			return fmt.Errorf("quantize: %s: %w", c.Tensor, err)
		}
	}
	return nil
}

// packGrids stores the scales and zero points of output r of the chunk.
func (c *chunk) packGrids(scales, zeros []byte, r int) {
	f, k := c.Format, int64(c.k)
	blocks := int(f.Blocks(k))
	width := int64(blocks) * int64(c.q.scaleType.Bits()/8)
	p := producer{rtn: *c.q}
	row := zeros[int64(r)*f.ZeroPointBytes(k):][:f.ZeroPointBytes(k)]
	if f.Bits == 4 && blocks%2 == 1 && len(row) > 0 {
		row[len(row)-1] = uint8(f.middle()) << 4 // the half that no block has, as ONNX Runtime fills it
	}
	for b := range blocks {
		p.putScale(scales[int64(r)*width:][:width], b, c.scale[b*c.count+r])
		if !f.Symmetric {
			putZero(row, b, uint8(c.zero[b*c.count+r]), f.Bits)
		}
	}
}

// parallel calls do for pieces of [0, n) of the given size, on all cores.
func parallel(n, size int, do func(lo, hi int)) {
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for lo := 0; lo < n; lo += size {
		group.Go(func() error {
			do(lo, min(lo+size, n))
			return nil
		})
	}
	_ = group.Wait()
}
