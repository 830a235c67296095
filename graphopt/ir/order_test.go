package ir

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLargestFirst(t *testing.T) {
	m, g, x := newTestModel()
	constant := func(name string, n int64) *Value {
		return g.AddInitializer(name, Float32Tensor(make([]float32, n), n))
	}
	small, middle, large := constant("small", largeConstant-1), constant("middle", largeConstant), constant("large", largeConstant+1)
	y := g.Op("A", "a", []*Value{x, small})
	y = g.Op("B", "b", []*Value{y, middle})
	y = g.Op("C", "c", []*Value{y})
	y = g.Op("D", "d", []*Value{y, large})
	y = g.Op("E", "e", []*Value{y, middle, middle})
	g.AddOutput(y)
	file, err := Encode(m)
	require.NoError(t, err)

	sorted, err := LargestFirst(file)
	require.NoError(t, err)
	var names []string
	require.NoError(t, fields(sorted, "model", func(f field) error {
		if f.num != modelGraph {
			return nil
		}
		return fields(f.b, "graph", func(f field) error {
			if f.num != graphNode {
				return nil
			}
			return fields(f.b, "node", func(f field) error {
				if f.num == nodeName {
					names = append(names, string(f.b))
				}
				return nil
			})
		})
	}))
	require.Equal(t, []string{"e", "d", "b", "a", "c"}, names, "e reads the middle one twice; a and c have nothing large")

	again, err := Parse(sorted)
	require.NoError(t, err)
	require.NoError(t, again.Graph.Sort())
	back, err := Encode(again)
	require.NoError(t, err)
	require.Equal(t, file, back, "nothing but the order of the nodes had changed")

}
