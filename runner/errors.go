package runner

import (
	"errors"
	"fmt"

	"github.com/qwenrt/qwenrt/ort"
)

// What callers branch on with errors.Is. Errors of this package are one line long and begin with
// "runner: ". Those of the packages below keep their identity: ort.ErrLibraryNotFound, ir.ErrMalformed,
// chat.ErrNoTemplate, context.Canceled and so on are found in them as well.
var (
	// ErrNotModel: the file or folder holds no model that this package can run.
	ErrNotModel = errors.New("not a model that can be run")
	// ErrContext: the tokens do not fit the model's context, or what is left of it.
	ErrContext = errors.New("context length exceeded")
	// ErrToken: a token id is not in the model's vocabulary.
	ErrToken = errors.New("token out of range")
	// ErrRequest: the request cannot be served as it stands.
	ErrRequest = errors.New("bad request")
	// ErrSnapshot: the file is no snapshot that this model can go on from.
	ErrSnapshot = errors.New("not a snapshot that can be restored")
	// ErrBusy: as many generations wait already as may; see Options.Queue.
	ErrBusy = errors.New("busy")
	// ErrClosed: the runner or the sequence has been closed.
	ErrClosed = errors.New("closed")
)

// wrap names the package in an error from below. What a closed session says is that the runner is closed.
func wrap(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ort.ErrClosed):
		return fmt.Errorf("runner: %w", ErrClosed)
	}
	return fmt.Errorf("runner: %w", err)
}
