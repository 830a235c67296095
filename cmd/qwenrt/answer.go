package main

import (
	"io"
	"strings"

	"github.com/qwenrt/qwenrt/runner"
)

// answerWriter shows answers on a stream of text.
type answerWriter struct {
	w        io.Writer
	thinking bool
	midLine  bool // the last line shown has not ended
}

func (a *answerWriter) write(text string) error {
	if text == "" {
		return nil
	}
	a.midLine = !strings.HasSuffix(text, "\n")
	_, err := io.WriteString(a.w, text)
	return err
}

// show prints what an event brings; reasoning as models write it, in <think> and </think>.
func (a *answerWriter) show(ev runner.Event) error {
	before := ""
	if ev.Reasoning != "" && !a.thinking {
		a.thinking, before = true, "<think>\n"
	}
	if err := a.write(before + ev.Reasoning); err != nil || ev.Text == "" {
		return err
	}
	after := ""
	if a.thinking {
		a.thinking, after = false, "\n</think>\n\n"
	}
	return a.write(after + ev.Text)
}

// end ends an answer, with its line.
func (a *answerWriter) end() error {
	a.thinking = false
	if a.midLine {
		return a.write("\n")
	}
	return nil
}
