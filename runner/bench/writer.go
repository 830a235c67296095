package bench

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"unicode/utf8"
)

// Format is a form of output.
type Format string

// The formats. The fields of JSON, JSONL and CSV are those of Record; CSV leaves the samples out, as
// llama-bench does.
const (
	Markdown Format = "md"
	JSON     Format = "json"  // one array
	JSONL    Format = "jsonl" // one object a line
	CSV      Format = "csv"
	GoBench  Format = "gobench" // Go's benchmark format, which benchstat reads: a line a repetition
)

// Formats lists the formats.
func Formats() []Format { return []Format{Markdown, JSON, JSONL, CSV, GoBench} }

// Valid reports whether f is one of Formats.
func (f Format) Valid() bool { return slices.Contains(Formats(), f) }

// Writer writes records as they come. Close ends the output; it does not close what is written to.
type Writer struct {
	form form
}

// form is the part of a Writer that depends on the format.
type form interface {
	record(Record) error
	end() error
}

// NewWriter begins output in a format.
func NewWriter(w io.Writer, f Format) (*Writer, error) {
	switch f {
	case Markdown:
		return &Writer{&markdownForm{w: w}}, nil
	case JSON:
		return &Writer{&jsonForm{w: w}}, nil
	case JSONL:
		return &Writer{&jsonlForm{w}}, nil
	case CSV:
		return &Writer{&csvForm{w: csv.NewWriter(w)}}, nil
	case GoBench:
		return &Writer{&goForm{w: w}}, nil
	}
	return nil, fmt.Errorf("bench: format %q: want one of %v", f, Formats())
}

// Write writes a record.
func (w *Writer) Write(r Record) error { return prefixed(w.form.record(r)) }

// Close writes what follows the last record.
func (w *Writer) Close() error { return prefixed(w.form.end()) }

func prefixed(err error) error {
	if err != nil {
		return fmt.Errorf("bench: write results: %w", err)
	}
	return nil
}

type jsonForm struct {
	w     io.Writer
	begun bool
}

func (j *jsonForm) record(r Record) error {
	before := "[\n  "
	if j.begun {
		before = ",\n  "
	}
	b, err := json.MarshalIndent(r, "  ", "  ")
	if err != nil {
		return err
	}
	j.begun = true
	_, err = fmt.Fprintf(j.w, "%s%s", before, b)
	return err
}

func (j *jsonForm) end() error {
	text := "[]\n"
	if j.begun {
		text = "\n]\n"
	}
	_, err := io.WriteString(j.w, text)
	return err
}

type jsonlForm struct{ w io.Writer }

func (j *jsonlForm) record(r Record) error { return json.NewEncoder(j.w).Encode(r) }
func (j *jsonlForm) end() error            { return nil }

type csvForm struct {
	w     *csv.Writer
	begun bool
}

func (c *csvForm) record(r Record) error {
	names, values := columns(r)
	if !c.begun {
		c.begun = true
		if err := c.w.Write(names); err != nil {
			return err
		}
	}
	if err := c.w.Write(values); err != nil {
		return err
	}
	c.w.Flush()
	return c.w.Error()
}

func (c *csvForm) end() error { return nil }

// columns gives the fields of r that are not lists; what is not known is empty.
func columns(r Record) (names, values []string) {
	v := reflect.ValueOf(r)
	for f, field := range v.Fields() {
		text := ""
		switch {
		case field.Kind() == reflect.Slice:
			continue
		case field.Kind() != reflect.Pointer:
			text = fmt.Sprint(field.Interface())
		case !field.IsNil():
			text = fmt.Sprint(field.Elem().Interface())
		}
		names, values = append(names, f.Tag.Get("json")), append(values, text)
	}
	return names, values
}

type goForm struct {
	w     io.Writer
	begun bool
}

func (g *goForm) record(r Record) error {
	var b strings.Builder
	if !g.begun {
		g.begun = true
		fmt.Fprintf(&b, "goos: %s\ngoarch: %s\ncpu: %s\npkg: github.com/qwenrt/qwenrt\n", runtime.GOOS, runtime.GOARCH, r.CPUInfo)
	}
	name := strings.ReplaceAll(fmt.Sprintf("model=%s/test=%v/threads=%d", r.ModelType, r.Test(), r.Threads), " ", "_")
	for i, ns := range r.SamplesNS {
		fmt.Fprintf(&b, "BenchmarkQwenrt/%s 1 %d ns/op %.6g tokens/s\n", name, ns, r.SamplesTS[i])
	}
	_, err := io.WriteString(g.w, b.String())
	return err
}

func (g *goForm) end() error { return nil }

// markdownForm is llama-bench's table.
type markdownForm struct {
	w       io.Writer
	columns []tableColumn
	last    *Record
}

// tableColumn is a column of the table; a negative width aligns it to the left.
type tableColumn struct {
	name  string
	width int
	value func(r *Record) string
}

// tableColumns have llama-bench's names and widths.
var tableColumns = []tableColumn{
	{"model", -30, func(r *Record) string { return r.ModelType }},
	{"size", 10, func(r *Record) string { return binarySize(r.ModelSize) }},
	{"params", 10, func(r *Record) string { return paramsText(r.ModelParams) }},
	{"backend", -10, func(r *Record) string { return r.Backends }},
	{"threads", 7, func(r *Record) string { return fmt.Sprint(r.Threads) }},
	{"test", 15, func(r *Record) string { return r.Test().String() }},
	{"t/s", 20, func(r *Record) string { return fmt.Sprintf("%.2f ± %.2f", r.AvgTS, r.StddevTS) }},
}

// energyColumn follows them where the machine tells its energy.
var energyColumn = tableColumn{"J/token", 8, func(r *Record) string {
	if r.EnergyJ == nil {
		return ""
	}
	return fmt.Sprintf("%.3g", *r.EnergyJ/float64(r.Test().tokens()*len(r.SamplesNS)))
}}

func (m *markdownForm) record(r Record) error {
	if m.last == nil {
		m.columns = tableColumns
		if r.EnergyJ != nil {
			m.columns = append(slices.Clone(tableColumns), energyColumn)
		}
		if err := m.header(); err != nil {
			return err
		}
	}
	m.last = &r
	var row strings.Builder
	row.WriteString("|")
	for _, c := range m.columns {
		fmt.Fprintf(&row, " %s |", pad(c.value(&r), c.width))
	}
	_, err := fmt.Fprintln(m.w, row.String())
	return err
}

func (m *markdownForm) header() error {
	var names, rules strings.Builder
	for _, c := range m.columns {
		fmt.Fprintf(&names, " %s |", pad(c.name, c.width))
		end := ":" // aligned to the right
		if c.width < 0 {
			end = "-"
		}
		fmt.Fprintf(&rules, " %s%s |", strings.Repeat("-", max(c.width, -c.width)-1), end)
	}
	_, err := fmt.Fprintf(m.w, "|%s\n|%s\n", &names, &rules)
	return err
}

func (m *markdownForm) end() error {
	if m.last == nil {
		return nil
	}
	r := m.last
	text := fmt.Sprintf("\nqwenrt %s, ONNX Runtime %s; loaded in %.2f s", r.QwenrtVersion, r.ORTVersion, r.LoadSeconds)
	if r.PeakRSS > 0 {
		text += fmt.Sprintf("; peak memory %.0f MB resident (VmHWM), %.0f MB anonymous at the end (RssAnon)",
			float64(r.PeakRSS)/1e6, float64(r.RSSAnon)/1e6)
	}
	_, err := fmt.Fprintln(m.w, text)
	return err
}

func pad(s string, width int) string {
	blanks := strings.Repeat(" ", max(0, max(width, -width)-utf8.RuneCountInString(s)))
	if width < 0 {
		return s + blanks
	}
	return blanks + s
}

func binarySize(n int64) string {
	if n < 1<<30 {
		return fmt.Sprintf("%.2f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
}

func paramsText(n int64) string {
	if n < 1e9 {
		return fmt.Sprintf("%.2f M", float64(n)/1e6)
	}
	return fmt.Sprintf("%.2f B", float64(n)/1e9)
}
