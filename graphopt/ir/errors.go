package ir

import (
	"errors"
	"fmt"
	"os"
)

// ErrMalformed is reported, wrapped with what and where, for a file that is not a well-formed model.
var ErrMalformed = errors.New("malformed model")

// ErrCycle is reported for a graph whose nodes depend on each other in a circle.
var ErrCycle = errors.New("the graph has a cycle")

// ErrOverflow is reported for a number that is too large for the type that it is cast to. It would become
// infinite, and what is computed with it NaN.
var ErrOverflow = errors.New("number too large for its type")

// fault is an error of this package. However often it is wrapped here, it names the package once.
type fault struct{ err error }

func (f *fault) Error() string { return "ir: " + f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

func errorf(format string, args ...any) error {
	for i, a := range args {
		if f, ok := a.(*fault); ok {
			args[i] = f.err
		}
	}
	return &fault{fmt.Errorf(format, args...)}
}

func malformed(format string, args ...any) error {
	return errorf("%w: %w", ErrMalformed, errorf(format, args...))
}

// reason is what the system said of a file, without its path where the message around has that.
func reason(err error, path string) error {
	switch e := err.(type) {
	case *os.PathError:
		if e.Path == path {
			return e.Err
		}
	case *os.LinkError:
		return e.Err
	}
	return err
}
