package serve

import (
	"encoding/json"
	"math"
	"net/http"
	"slices"
)

// fields are the members of a request's JSON object. Its methods read those that are there and not null, and keep the
// first fault that they find.
type fields struct {
	all map[string]json.RawMessage
	err error
}

func readFields(body []byte) (*fields, error) {
	f := &fields{}
	if err := json.Unmarshal(body, &f.all); err != nil || f.all == nil {
		return nil, fault(http.StatusBadRequest, "", "", "the body is not a JSON object")
	}
	return f, nil
}

func (f *fields) fail(param, format string, args ...any) {
	if f.err == nil {
		f.err = wrong(param, format, args...)
	}
}

// read decodes a field, which has to be what is wanted, and reports whether it was there.
func (f *fields) read(name, want string, to any) bool {
	raw, ok := f.all[name]
	if !ok || string(raw) == "null" {
		return false
	}
	if err := json.Unmarshal(raw, to); err != nil {
		f.fail(name, "want %s", want)
		return false
	}
	return true
}

func (f *fields) text(name string, to *string) bool { return f.read(name, "a string", to) }

func (f *fields) flag(name string, to *bool) bool { return f.read(name, "true or false", to) }

// integer reads a number from least to most.
func (f *fields) integer(name string, to *int, least, most int) bool {
	var v int
	switch is := f.read(name, "an integer", &v); {
	case !is:
		return false
	case v < least || v > most:
		f.between(name, v, least, most)
		return false
	}
	*to = v
	return true
}

func (f *fields) between(name string, v, least, most int) {
	if most == math.MaxInt {
		f.fail(name, "%d is below %d", v, least)
	} else {
		f.fail(name, "%d is not from %d to %d", v, least, most)
	}
}

func (f *fields) number(name string, to *float64, least, most float64) {
	v := *to
	switch is := f.read(name, "a number", &v); {
	case is && !(least <= v && v <= most):
		f.fail(name, "%v is not from %v to %v", v, least, most)
	case is:
		*to = v
	}
}

// above reads a number above 0, up to most. Where 0 means that there is no bound, those who write it mean the contrary.
func (f *fields) above(name string, to *float64, most float64) {
	v := *to
	switch is := f.read(name, "a number", &v); {
	case is && !(0 < v && v <= most):
		f.fail(name, "%v is not above 0 and up to %v", v, most)
	case is:
		*to = v
	}
}

// unsupported refuses a field that asks for something. It asks for nothing if it is null, false, empty, or what it is
// by default.
func (f *fields) unsupported(name, byDefault, instead string) {
	raw, ok := f.all[name]
	if !ok || slices.Contains([]string{"null", "false", `""`, "[]", "{}", byDefault}, string(raw)) {
		return
	}
	if instead != "" {
		instead = ": " + instead
	}
	f.fail(name, "not supported%s", instead)
}
