package gate

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/qwenrt/qwenrt/runner/bench/stats"
)

// Direction says which values of a metric are better.
type Direction string

// The directions.
const (
	Lower  Direction = "lower"
	Higher Direction = "higher"
	Equal  Direction = "equal" // any other value is a fault: a hash
)

// Metric is something that is measured.
type Metric struct {
	Name   string
	Unit   string
	Better Direction
	// Machine is set where values of other machines are not comparable.
	Machine bool
}

// Limit is how much worse a value may be. The zero value allows nothing.
type Limit struct {
	Value    float64
	Relative bool // to what is compared with
}

// ParseLimit reads a limit such as "5%" or "0.01", which is absolute.
func ParseLimit(text string) (Limit, error) {
	number, relative := strings.CutSuffix(strings.TrimSpace(text), "%")
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || !(v >= 0) || math.IsInf(v, 0) {
		return Limit{}, fmt.Errorf("gate: limit %q: want a number of 0 or more such as 0.01, or a share such as 5%%", text)
	}
	if relative {
		v /= 100
	}
	return Limit{v, relative}, nil
}

func (l Limit) String() string {
	if l.Relative {
		return fmt.Sprintf("%.4g %%", 100*l.Value)
	}
	return fmt.Sprintf("%.4g", l.Value)
}

// Verdict is what a gate says.
type Verdict string

// The verdicts.
const (
	Pass       Verdict = "pass"
	Regression Verdict = "regression"
	Noisy      Verdict = "noisy" // the interval has the limit in it, or there is nothing to compare with
)

// Line is the judgement of one metric.
type Line struct {
	Metric  Metric
	Limit   Limit
	Old     Value
	New     Value
	Ratio   *stats.Ratio // of speeds, where they were sampled
	Verdict Verdict
	Note    string // what the verdict does not say
}

// Value is a number, or text where the metric is none.
type Value struct {
	Number float64   `json:"value"`
	Text   string    `json:"text,omitempty"`
	Times  []float64 `json:"times_ns,omitempty"` // of the repetitions behind a speed
	Absent bool      `json:"-"`                  // it could not be measured
}

func (v Value) String() string {
	switch {
	case v.Absent:
		return ""
	case v.Text != "":
		return v.Text[:min(len(v.Text), 12)] // enough of a hash to see the difference
	case v.Number == math.Trunc(v.Number) && math.Abs(v.Number) < 1<<53: // a count
		return strconv.FormatFloat(v.Number, 'f', 0, 64)
	}
	return strconv.FormatFloat(v.Number, 'g', 6, 64)
}

// Speed judges a ratio of speeds, new to old: with a limit of 5 % a ratio of 0.95 is still allowed. The limit is relative,
// whatever it says.
func Speed(name string, old, new float64, r stats.Ratio, l Limit) Line {
	l.Relative = true
	line := Line{Metric: Metric{Name: name, Unit: "t/s", Better: Higher, Machine: true}, Limit: l, Old: Value{Number: old}, New: Value{Number: new}, Ratio: &r}
	switch least := 1 - l.Value; {
	case r.Lo >= least:
		line.Verdict = Pass
	case r.Hi < least:
		line.Verdict = Regression
	default:
		line.Verdict = Noisy
		line.Note = fmt.Sprintf("the interval %.3f–%.3f has %.3f in it", r.Lo, r.Hi, least)
	}
	return line
}

// Sure reports whether a ratio is on one side of the limit.
func Sure(r stats.Ratio, l Limit) bool { return r.Lo >= 1-l.Value || r.Hi < 1-l.Value }

// Compare judges values that were measured without noise.
func Compare(m Metric, old, new Value, l Limit) Line {
	line := Line{Metric: m, Limit: l, Old: old, New: new, Verdict: Pass}
	allowed := l.Value
	if l.Relative {
		allowed *= math.Abs(old.Number)
	}
	var worse bool
	switch m.Better {
	case Equal:
		worse = old.Text != new.Text || old.Number != new.Number
	case Higher:
		worse = !(old.Number-new.Number <= allowed)
	default:
		worse = !(new.Number-old.Number <= allowed) // NaN is worse
	}
	if worse {
		line.Verdict = Regression
	}
	return line
}

// Absent is the line of a metric that has nothing to be compared with.
func Absent(m Metric, new Value, l Limit, why string) Line {
	return Line{Metric: m, Limit: l, New: new, Verdict: Noisy, Note: why}
}

// Recorded is the line of a value that goes into a baseline.
func Recorded(m Metric, new Value, l Limit) Line {
	return Line{Metric: m, Limit: l, New: new, Verdict: Pass, Note: "recorded"}
}

// Report is the judgement of all metrics.
type Report struct {
	Model, Against string // names
	Machine        string // class
	Lines          []Line
}

// Verdict is a regression where one line is, or else noisy where one is.
func (r *Report) Verdict() Verdict {
	verdict := Pass
	for _, l := range r.Lines {
		switch l.Verdict {
		case Regression:
			return Regression
		case Noisy:
			verdict = Noisy
		}
	}
	return verdict
}
