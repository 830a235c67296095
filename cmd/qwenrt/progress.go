package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/qwenrt/qwenrt/models/hub"
	"github.com/qwenrt/qwenrt/runner/accelerate"
)

// progress shows how far work has come: a bar on a terminal, a line now and then elsewhere.
type progress struct {
	w        io.Writer
	terminal bool
	label    string
	percent  int // last shown
	phase    accelerate.Phase
	begun    time.Time // the phase
}

func newProgress(w io.Writer) *progress {
	file, ok := w.(*os.File)
	return &progress{w: w, terminal: ok && term.IsTerminal(int(file.Fd()))}
}

// stepLabels say what a step does.
var stepLabels = map[accelerate.Step]string{
	accelerate.StepWait:     "waiting for another qwenrt that builds this model",
	accelerate.StepExport:   "exporting",
	accelerate.StepOptimize: "optimising",
	accelerate.StepQuantize: "quantising",
	accelerate.StepWrite:    "writing",
	accelerate.StepCompile:  "packing weights",
}

func (p *progress) events() accelerate.Events {
	return accelerate.Events{
		Step:   func(s accelerate.Step) { p.begin(stepLabels[s]) },
		Tensor: p.tensor,
		Progress: func(done, total int64) {
			if p.terminal { // elsewhere some seconds are not worth a line
				p.show(done, total, 1)
			}
		},
	}
}

func (p *progress) download(name string) func(hub.Event) {
	return func(e hub.Event) {
		if p.label == "" {
			p.begin("downloading " + name)
		}
		every := 10
		if p.terminal {
			every = 1
		}
		p.show(e.Done, e.Size, every)
	}
}

func (p *progress) begin(label string) {
	p.label, p.percent = label, 0
	if p.terminal {
		fmt.Fprintf(p.w, "\r\x1b[K%s", label)
	} else {
		fmt.Fprintln(p.w, label)
	}
}

// show tells of every so many percent.
func (p *progress) show(done, total int64, every int) {
	percent := 100
	if total > 0 {
		percent = int(100 * float64(done) / float64(total))
	}
	if percent/every == p.percent/every {
		return
	}
	p.percent = percent
	if !p.terminal {
		fmt.Fprintf(p.w, "%s: %d %% of %s\n", p.label, percent, bytesText(total))
		return
	}
	const width = 30
	full := min(percent, 100) * width / 100
	fmt.Fprintf(p.w, "\r\x1b[K%s [%s%s] %d %% of %s", p.label, strings.Repeat("=", full), strings.Repeat(" ", width-full), percent, bytesText(total))
}

// count tells of things that are few enough to be counted. Elsewhere than on a terminal the label is
// enough.
func (p *progress) count(done, total int, things string) {
	if p.terminal {
		fmt.Fprintf(p.w, "\r\x1b[K%s: %d of %d %s", p.label, done, total, things)
	}
}

// phaseLabels say what is done to one tensor after the other.
var phaseLabels = map[accelerate.Phase]string{
	accelerate.PhaseProbe:   "measuring what each tensor is worth",
	accelerate.PhaseObserve: "observing activations",
	accelerate.PhaseRound:   "rounding",
	accelerate.PhaseCache:   "observing keys and values",
}

// tensor tells of work on a tensor, and how long it will take: elsewhere than on a terminal each tenth.
func (p *progress) tensor(t accelerate.TensorProgress) {
	if t.Phase != p.phase || t.Done == 0 {
		p.phase, p.begun = t.Phase, time.Now()
		p.begin(phaseLabels[t.Phase])
	}
	percent := 100 * t.Done / max(t.Total, 1)
	if !p.terminal && (percent/10 == p.percent/10 || t.Done == 0) {
		return
	}
	p.percent = percent
	line := fmt.Sprintf("%s: %d of %d, %s", p.label, t.Done, t.Total, t.Tensor)
	if t.Loss > 0 {
		line += fmt.Sprintf(", loss %.1e", t.Loss)
	}
	if elapsed := time.Since(p.begun); t.Done > 0 && elapsed > 2*time.Second {
		left := elapsed * time.Duration(t.Total-t.Done) / time.Duration(t.Done)
		line += fmt.Sprintf(", %v left", left.Round(time.Second))
	}
	if p.terminal {
		fmt.Fprintf(p.w, "\r\x1b[K%s", line)
	} else {
		fmt.Fprintln(p.w, line)
	}
}

// done clears the bar. It may be called more than once.
func (p *progress) done() {
	if p.terminal && p.label != "" {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
	p.label = ""
}

// bytesText gives a size in the decimal units that disks and downloads are sold in.
func bytesText(n int64) string {
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
