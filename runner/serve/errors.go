package serve

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/chat"
	"github.com/qwenrt/qwenrt/runner/grammar"
)

// apiError is OpenAI's error object, and the status that it comes with.
type apiError struct {
	status  int
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    *string `json:"code"`
}

func (e *apiError) Error() string { return e.Message }

// fault is an error of whoever asks. param is the parameter that is wrong, and code the word by which programs know
// the fault; both may be empty.
func fault(status int, param, code, format string, args ...any) *apiError {
	e := &apiError{status: status, Message: fmt.Sprintf(format, args...), Type: "invalid_request_error"}
	if param != "" {
		e.Param = &param
	}
	if code != "" {
		e.Code = &code
	}
	return e
}

// wrong is the fault of a parameter.
func wrong(param, format string, args ...any) *apiError {
	return fault(http.StatusBadRequest, param, "", "%s: %s", param, fmt.Sprintf(format, args...))
}

func unavailable(format string, args ...any) *apiError {
	e := fault(http.StatusServiceUnavailable, "", "unavailable", format, args...)
	e.Type = "server_error"
	return e
}

var errClosing = unavailable("the server is closing")

// statusClientClosed is nginx's status for a client that has gone. Nobody receives it, but it is counted.
const statusClientClosed = 499

// errorOf is the answer to a request that failed. promptParam is where the request has its prompt.
func errorOf(ctx context.Context, err error, promptParam string) *apiError {
	var e *apiError
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(context.Cause(ctx), errClosing):
		return errClosing
	case ctx.Err() != nil:
		return fault(statusClientClosed, "", "", "the client has gone")
	case errors.Is(err, runner.ErrBusy):
		e = fault(http.StatusTooManyRequests, "", "rate_limit_exceeded", "%v", err)
		e.Type = "requests"
		return e
	case errors.Is(err, runner.ErrClosed):
		return unavailable("%v", err)
	case errors.Is(err, runner.ErrContext):
		return fault(http.StatusBadRequest, promptParam, "context_length_exceeded", "%v", err)
	case errors.Is(err, runner.ErrToken), errors.Is(err, chat.ErrRefused), errors.Is(err, chat.ErrNoTemplate):
		return fault(http.StatusBadRequest, promptParam, "", "%v", err)
	case errors.Is(err, runner.ErrRequest) && errors.Is(err, grammar.ErrSchema):
		return fault(http.StatusBadRequest, "tools", "", "%v", err) // other schemas are compiled before
	case errors.Is(err, runner.ErrRequest):
		return fault(http.StatusBadRequest, "", "", "%v", err)
	}
	e = fault(http.StatusInternalServerError, "", "", "internal error") // which the log tells
	e.Type = "server_error"
	return e
}
