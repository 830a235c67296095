package gate

import (
	"bufio"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"time"
)

// Entry is a line of a history: what was measured once.
type Entry struct {
	Time    time.Time          `json:"time"`
	Label   string             `json:"label"` // such as a commit
	Machine string             `json:"machine"`
	Verdict Verdict            `json:"verdict"`
	Values  map[string]float64 `json:"values"`
	// Verdicts are those of metrics that have not passed.
	Verdicts map[string]Verdict `json:"verdicts,omitempty"`
	// Ratios are those of speeds to what they were compared with in the same run, which stay comparable when the machine
	// changes.
	Ratios map[string]float64 `json:"ratios,omitempty"`
}

// Entry is the report as a line of a history.
func (r *Report) Entry(at time.Time, label string) Entry {
	e := Entry{Time: at.UTC().Truncate(time.Second), Label: label, Machine: r.Machine, Verdict: r.Verdict(), Values: map[string]float64{}}
	for _, l := range r.Lines {
		if known := l.New.Text == "" && !l.New.Absent; known && !math.IsNaN(l.New.Number) && !math.IsInf(l.New.Number, 0) { // JSON has neither
			e.Values[l.Metric.Name] = l.New.Number
		}
		if l.Verdict != Pass {
			if e.Verdicts == nil {
				e.Verdicts = map[string]Verdict{}
			}
			e.Verdicts[l.Metric.Name] = l.Verdict
		}
		if l.Ratio != nil {
			if e.Ratios == nil {
				e.Ratios = map[string]float64{}
			}
			e.Ratios[l.Metric.Name] = l.Ratio.Center
		}
	}
	return e
}

// verdict is that of a metric.
func (e *Entry) verdict(metric string) Verdict {
	if len(e.Verdicts) == 0 {
		return e.Verdict
	}
	if v, ok := e.Verdicts[metric]; ok {
		return v
	}
	return Pass
}

// Write appends the entry to a history, a JSON object a line.
func (e Entry) Write(w io.Writer) error { return wrap(json.NewEncoder(w).Encode(e)) }

// maxEntry bounds a line of a history.
const maxEntry = 1 << 20

// ReadHistory reads what Entry.Write wrote.
func ReadHistory(r io.Reader) ([]Entry, error) {
	var entries []Entry
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxEntry)
	for n := 1; lines.Scan(); n++ {
		if len(lines.Bytes()) == 0 {
			continue
		}
		var e Entry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("gate: history: line %d: %w", n, err)
		}
		entries = append(entries, e)
	}
	return entries, wrap(lines.Err())
}

// Sizes of a drawing in pixels.
const (
	chartWidth  = 720.0
	panelHeight = 120.0
	panelGap    = 60.0
	marginLeft  = 80.0
	marginRight = 20.0
	marginTop   = 50.0
)

type chart struct {
	Width, Height float64
	Title         string
	Panels        []panel
}

type panel struct {
	Title             string
	Top, Left, Bottom float64
	Right             float64
	Marks             []mark // on the left
	Lines             []line
	First, Last       string // labels of entries
}

type mark struct {
	Y    float64
	Text string
}

type line struct {
	Points []dot
}

type dot struct {
	X, Y  float64
	Text  string
	Color string
}

// WriteChart draws a history as SVG: a panel for each metric, the entries in order from left to right; a line for each
// machine. A dot is red where the gate found a regression of this metric, grey where it could not say; its text is shown under the pointer.
func WriteChart(w io.Writer, entries []Entry) error {
	if len(entries) == 0 {
		return fmt.Errorf("gate: history: no entries to draw")
	}
	c := chart{Width: chartWidth, Title: fmt.Sprintf("qwenrt bench gate: %d runs", len(entries))}
	names := map[string]bool{}
	for _, e := range entries {
		for name := range e.Values {
			names[name] = true
		}
	}
	for i, name := range sortedKeys(names) {
		top := marginTop + float64(i)*(panelHeight+panelGap)
		c.Panels = append(c.Panels, newPanel(name, entries, top))
	}
	c.Height = marginTop + float64(len(c.Panels))*(panelHeight+panelGap)
	return wrap(chartTemplate.Execute(w, c))
}

func newPanel(name string, entries []Entry, top float64) panel {
	p := panel{Title: name, Top: top, Left: marginLeft, Bottom: top + panelHeight, Right: chartWidth - marginRight}
	low, high := math.Inf(1), math.Inf(-1)
	machines := map[string]bool{}
	for _, e := range entries {
		if v, ok := e.Values[name]; ok {
			low, high = min(low, v), max(high, v)
			machines[e.Machine] = true
		}
	}
	middle := (p.Top + p.Bottom) / 2
	p.Marks = []mark{{p.Top, Value{Number: high}.String()}, {p.Bottom, Value{Number: low}.String()}}
	if low == high {
		p.Marks = []mark{{middle, p.Marks[0].Text}}
	}
	p.First, p.Last = shortLabel(entries[0].Label), ""
	if len(entries) > 1 {
		p.Last = shortLabel(entries[len(entries)-1].Label)
	}
	step := (p.Right - p.Left) / float64(max(1, len(entries)-1))
	for _, machine := range sortedKeys(machines) {
		var l line
		for i, e := range entries {
			v, ok := e.Values[name]
			if !ok || e.Machine != machine {
				continue
			}
			y := middle // where all are equal
			if high > low {
				y = p.Bottom - (v-low)/(high-low)*panelHeight
			}
			text := fmt.Sprintf("%s %s: %v (%s)", e.Time.Format(time.DateOnly), e.Label, Value{Number: v}, machine)
			l.Points = append(l.Points, dot{p.Left + float64(i)*step, y, text, color[e.verdict(name)]})
		}
		p.Lines = append(p.Lines, l)
	}
	return p
}

// shortLabel is what of a label there is room for.
func shortLabel(label string) string {
	const most = 40
	if r := []rune(label); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return label
}

var color = map[Verdict]string{Pass: "#4a78a8", Regression: "#c0392b", Noisy: "#999"}

func sortedKeys(m map[string]bool) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

var chartTemplate = template.Must(template.New("chart").Funcs(template.FuncMap{
	"px": func(v float64) string { return fmt.Sprintf("%.1f", v) },
}).Parse(`<svg xmlns="http://www.w3.org/2000/svg" width="{{px .Width}}" height="{{px .Height}}" font-family="sans-serif" font-size="11">
<rect width="100%" height="100%" fill="#fff"/>
<text x="20" y="25" font-size="14">{{.Title}}</text>
{{range $p := .Panels -}}
<text x="{{px .Left}}" y="{{px .Top}}" dy="-8" font-size="12">{{.Title}}</text>
<path d="M{{px .Left}} {{px .Top}}V{{px .Bottom}}H{{px .Right}}" fill="none" stroke="#444"/>
{{range .Marks -}}
<text x="{{px $p.Left}}" y="{{px .Y}}" dx="-6" dy="4" text-anchor="end">{{.Text}}</text>
{{end -}}
<text x="{{px .Left}}" y="{{px .Bottom}}" dy="18" fill="#777">{{.First}}</text>
<text x="{{px .Right}}" y="{{px .Bottom}}" dy="18" fill="#777" text-anchor="end">{{.Last}}</text>
{{range .Lines -}}
<polyline fill="none" stroke="#9bb7d4" points="{{range .Points}}{{px .X}},{{px .Y}} {{end}}"/>
{{range .Points}}<circle cx="{{px .X}}" cy="{{px .Y}}" r="3" fill="{{.Color}}"><title>{{.Text}}</title></circle>
{{end -}}
{{end -}}
{{end -}}
</svg>
`))
