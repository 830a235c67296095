package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

// killDelay bounds the wait for the children of a program that was stopped.
const killDelay = 5 * time.Second

// steps reports the steps of an installation, one line each.
type steps struct{ w io.Writer }

// do runs one step between its label and the time it took. When a program that it started fails, what that program
// said follows.
func (s steps) do(label string, step func() error) error {
	fmt.Fprintf(s.w, "native: %s ... ", label)
	start := time.Now()
	err := step()
	elapsed := time.Since(start).Seconds()
	if err == nil {
		fmt.Fprintf(s.w, "%.1fs\n", elapsed)
		return nil
	}
	fmt.Fprintf(s.w, "failed after %.1fs\n", elapsed)
	var failed *commandError
	if errors.As(err, &failed) {
		s.w.Write(failed.output)
	}
	return err
}

// A commandError is the failure of a program that was started; its text is one line of the program's output.
type commandError struct {
	name   string
	err    error
	output []byte // standard output and standard error
}

func (e *commandError) Error() string {
	if line := faultLine(string(e.output)); line != "" {
		return fmt.Sprintf("%s: %s", e.name, line)
	}
	return fmt.Sprintf("%s: %v", e.name, e.err)
}

func (e *commandError) Unwrap() error { return e.err }

// command runs a program in dir.
func command(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.WaitDelay = killDelay
	output, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return &commandError{name, err, output}
	}
	return nil
}

// faultLine returns the first line that calls itself an error, as pip and cargo write them, else the last line. A line
// that ends in a colon brings the next one along.
func faultLine(output string) string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	for i, line := range lines {
		if !strings.HasPrefix(strings.ToLower(line), "error") {
			continue
		}
		if strings.HasSuffix(line, ":") && i+1 < len(lines) {
			line += " " + strings.TrimSpace(lines[i+1])
		}
		return strings.TrimSpace(line)
	}
	return strings.TrimSpace(lines[len(lines)-1])
}
