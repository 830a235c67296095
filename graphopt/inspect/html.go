package inspect

import (
	"fmt"
	"html/template"
	"io"
	"slices"
	"unicode/utf8"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// WriteHTML writes a page that shows a model's summary and a drawing of some of its nodes, such as those
// of a Layer. The page loads nothing and needs no network. title is the model's name.
//
// Errors: ErrTooLarge.
func WriteHTML(w io.Writer, m *ir.Model, title string, nodes []*ir.Node) error {
	d, err := newDrawing(nodes)
	if err != nil {
		return err
	}
	err = page.Execute(w, struct {
		Title   string
		Summary *Summary
		Picture picture
	}{title, Summarize(m), d.picture()})
	if err != nil {
		return fmt.Errorf("inspect: write page: %w", err)
	}
	return nil
}

// picture is a drawing with coordinates, in pixels.
type picture struct {
	Width, Height float64
	Boxes         []pictureBox
	Edges         []pictureEdge
}

type pictureBox struct {
	X, Y, Width, Height float64
	Title               string
	Outside             bool
	Lines               []pictureLine
}

type pictureLine struct {
	X, Y  float64
	Text  string
	First bool
}

type pictureEdge struct{ Path, Title string }

// Sizes of the drawing in pixels, for text of 11 pixels.
const (
	charWidth  = 6.2
	lineHeight = 15.0
	padding    = 8.0
	gapX       = 28.0
	gapY       = 56.0
	margin     = 20.0
)

func (d *drawing) picture() picture {
	ranks := d.layout()
	boxes := make([]pictureBox, len(d.boxes)) // bends too
	widths := make([]float64, len(ranks))
	p := picture{}
	y := margin
	for r, rank := range ranks {
		tallest := 0.0
		for _, i := range rank {
			boxes[i] = d.boxes[i].sized()
			boxes[i].Y = y
			widths[r] += boxes[i].Width + gapX
			tallest = max(tallest, boxes[i].Height)
		}
		for _, i := range rank {
			if d.boxes[i].bend {
				boxes[i].Height = tallest // edges pass a rank straight
			}
		}
		p.Width = max(p.Width, widths[r])
		y += tallest + gapY
	}
	for r, rank := range ranks {
		x := margin + (p.Width-widths[r])/2
		for _, i := range rank {
			boxes[i].move(x)
			x += boxes[i].Width + gapX
		}
	}
	p.Width, p.Height = p.Width+2*margin, y
	for i, b := range boxes {
		if !d.boxes[i].bend {
			p.Boxes = append(p.Boxes, b)
		}
	}
	for _, e := range d.edges {
		p.Edges = append(p.Edges, pictureEdge{e.path(boxes), e.title})
	}
	return p
}

// sized gives a box its size.
func (b *box) sized() pictureBox {
	if b.bend {
		return pictureBox{}
	}
	longest := 0
	p := pictureBox{Title: b.title, Outside: b.outside, Height: 2*padding + lineHeight*float64(len(b.lines))}
	for i, line := range b.lines {
		longest = max(longest, utf8.RuneCountInString(line))
		p.Lines = append(p.Lines, pictureLine{Text: line, First: i == 0 && !b.outside})
	}
	p.Width = 2*padding + charWidth*float64(longest)
	return p
}

// move puts a box in its place, once Y is set.
func (b *pictureBox) move(x float64) {
	b.X = x
	for i := range b.Lines {
		b.Lines[i].X = x + b.Width/2
		b.Lines[i].Y = b.Y + padding + lineHeight*(float64(i)+0.75)
	}
}

// path draws an edge from box to box, through its bends.
func (e *edge) path(boxes []pictureBox) string {
	from := &boxes[e.from]
	x, y := from.X+from.Width/2, from.Y+from.Height
	path := fmt.Sprintf("M%.1f %.1f", x, y)
	for _, i := range append(slices.Clone(e.via), e.to) {
		to := &boxes[i]
		nextX, nextY := to.X+to.Width/2, to.Y
		half := (nextY - y) / 2
		path += fmt.Sprintf("C%.1f %.1f %.1f %.1f %.1f %.1f", x, y+half, nextX, nextY-half, nextX, nextY)
		x, y = nextX, nextY
		if i != e.to {
			y += to.Height
			path += fmt.Sprintf("V%.1f", y)
		}
	}
	return path
}

var page = template.Must(template.New("page").Funcs(template.FuncMap{"size": sizeText}).Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{{.Title}}</title>
<style>
body { font: 14px sans-serif; margin: 2em; color: #222; }
table { border-collapse: collapse; margin: 0 2em 1em 0; float: left; }
caption { text-align: left; font-weight: bold; padding: .3em 0; }
td, th { border: 1px solid #ccc; padding: .15em .5em; text-align: left; font-weight: normal; }
td.n { text-align: right; }
.drawing { clear: both; overflow: auto; border: 1px solid #ccc; }
svg text { font: 11px sans-serif; text-anchor: middle; }
svg text.op { font-weight: bold; }
svg rect { fill: #eef4fb; stroke: #4a78a8; }
svg rect.outside { fill: #f6f6f6; stroke: #999; stroke-dasharray: 4 2; }
svg path.edge { fill: none; stroke: #888; }
</style>
</head>
<body>
<h1>{{.Title}}</h1>
{{with .Summary -}}
<table><caption>Model</caption>
<tr><th>producer</th><td>{{.Producer}}</td></tr>
<tr><th>IR version</th><td>{{.IRVersion}}</td></tr>
{{range .Opsets}}<tr><th>opset {{.Domain}}</th><td>{{.Version}}</td></tr>
{{end -}}
<tr><th>nodes</th><td>{{.Nodes}}</td></tr>
<tr><th>weights</th><td>{{.Parameters}}</td></tr>
<tr><th>bits a weight</th><td>{{printf "%.2f" .BitsPerWeight}}</td></tr>
</table>
<table><caption>Operators</caption>
{{range .Operators}}<tr><th>{{.Name}}</th><td class="n">{{.Count}}</td></tr>
{{end}}</table>
<table><caption>Constants</caption>
{{range .Constants}}<tr><th>{{.DType}}</th><td class="n">{{.Tensors}}</td><td class="n">{{size .Bytes}}</td></tr>
{{end}}</table>
{{end}}
{{with .Picture -}}
<div class="drawing">
<svg xmlns="http://www.w3.org/2000/svg" width="{{printf "%.0f" .Width}}" height="{{printf "%.0f" .Height}}">
<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#888"/></marker></defs>
{{range .Edges}}<path class="edge" d="{{.Path}}" marker-end="url(#arrow)"><title>{{.Title}}</title></path>
{{end -}}
{{range .Boxes}}<g><title>{{.Title}}</title><rect{{if .Outside}} class="outside" rx="12"{{else}} rx="3"{{end}} x="{{printf "%.1f" .X}}" y="{{printf "%.1f" .Y}}" width="{{printf "%.1f" .Width}}" height="{{printf "%.1f" .Height}}"/>
{{range .Lines}}<text{{if .First}} class="op"{{end}} x="{{printf "%.1f" .X}}" y="{{printf "%.1f" .Y}}">{{.Text}}</text>
{{end}}</g>
{{end -}}
</svg>
</div>
{{end -}}
</body>
</html>
`))

// sizeText is a size in decimal units.
func sizeText(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.2f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%d B", n)
}
