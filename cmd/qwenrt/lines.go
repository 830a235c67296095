package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/term"

	"github.com/qwenrt/qwenrt/internal/atomicfile"
)

// lineReader reads what a user types.
type lineReader interface {
	// line gives a line without its end; more says that the next one belongs to the same text, as in a paste.
	line(prompt string) (text string, more bool, err error)
	close() error
}

// multiline begins and ends a message of several lines.
const multiline = `"""`

// readMessage reads a message: a line, or more than one between quotes or as one paste. io.EOF is the end.
func readMessage(r lineReader) (string, error) {
	text, more, err := r.line(">>> ")
	for err == nil && more {
		var next string
		next, more, err = r.line("")
		text += "\n" + next
	}
	rest, quoted := strings.CutPrefix(strings.TrimSpace(text), multiline)
	if err != nil || !quoted {
		return text, err
	}
	text = rest
	for !strings.HasSuffix(text, multiline) {
		next, _, err := r.line("... ")
		if err != nil {
			return "", err
		}
		if len(text)+len(next) > maxPrompt {
			return "", fmt.Errorf("the message is longer than %s", bytesText(maxPrompt))
		}
		text += "\n" + next
	}
	return strings.Trim(strings.TrimSuffix(text, multiline), "\n"), nil
}

// pipeLines reads lines that nobody types.
type pipeLines struct{ r *bufio.Scanner }

func newPipeLines(r io.Reader) pipeLines {
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxPrompt)
	return pipeLines{s}
}

func (p pipeLines) line(string) (string, bool, error) {
	if p.r.Scan() {
		return p.r.Text(), false, nil
	}
	if err := p.r.Err(); err != nil {
		return "", false, fmt.Errorf("read standard input: %w", err)
	}
	return "", false, io.EOF
}

func (pipeLines) close() error { return nil }

// terminalLines reads lines that are edited on a terminal, and remembers them.
type terminalLines struct {
	in   *os.File
	t    *term.Terminal
	file string
	past *history
}

func newTerminalLines(in *os.File, out io.Writer, file string) *terminalLines {
	t := &terminalLines{in: in, file: file, past: readHistory(file)}
	t.t = term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{in, out}, "")
	t.t.History = t.past
	return t
}

// line has the terminal to itself only as long as it is edited: an answer that is shown can be interrupted by
// Ctrl-C.
func (t *terminalLines) line(prompt string) (text string, more bool, err error) {
	state, err := term.MakeRaw(int(t.in.Fd()))
	if err != nil {
		return "", false, err
	}
	defer term.Restore(int(t.in.Fd()), state)
	if width, height, err := term.GetSize(int(t.in.Fd())); err == nil && width > 0 {
		_ = t.t.SetSize(width, height) // or lines break elsewhere
	}
	t.t.SetBracketedPasteMode(true)
	defer t.t.SetBracketedPasteMode(false)
	t.t.SetPrompt(prompt)
	text, err = t.t.ReadLine()
	if errors.Is(err, term.ErrPasteIndicator) {
		return text, true, nil
	}
	return text, false, err
}

func (t *terminalLines) close() error { return t.past.write(t.file) }

// history is what was typed, the last line in front.
type history struct{ lines []string }

const maxHistory = 1000

func (h *history) Add(line string) {
	if line = strings.TrimSpace(line); line != "" && (len(h.lines) == 0 || h.lines[0] != line) {
		h.lines = slices.Insert(h.lines, 0, line)[:min(len(h.lines)+1, maxHistory)]
	}
}

func (h *history) Len() int        { return len(h.lines) }
func (h *history) At(i int) string { return h.lines[i] }

// historyFile is where lines are kept from one conversation to the next. Empty: nowhere.
func historyFile() string {
	dir, err := os.UserConfigDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "qwenrt", "history")
}

// readHistory reads lines as JSON strings, the last one last. What cannot be read is left out: a history
// is no reason not to talk.
func readHistory(file string) *history {
	h := &history{}
	data, _ := os.ReadFile(file)
	for line := range bytes.Lines(data) {
		var text string
		if json.Unmarshal(line, &text) == nil {
			h.Add(text)
		}
	}
	return h
}

func (h *history) write(file string) error {
	if file == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	for _, line := range slices.Backward(h.lines) {
		if err := e.Encode(line); err != nil {
			return err
		}
	}
	return atomicfile.WriteBytes(file, 0o666, b.Bytes())
}
