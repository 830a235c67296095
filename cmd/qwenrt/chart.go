package main

import (
	"fmt"
	"html/template"
	"io"
	"math"
)

// point is a model in a chart.
type point struct {
	Name string
	x, y float64
	X, Y float64 // in pixels
	Left bool    // the name stands on the left, where there is room
}

// panel is one of the chart's diagrams: KL divergence, in powers of ten, against something.
type panel struct {
	Left, Top, Width, Height float64
	Label                    string
	Points                   []point
	XTicks, YTicks           []tick
}

type tick struct {
	At   float64 // in pixels
	Text string
}

// Sizes of the chart in pixels.
const (
	panelWidth  = 380.0
	panelHeight = 280.0
	panelGap    = 110.0
	chartTop    = 50.0
	chartLeft   = 80.0
)

// writeChart draws KL divergence against size and, where it was measured, against speed, as SVG. The
// reference is not drawn: its divergence is 0.
func writeChart(w io.Writer, rows []compared) error {
	var bySize, bySpeed panel
	bySize.Label, bySpeed.Label = "MB", "tg64, tokens/s"
	for _, r := range rows[1:] {
		kld := max(r.Divergence.KLD.Mean, 1e-8) // equal models have none, which has no logarithm
		bySize.Points = append(bySize.Points, point{Name: r.Model, x: float64(r.Bytes) / 1e6, y: kld})
		if r.TG64 > 0 {
			bySpeed.Points = append(bySpeed.Points, point{Name: r.Model, x: r.TG64, y: kld})
		}
	}
	panels := []*panel{&bySize}
	if len(bySpeed.Points) > 0 {
		panels = append(panels, &bySpeed)
	}
	for i, p := range panels {
		p.Left, p.Top, p.Width, p.Height = chartLeft+float64(i)*(panelWidth+panelGap), chartTop, panelWidth, panelHeight
		p.scale()
	}
	return chartTemplate.Execute(w, struct {
		Width, Height float64
		Title         string
		Panels        []*panel
	}{chartLeft + float64(len(panels))*(panelWidth+panelGap), chartTop + panelHeight + 60, "KL divergence from " + rows[0].Model, panels})
}

// scale puts points and ticks in their places.
func (p *panel) scale() {
	largest, low, high := 0.0, math.Inf(1), math.Inf(-1)
	for _, q := range p.Points {
		largest = max(largest, q.x)
		low, high = min(low, math.Floor(math.Log10(q.y))), max(high, math.Ceil(math.Log10(q.y)))
	}
	high = max(high, low+1)
	step := niceStep(largest)
	right := step * math.Ceil(largest/step)
	x := func(v float64) float64 { return p.Left + p.Width*v/right }
	y := func(v float64) float64 { return p.Top + p.Height*(high-math.Log10(v))/(high-low) }
	for i := range p.Points {
		q := &p.Points[i]
		q.X, q.Y = x(q.x), y(q.y)
		q.Left = q.x > 0.7*right
	}
	for v := 0.0; v <= right+step/2; v += step {
		p.XTicks = append(p.XTicks, tick{x(v), fmt.Sprintf("%.4g", v)})
	}
	for e := low; e <= high; e++ {
		p.YTicks = append(p.YTicks, tick{y(math.Pow(10, e)), fmt.Sprintf("%.0e", math.Pow(10, e))})
	}
}

// niceStep divides an axis up to v into four to ten steps of 1, 2 or 5 times a power of ten.
func niceStep(v float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(v)))
	switch {
	case v/power > 5:
		return power
	case v/power > 2:
		return power / 2
	}
	return power / 5
}

// Bottom and Right are where the axes end.
func (p *panel) Bottom() float64 { return p.Top + p.Height }
func (p *panel) Right() float64  { return p.Left + p.Width }

func (p *panel) Middle() float64 { return p.Left + p.Width/2 }

var chartTemplate = template.Must(template.New("chart").Funcs(template.FuncMap{
	"px":  func(v float64) string { return fmt.Sprintf("%.1f", v) },
	"add": func(a, b float64) float64 { return a + b },
}).Parse(`<svg xmlns="http://www.w3.org/2000/svg" width="{{px .Width}}" height="{{px .Height}}" font-family="sans-serif" font-size="11">
<rect width="100%" height="100%" fill="#fff"/>
<text x="20" y="25" font-size="14">{{.Title}}</text>
{{range $p := .Panels -}}
{{range .XTicks}}<path d="M{{px .At}} {{px $p.Top}}V{{px $p.Bottom}}" stroke="#eee"/><text x="{{px .At}}" y="{{px (add $p.Bottom 16)}}" text-anchor="middle">{{.Text}}</text>
{{end -}}
{{range .YTicks}}<path d="M{{px $p.Left}} {{px .At}}H{{px $p.Right}}" stroke="#ddd"/><text x="{{px (add $p.Left -6)}}" y="{{px (add .At 4)}}" text-anchor="end">{{.Text}}</text>
{{end -}}
<path d="M{{px .Left}} {{px .Top}}V{{px .Bottom}}H{{px .Right}}" fill="none" stroke="#444"/>
<text x="{{px .Middle}}" y="{{px (add .Bottom 36)}}" text-anchor="middle">{{.Label}}</text>
{{range .Points}}<circle cx="{{px .X}}" cy="{{px .Y}}" r="4" fill="#4a78a8"/><text y="{{px (add .Y -6)}}" {{if .Left}}x="{{px (add .X -7)}}" text-anchor="end"{{else}}x="{{px (add .X 7)}}"{{end}}>{{.Name}}</text>
{{end -}}
{{end -}}
</svg>
`))
