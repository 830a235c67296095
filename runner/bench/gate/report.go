package gate

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
)

// change is the difference between the values of a line, in words.
func (l *Line) change() string {
	switch {
	case l.Ratio != nil:
		return fmt.Sprintf("%.3fx (%.3f–%.3f)", l.Ratio.Center, l.Ratio.Lo, l.Ratio.Hi)
	case l.alone():
		return ""
	case l.New.Text != "":
		if l.Old.Text == l.New.Text {
			return "equal"
		}
		return "differs"
	case l.Old.Number == 0:
		return fmt.Sprintf("%+.4g", l.New.Number)
	}
	return fmt.Sprintf("%+.2f %%", 100*(l.New.Number/l.Old.Number-1))
}

// alone reports a line with nothing to compare with.
func (l *Line) alone() bool { return l.Ratio == nil && l.Note != "" }

func (l *Line) old() string {
	if l.alone() {
		return ""
	}
	return l.Old.String()
}

// sentence says what a line has found.
func (l *Line) sentence() string {
	switch {
	case l.Verdict == Noisy:
		return fmt.Sprintf("%s: cannot say: %s", l.Metric.Name, l.Note)
	case l.Metric.Better == Equal:
		return fmt.Sprintf("%s: %s instead of %s", l.Metric.Name, l.New, l.Old)
	}
	return fmt.Sprintf("%s: %s instead of %s %s, %s; the limit is %s", l.Metric.Name, l.New, l.Old, l.Metric.Unit, l.change(), l.Limit)
}

// WriteMarkdown writes a table, as for GitHub's job summary.
func (r *Report) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "**%s**: %s against %s, on %s\n\n", r.Verdict(), r.Model, r.Against, r.Machine)
	b.WriteString("| metric | old | new | unit | change | limit | verdict |\n|---|---:|---:|---|---:|---:|---|\n")
	for _, l := range r.Lines {
		limit := l.Limit.String()
		if l.Metric.Better == Equal {
			limit = ""
		}
		verdict := string(l.Verdict)
		if l.Note != "" {
			verdict += ": " + l.Note
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s |\n", l.Metric.Name, l.old(), l.New, l.Metric.Unit, l.change(), limit, verdict)
	}
	_, err := io.WriteString(w, b.String())
	return wrap(err)
}

type junitSuite struct {
	XMLName  xml.Name    `xml:"testsuite"`
	Name     string      `xml:"name,attr"`
	Tests    int         `xml:"tests,attr"`
	Failures int         `xml:"failures,attr"`
	Errors   int         `xml:"errors,attr"`
	Cases    []junitCase `xml:"testcase"`
}

type junitCase struct {
	Class   string        `xml:"classname,attr"`
	Name    string        `xml:"name,attr"`
	Failure *junitMessage `xml:"failure,omitempty"`
	Error   *junitMessage `xml:"error,omitempty"`
	Output  string        `xml:"system-out,omitempty"`
}

type junitMessage struct {
	Message string `xml:"message,attr"`
}

// WriteJUnit writes a test suite in JUnit's XML: a case for each metric, a failure for a regression, an error for what is too
// noisy.
func (r *Report) WriteJUnit(w io.Writer) error {
	s := junitSuite{Name: "qwenrt bench gate", Tests: len(r.Lines)}
	for _, l := range r.Lines {
		c := junitCase{Class: r.Model, Name: l.Metric.Name}
		switch l.Verdict {
		case Regression:
			s.Failures++
			c.Failure = &junitMessage{l.sentence()}
		case Noisy:
			s.Errors++
			c.Error = &junitMessage{l.sentence()}
		default:
			c.Output = strings.TrimSpace(fmt.Sprintf("%s, was %s %s", l.New, l.old(), l.Metric.Unit))
		}
		s.Cases = append(s.Cases, c)
	}
	text, err := xml.MarshalIndent(s, "", "  ")
	if err == nil {
		_, err = fmt.Fprintf(w, "%s%s\n", xml.Header, text)
	}
	return wrap(err)
}

// annotationEscape is for the text of workflow commands, see GitHub's toolkit, actions/core.
var annotationEscape = strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")

// WriteAnnotations writes GitHub's workflow commands: an error for each regression, a warning for what is too noisy.
func (r *Report) WriteAnnotations(w io.Writer) error {
	for _, l := range r.Lines {
		level := "error"
		switch l.Verdict {
		case Pass:
			continue
		case Noisy:
			level = "warning"
		}
		if _, err := fmt.Fprintf(w, "::%s title=qwenrt bench gate::%s\n", level, annotationEscape.Replace(l.sentence())); err != nil {
			return wrap(err)
		}
	}
	return nil
}

func wrap(err error) error {
	if err != nil {
		return fmt.Errorf("gate: %w", err)
	}
	return nil
}
