package chat

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/ardanlabs/jinja"
)

// Budgets of one rendering. A prompt that fills a context of a million tokens has
// some 6 MB; a long conversation with tools takes a few thousand steps.
const (
	maxOutput = 16 << 20 // bytes printed, macros included
	maxValue  = 16 << 20 // bytes of one value, shared parts counted each time
	maxSteps  = 4 << 20  // loop turns, macro calls, and nodes of assigned values
	maxDepth  = 100      // macro calls within macro calls
	maxNested = 200      // lists and dicts within lists and dicts
)

var errNested = fmt.Errorf("value is nested more than %d deep", maxNested)

// A meter holds what one rendering may still use. Its functions are what the
// rewritten source calls, so they are the only places where a rendering can stop.
type meter struct {
	ctx     context.Context
	steps   int
	depth   int
	printed int
}

type function = func(args []jinja.Value, kwargs map[string]jinja.Value) (jinja.Value, error)

// functions returns the names that the meter adds to a template's variables.
func (m *meter) functions() map[string]function {
	return map[string]function{
		turnFunc:          m.turn,
		enterFunc:         m.enter,
		leaveFunc:         m.leave,
		boundFunc:         m.bound,
		printFilter:       m.print,
		jsonFilter:        tojson,
		replaceFilter:     replace,
		numberFilter:      number,
		"range":           m.rangeFunc,
		"raise_exception": raise,
	}
}

func (m *meter) charge(steps int) error {
	if err := m.ctx.Err(); err != nil {
		return err
	}
	m.steps += steps
	if m.steps > maxSteps {
		return fmt.Errorf("template takes more than %d steps", maxSteps)
	}
	return nil
}

func (m *meter) turn([]jinja.Value, map[string]jinja.Value) (jinja.Value, error) {
	return jinja.None(), m.charge(1)
}

func (m *meter) enter([]jinja.Value, map[string]jinja.Value) (jinja.Value, error) {
	m.depth++
	if m.depth > maxDepth {
		return jinja.None(), fmt.Errorf("template calls macros more than %d deep", maxDepth)
	}
	return jinja.None(), m.charge(1)
}

func (m *meter) leave([]jinja.Value, map[string]jinja.Value) (jinja.Value, error) {
	m.depth--
	return jinja.None(), nil
}

// bound checks a value that was assigned. A namespace that came to contain itself
// is found by its depth.
func (m *meter) bound(args []jinja.Value, _ map[string]jinja.Value) (jinja.Value, error) {
	var s sizer
	if err := s.add(args[0], 0); err != nil {
		return jinja.None(), err
	}
	return jinja.None(), m.charge(s.nodes)
}

// print spells an output as Python's str does and counts it.
func (m *meter) print(args []jinja.Value, _ map[string]jinja.Value) (jinja.Value, error) {
	text, err := str(args[0])
	if err != nil {
		return jinja.None(), err
	}
	m.printed += len(text)
	if m.printed > maxOutput {
		return jinja.None(), fmt.Errorf("template prints more than %d bytes", maxOutput)
	}
	return jinja.NewString(text), nil
}

// rangeFunc is Python's range, as a list whose length is charged beforehand.
func (m *meter) rangeFunc(args []jinja.Value, _ map[string]jinja.Value) (jinja.Value, error) {
	bounds := [3]int64{0, 0, 1}
	for i, a := range args {
		if i == len(bounds) || !a.IsInt() || a.AsInt() < math.MinInt32 || a.AsInt() > math.MaxInt32 {
			return jinja.None(), errors.New("range takes one to three integers of 32 bits")
		}
		bounds[i] = a.AsInt()
	}
	if len(args) == 0 || bounds[2] == 0 {
		return jinja.None(), errors.New("range needs an end, and a step that is not 0")
	}
	start, stop, step := bounds[0], bounds[1], bounds[2]
	if len(args) == 1 {
		start, stop = 0, bounds[0]
	}
	away := int64(1)
	if step < 0 {
		away = -1
	}
	n := max(0, (stop-start+step-away)/step)
	if err := m.charge(int(n)); err != nil {
		return jinja.None(), err
	}
	items := make([]jinja.Value, n)
	for i := range items {
		items[i] = jinja.NewInt(start + int64(i)*step)
	}
	return jinja.NewList(items), nil
}

func raise(args []jinja.Value, _ map[string]jinja.Value) (jinja.Value, error) {
	if len(args) == 0 {
		return jinja.None(), ErrRefused
	}
	text, err := str(args[0])
	if err != nil {
		return jinja.None(), err
	}
	return jinja.None(), fmt.Errorf("%w: %s", ErrRefused, text)
}

// replace is str.replace and Jinja's filter of that name.
func replace(args []jinja.Value, kwargs map[string]jinja.Value) (jinja.Value, error) {
	count := -1
	if c, ok := kwargs["count"]; ok {
		args = append(args, c)
	}
	if len(args) == 4 && args[3].IsInt() {
		count = int(args[3].AsInt())
		args = args[:3]
	}
	if len(args) != 3 {
		return jinja.None(), errors.New("replace takes what to replace, by what, and how often")
	}
	var texts [3]string
	for i, a := range args {
		var err error
		if texts[i], err = str(a); err != nil {
			return jinja.None(), err
		}
	}
	text, old, by := texts[0], texts[1], texts[2]
	if grown := len(by) - len(old); grown > 0 && len(text)+strings.Count(text, old)*grown > maxValue {
		return jinja.None(), fmt.Errorf("replace makes a text of more than %d bytes", maxValue)
	}
	return jinja.NewString(strings.Replace(text, old, by, count)), nil
}

func number(args []jinja.Value, _ map[string]jinja.Value) (jinja.Value, error) {
	if v := args[0]; v.IsNumber() || v.IsBool() {
		return v, nil
	}
	return jinja.None(), errors.New("only numbers can be multiplied")
}

// A sizer adds up a value as if no part of it were shared.
type sizer struct {
	bytes, nodes int
}

func (s *sizer) add(v jinja.Value, depth int) error {
	s.nodes++
	s.bytes += 16
	if v.IsString() {
		s.bytes += len(v.AsString())
	}
	if s.bytes > maxValue {
		return fmt.Errorf("value has more than %d bytes", maxValue)
	}
	if depth > maxNested {
		return errNested
	}
	switch {
	case v.IsList():
		for _, item := range v.AsList().Items {
			if err := s.add(item, depth+1); err != nil {
				return err
			}
		}
	case v.IsDict():
		for _, item := range v.AsDict().Data {
			if err := s.add(item, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}
