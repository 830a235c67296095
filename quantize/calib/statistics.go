package calib

import (
	"context"
	"fmt"
	"math"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/quantize"
)

// Collect runs the model as it is and gives the statistics of all activations that the plan's targets are
// multiplied with.
func Collect(ctx context.Context, m *ir.Model, plan *quantize.Plan, samples [][]int64, o Options) (quantize.Statistics, error) {
	c := &collector{stats: quantize.Statistics{}}
	if err := observe(ctx, m, plan, plan.Targets(), samples, o, c); err != nil {
		return nil, err
	}
	return c.stats, nil
}

// collector is the observer that adds up channels.
type collector struct {
	stats  quantize.Statistics
	tokens int
	sums   channelSums
}

// channelSums are in float64: millions of tokens may be added up.
type channelSums struct {
	mean, square []float64
	max          []float32
}

func (c *collector) begin(_ *point, width int) error {
	c.tokens = 0
	c.sums = channelSums{make([]float64, width), make([]float64, width), make([]float32, width)}
	return nil
}

// observe adds a batch. Channels are divided among the cores, so that each is added up in one order.
func (c *collector) observe(_ context.Context, p *point, x *ort.Tensor) error {
	data, width := ort.Data[float32](x), len(c.sums.max)
	c.tokens += len(data) / width
	const piece = 64
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for lo := 0; lo < width; lo += piece {
		group.Go(func() error {
			c.sums.add(data, width, lo, min(lo+piece, width))
			return nil
		})
	}
	_ = group.Wait()
	return nil
}

func (s *channelSums) add(data []float32, width, lo, hi int) {
	mean, square, largest := s.mean[lo:hi], s.square[lo:hi], s.max[lo:hi]
	for at := 0; at < len(data); at += width {
		for i, v := range data[at+lo : at+hi] {
			a := math.Float32frombits(math.Float32bits(v) &^ (1 << 31))
			mean[i] += float64(a)
			square[i] += float64(v) * float64(v)
			largest[i] = max(largest[i], a)
		}
	}
}

func (c *collector) finish(_ context.Context, p *point, _ func(*ir.Node) bool) (map[*ir.Node]*ort.Tensor, error) {
	width := len(c.sums.max)
	s := &quantize.Channels{Mean: make([]float32, width), Square: make([]float32, width), Max: c.sums.max}
	for i := range width {
		s.Mean[i] = float32(c.sums.mean[i] / float64(c.tokens))
		s.Square[i] = float32(c.sums.square[i] / float64(c.tokens))
		if s.Square[i]-s.Square[i] != 0 {
			return nil, fmt.Errorf("calib: %w: channel %d of %s is not finite", quantize.ErrHessian, i, p.x.Name)
		}
	}
	c.stats[p.x.Name] = s
	return nil, nil
}
