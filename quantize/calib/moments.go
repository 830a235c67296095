package calib

import (
	"fmt"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/ort"
)

// moments adds up xxᵀ over activations x. The sum is symmetric: channels are divided into ranges, and what two
// ranges have in common is computed once, which with eight ranges saves seven of sixteen multiplications.
type moments struct {
	width   int
	starts  []int // of the ranges, and width behind the last one
	session *ort.Session
	binding *ort.Binding
	sums    []*ort.Tensor // of ranges i and j ≤ i, [size i, size j], row by row of such pairs
	next    []*ort.Tensor // where the next sums go
}

const (
	momentRanges = 8
	narrowRange  = 128 // narrower ones multiply slowly
)

func newMoments(width int, dir string, threads int) (*moments, error) {
	ranges := max(1, min(momentRanges, width/narrowRange))
	m := &moments{width: width}
	for i := range ranges + 1 {
		m.starts = append(m.starts, i*width/ranges)
	}
	for i := range ranges {
		for j := range i + 1 {
			for _, list := range []*[]*ort.Tensor{&m.sums, &m.next} {
				t, err := ort.NewTensor(ort.Float32, m.size(i), m.size(j))
				if err != nil {
					m.close()
					return nil, fmt.Errorf("calib: %w", err)
				}
				*list = append(*list, t)
			}
		}
	}
	var err error
	if m.session, err = openModel(m.model(), dir, threads); err == nil {
		m.binding, err = m.session.NewBinding()
	}
	if err != nil {
		m.close()
		return nil, fmt.Errorf("calib: %w", err)
	}
	return m, nil
}

func (m *moments) size(i int) int64 { return int64(m.starts[i+1] - m.starts[i]) }

func (m *moments) close() {
	if m.binding != nil {
		m.binding.Close()
	}
	if m.session != nil {
		m.session.Close()
	}
	for _, t := range append(m.sums, m.next...) {
		t.Close()
	}
	m.sums, m.next = nil, nil
}

// pairs calls f for all pairs of ranges, in the order of sums.
func (m *moments) pairs(f func(n, i, j int)) {
	n := 0
	for i := range len(m.starts) - 1 {
		for j := range i + 1 {
			f(n, i, j)
			n++
		}
	}
}

func sumName(n int) string  { return fmt.Sprintf("sum%d", n) }
func nextName(n int) string { return fmt.Sprintf("next%d", n) }

// model is next(i, j) = sum(i, j) + x(i)ᵀ · x(j).
func (m *moments) model() *ir.Model {
	model := ir.NewModel("moments", 10, 21)
	g := model.Graph
	x := g.AddInput("x", ir.TensorType(ir.Float32, ir.Sym("tokens"), ir.Fixed(int64(m.width))))
	parts := []*ir.Value{x}
	if ranges := len(m.starts) - 1; ranges > 1 {
		sizes, names := make([]int64, ranges), make([]string, ranges)
		for i := range sizes {
			sizes[i], names[i] = m.size(i), fmt.Sprintf("x%d", i)
		}
		parts = g.Add(ir.NodeSpec{
			Op: "Split", Inputs: []*ir.Value{x, g.AddInitializer("sizes", ir.Int64Tensor(sizes))},
			Outputs: names, Attrs: []*ir.Attr{ir.Int("axis", 1)},
		}).Outputs()
	}
	m.pairs(func(n, i, j int) {
		t := ir.TensorType(ir.Float32, ir.Fixed(m.size(i)), ir.Fixed(m.size(j)))
		sum := g.AddInput(sumName(n), t)
		next := g.Add(ir.NodeSpec{
			Op: "Gemm", Inputs: []*ir.Value{parts[i], parts[j], sum}, Outputs: []string{nextName(n)}, Attrs: []*ir.Attr{ir.Int("transA", 1)},
		}).Output(0)
		next.Type = t
		g.AddOutput(next)
	})
	return model
}

// add takes activations [..., width].
func (m *moments) add(x *ort.Tensor) error {
	tokens := int64(len(x.Bytes()) / 4 / m.width)
	flat, err := x.View(0, tokens, int64(m.width))
	if err != nil {
		return fmt.Errorf("calib: %w", err)
	}
	defer flat.Close()
	if err := m.binding.BindInput("x", flat); err != nil {
		return fmt.Errorf("calib: %w", err)
	}
	for n := range m.sums {
		if err := m.binding.BindInput(sumName(n), m.sums[n]); err != nil {
			return fmt.Errorf("calib: %w", err)
		}
		if err := m.binding.BindOutput(nextName(n), m.next[n]); err != nil {
			return fmt.Errorf("calib: %w", err)
		}
	}
	if err := m.binding.Run(nil); err != nil {
		return fmt.Errorf("calib: second moments of %d channels: %w", m.width, err)
	}
	m.sums, m.next = m.next, m.sums
	return nil
}

// matrix writes the whole sum to dst, [width, width], and lets the parts go.
func (m *moments) matrix(dst []float32) {
	m.pairs(func(n, i, j int) {
		sum, cols := ort.Data[float32](m.sums[n]), int(m.size(j))
		for r := range int(m.size(i)) {
			row := m.starts[i] + r
			for c, v := range sum[r*cols:][:cols] {
				col := m.starts[j] + c
				dst[row*m.width+col] = v
				dst[col*m.width+row] = v
			}
		}
	})
	m.close()
}
