package inspect

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// WriteDot writes nodes and what joins them in the language of Graphviz. Constants are lines in the box
// of the node that reads them; what comes from other nodes, or goes there, is an ellipse.
//
// Errors: ErrTooLarge.
func WriteDot(w io.Writer, name string, nodes []*ir.Node) error {
	d, err := newDrawing(nodes)
	if err != nil {
		return err
	}
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "digraph %s {\n  node [shape=box, fontname=\"sans-serif\", fontsize=10];\n", dotText(name))
	for i, x := range d.boxes {
		shape := ""
		if x.outside {
			shape = ", shape=ellipse"
		}
		fmt.Fprintf(b, "  n%d [label=%s%s];\n", i, dotText(strings.Join(x.lines, "\n")), shape)
	}
	for _, e := range d.edges {
		fmt.Fprintf(b, "  n%d -> n%d [tooltip=%s];\n", e.from, e.to, dotText(e.title))
	}
	fmt.Fprintln(b, "}")
	return b.Flush()
}

// dotText quotes a string as the language has it.
func dotText(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}
