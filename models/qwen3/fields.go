package qwen3

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
)

// faults collects everything that is wrong with a file, so that it is reported at once. The first
// fault of a field stands for it: a number that is missing is not also out of range.
type faults struct {
	messages []string
	fields   map[string]bool
}

func (f *faults) add(field, format string, args ...any) {
	if f.fields[field] {
		return
	}
	if f.fields == nil {
		f.fields = map[string]bool{}
	}
	f.fields[field] = true
	f.messages = append(f.messages, strings.TrimSpace(field+" "+fmt.Sprintf(format, args...)))
}

// maxMessages keeps an error to one readable line.
const maxMessages = 8

func (f *faults) err() error {
	if len(f.messages) == 0 {
		return nil
	}
	messages := f.messages
	if more := len(messages) - maxMessages; more > 0 {
		messages = append(messages[:maxMessages:maxMessages], fmt.Sprintf("and %d more", more))
	}
	return errors.New(strings.Join(messages, "; "))
}

// object reads the members of a JSON object, and notes those of the wrong type. A member that is
// null counts as one that is not there, as in transformers.
type object struct {
	members map[string]json.RawMessage
	path    string // before a member's name in faults
	faults  *faults
}

func parseObject(data []byte, f *faults) (object, error) {
	o := object{faults: f}
	if err := json.Unmarshal(data, &o.members); err != nil {
		return o, fmt.Errorf("not a JSON object: %w", err)
	}
	if o.members == nil {
		return o, errors.New("not a JSON object: null")
	}
	return o, nil
}

func (o object) has(name string) bool {
	raw, ok := o.members[name]
	return ok && string(raw) != "null"
}

func (o object) fault(name, format string, args ...any) { o.faults.add(o.path+name, format, args...) }

// decode reads a member into v; false where it is missing or, which it notes, of another type.
func (o object) decode(name, want string, v any) bool {
	if !o.has(name) {
		return false
	}
	if err := json.Unmarshal(o.members[name], v); err != nil {
		o.fault(name, "is %s, want %s", clip(string(o.members[name])), want)
		return false
	}
	return true
}

// required is integer for a member that must be there.
func (o object) required(name string) int {
	if !o.has(name) {
		o.fault(name, "is missing")
	}
	return o.integer(name, 0)
}

func (o object) integer(name string, def int) int {
	var n json.Number
	if !o.decode(name, "an integer", &n) {
		return def
	}
	v, ok := wholeNumber(n)
	if !ok || o.members[name][0] == '"' { // json.Number takes strings of digits, too
		o.fault(name, "is %s, want an integer", clip(string(o.members[name])))
		return def
	}
	return v
}

// wholeNumber accepts 4096.0 as well: tools that rewrite configurations leave such numbers behind.
func wholeNumber(n json.Number) (int, bool) {
	if v, err := strconv.ParseInt(n.String(), 10, 32); err == nil {
		return int(v), true
	}
	f, err := n.Float64()
	if err != nil || f != math.Trunc(f) || math.Abs(f) > math.MaxInt32 {
		return 0, false
	}
	return int(f), true
}

func (o object) number(name string, def float64) float64 {
	v := def
	if !o.decode(name, "a number", &v) {
		return def
	}
	return v
}

func (o object) boolean(name string, def bool) bool {
	v := def
	if !o.decode(name, "true or false", &v) {
		return def
	}
	return v
}

func (o object) text(name, def string) string {
	v := def
	if !o.decode(name, "a string", &v) {
		return def
	}
	return v
}

func (o object) texts(name string) []string {
	var v []string
	o.decode(name, "a list of strings", &v)
	return v
}

// object reads a member that is an object; an empty one counts as missing.
func (o object) object(name string) (object, bool) {
	inner := object{path: o.path + name + ".", faults: o.faults}
	ok := o.decode(name, "an object", &inner.members)
	return inner, ok && len(inner.members) > 0
}

// tokens reads one token id or a list of them.
func (o object) tokens(name string) []int {
	if !o.has(name) {
		return nil
	}
	var list []int
	if json.Unmarshal(o.members[name], &list) == nil {
		return list
	}
	var one int
	if !o.decode(name, "a token id or a list of them", &one) {
		return nil
	}
	return []int{one}
}

// token reads one token id, none (-1) where it is missing; a negative one means none as well.
func (o object) token(name string) int { return max(o.integer(name, noToken), noToken) }

// clip makes what a file contains fit for a message: short, and of printable characters alone.
func clip(s string) string {
	const limit = 40
	if len(s) > limit {
		s = s[:limit] + "..."
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
