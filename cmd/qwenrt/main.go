package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	signal.Ignore(syscall.SIGPIPE)
	ctx, cancel := context.WithCancelCause(ctx)
	os.Exit(run(ctx, os.Args[1:], os.Stdin, &standardOutput{os.Stdout, cancel}, os.Stderr))
}

// errBrokenPipe ends a command of which nobody reads the output any more.
var errBrokenPipe = errors.New("broken pipe")

// standardOutput stops the program when its reader has gone, as head does. The signal for that would end the process where
// it is, with half a folder on the disk; a cancelled context is cleaned up after.
type standardOutput struct {
	file   *os.File
	cancel context.CancelCauseFunc
}

func (o *standardOutput) Write(p []byte) (int, error) {
	n, err := o.file.Write(p)
	if errors.Is(err, syscall.EPIPE) {
		o.cancel(errBrokenPipe)
	}
	return n, err
}
