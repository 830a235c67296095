package inspect

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// drawing is a part of a graph as boxes and edges.
type drawing struct {
	boxes []box
	edges []edge
}

// box is a node, or a value that is joined to nodes outside; or, in a layout, a place where an edge passes
// a rank.
type box struct {
	lines   []string // the operator first, then constants and the type of the first result
	title   string   // all there is to say
	outside bool
	bend    bool
	rank    int // from the top
	at      int // from the left, in its rank
}

// edge is a value on its way from one box to another.
type edge struct {
	from, to int
	via      []int  // the bends of a layout
	title    string // name and type
}

// ErrTooLarge is reported for more nodes than a drawing can show.
var ErrTooLarge = errors.New("too many nodes to draw")

// maxDrawn is far above the nodes of a layer, of which an export has a hundred.
const maxDrawn = 2000

func newDrawing(nodes []*ir.Node) (*drawing, error) {
	if len(nodes) > maxDrawn {
		return nil, fmt.Errorf("inspect: %w: %d, at most %d", ErrTooLarge, len(nodes), maxDrawn)
	}
	d := &drawing{}
	boxOf := map[*ir.Node]int{}
	for _, n := range nodes {
		boxOf[n] = len(d.boxes)
		d.boxes = append(d.boxes, nodeBox(n))
	}
	outer := map[*ir.Value]int{} // values from outside
	for i, n := range nodes {
		for _, v := range n.Inputs() {
			if v == nil || v.Const != nil && !v.IsInput() {
				continue
			}
			from, inside := boxOf[v.Producer()]
			if v.Producer() == nil || !inside {
				var known bool
				if from, known = outer[v]; !known {
					from = d.outside(v)
					outer[v] = from
				}
			}
			d.join(from, i, v)
		}
	}
	for i, n := range nodes {
		for _, v := range n.Outputs() {
			if v != nil && leaves(v, boxOf) {
				d.join(i, d.outside(v), v)
			}
		}
	}
	return d, nil
}

// leaves reports whether a value is read outside of the drawn nodes.
func leaves(v *ir.Value, boxOf map[*ir.Node]int) bool {
	return v.IsOutput() || slices.ContainsFunc(v.Uses(), func(u ir.Use) bool {
		_, inside := boxOf[u.Node]
		return !inside
	})
}

func (d *drawing) outside(v *ir.Value) int {
	lines := []string{shorten(v.Name)}
	if v.Producer() == nil && v.Type != nil {
		lines = append(lines, typeText(v.Type))
	}
	d.boxes = append(d.boxes, box{lines: lines, title: v.Name + "\n" + typeText(v.Type), outside: true})
	return len(d.boxes) - 1
}

func (d *drawing) join(from, to int, v *ir.Value) {
	d.edges = append(d.edges, edge{from: from, to: to, title: v.Name + "\n" + typeText(v.Type)})
}

func nodeBox(n *ir.Node) box {
	b := box{lines: []string{opName(n)}, title: nodeName(n) + "\n" + strings.ReplaceAll(attrsText(n), ", ", "\n")}
	if n.Name != "" {
		b.lines = append(b.lines, shorten(n.Name))
	}
	for _, v := range n.Inputs() {
		if v != nil && v.Constant() != nil {
			b.lines = append(b.lines, shorten(v.Name)+" "+tensorText(v.Const))
			b.title += "\n" + v.Name + " " + tensorText(v.Const)
		}
	}
	if out := n.Output(0); out != nil && out.Type != nil {
		b.lines = append(b.lines, "→ "+typeText(out.Type))
	}
	return b
}

// shorten keeps the end of a long name, which is what differs within a layer.
func shorten(name string) string {
	const most = 40
	if utf8.RuneCountInString(name) <= most {
		return name
	}
	runes := []rune(name)
	return "…" + string(runes[len(runes)-most+1:])
}

// layout puts boxes in ranks: each below those that it reads from, and within a rank about under them.
// It gives the boxes of each rank from left to right.
func (d *drawing) layout() [][]int {
	d.rank()
	d.bend()
	var ranks [][]int
	for i, b := range d.boxes {
		for len(ranks) <= b.rank {
			ranks = append(ranks, nil)
		}
		ranks[b.rank] = append(ranks[b.rank], i)
	}
	d.place(ranks)
	above, below := d.neighbours()
	// The barycenter method of Sugiyama, Tagawa and Toda (1981): down and up, a few times.
	for range 4 {
		for r := 1; r < len(ranks); r++ {
			d.order(ranks[r], above)
		}
		for r := len(ranks) - 2; r >= 0; r-- {
			d.order(ranks[r], below)
		}
	}
	return ranks
}

// bend gives edges that pass ranks a place in each, so that they do not pass through boxes.
func (d *drawing) bend() {
	for i := range d.edges {
		e := &d.edges[i]
		for r := d.boxes[e.from].rank + 1; r < d.boxes[e.to].rank; r++ {
			e.via = append(e.via, len(d.boxes))
			d.boxes = append(d.boxes, box{bend: true, rank: r})
		}
	}
}

// rank gives each box the longest way from the top; values from outside come right above what reads
// them. Edges go from a lower number to a higher one, but for those from and to the outside: nodes are
// in graph order.
func (d *drawing) rank() {
	for changed, round := true, 0; changed && round <= len(d.boxes); round++ {
		changed = false
		for _, e := range d.edges {
			if need := d.boxes[e.from].rank + 1; d.boxes[e.to].rank < need {
				d.boxes[e.to].rank, changed = need, true
			}
		}
	}
	lowest := map[int]int{}
	for _, e := range d.edges {
		if d.boxes[e.from].outside {
			if at, ok := lowest[e.from]; !ok || d.boxes[e.to].rank < at {
				lowest[e.from] = d.boxes[e.to].rank
			}
		}
	}
	for i, below := range lowest {
		d.boxes[i].rank = below - 1
	}
}

// place numbers the boxes of each rank.
func (d *drawing) place(ranks [][]int) {
	for _, rank := range ranks {
		for at, i := range rank {
			d.boxes[i].at = at
		}
	}
}

// neighbours gives, for each box, those that it is joined to in the rank above and in the one below.
func (d *drawing) neighbours() (above, below [][]int) {
	above, below = make([][]int, len(d.boxes)), make([][]int, len(d.boxes))
	for _, e := range d.edges {
		from := e.from
		for _, to := range append(slices.Clone(e.via), e.to) {
			above[to] = append(above[to], from)
			below[from] = append(below[from], to)
			from = to
		}
	}
	return above, below
}

// order sorts a rank by the mean place of the boxes that each is joined to.
func (d *drawing) order(rank []int, joined [][]int) {
	mean := func(i int) float64 {
		if len(joined[i]) == 0 {
			return float64(d.boxes[i].at)
		}
		sum := 0
		for _, j := range joined[i] {
			sum += d.boxes[j].at
		}
		return float64(sum) / float64(len(joined[i]))
	}
	slices.SortStableFunc(rank, func(a, b int) int { return cmp.Compare(mean(a), mean(b)) })
	for at, i := range rank {
		d.boxes[i].at = at
	}
}
