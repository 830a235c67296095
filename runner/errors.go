package runner

import "errors"

// What callers branch on with errors.Is. Errors of this package are one line long and begin with
// "runner: ".
var (
	// ErrNotModel: the folder holds no model that this package can run.
	ErrNotModel = errors.New("not a model folder")
	// ErrContext: the tokens do not fit the model's context, or what is left of it.
	ErrContext = errors.New("context length exceeded")
	// ErrToken: a token id is not in the model's vocabulary.
	ErrToken = errors.New("token out of range")
	// ErrRequest: the request cannot be served as it stands.
	ErrRequest = errors.New("bad request")
	// ErrClosed: the runner or the sequence has been closed.
	ErrClosed = errors.New("closed")
)
