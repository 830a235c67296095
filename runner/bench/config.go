package bench

import (
	"errors"
	"fmt"
)

// Config says what is measured. The zero value is llama-bench's: pp512 and tg128 at depth 0, five
// times each. Lists make a cross product with Depth.
type Config struct {
	// Prompt has the tokens N of the tests ppN, Gen those of tgN. Default: 512 and 128. A 0 in the
	// list is no test.
	Prompt, Gen []int
	// PromptGen has the tests ppN+tgM. Default: none.
	PromptGen []PromptGen
	// Depth has the tokens of context before a test. Default: 0.
	Depth []int
	// Repetitions of each test. Default: 5.
	Repetitions int
	// NoWarmup leaves out the run of each test that is not timed.
	NoWarmup bool
	// Seed of the random tokens.
	Seed uint64
}

// PromptGen is a prefill with decoding behind it, timed as one.
type PromptGen struct{ Prompt, Gen int }

// DefaultRepetitions is how often a test is run where Config does not say.
const DefaultRepetitions = 5

// Test is one thing to time.
type Test struct {
	Prompt int `json:"n_prompt"` // tokens of prefill
	Gen    int `json:"n_gen"`    // tokens decoded after it, one by one
	Depth  int `json:"n_depth"`  // tokens of context before both, not timed
}

// String names the test as llama-bench does: "pp512", "tg128 @ d2048", "pp512+tg128".
func (t Test) String() string {
	name := fmt.Sprintf("pp%d+tg%d", t.Prompt, t.Gen)
	switch {
	case t.Gen == 0:
		name = fmt.Sprintf("pp%d", t.Prompt)
	case t.Prompt == 0:
		name = fmt.Sprintf("tg%d", t.Gen)
	}
	if t.Depth > 0 {
		name += fmt.Sprintf(" @ d%d", t.Depth)
	}
	return name
}

// tokens are those that are timed.
func (t Test) tokens() int { return t.Prompt + t.Gen }

// Speed is that of a run that took ns nanoseconds, in tokens per second.
func (t Test) Speed(ns float64) float64 { return float64(t.tokens()) * 1e9 / ns }

// Tests gives the tests in the order in which they are run: by depth, then prefills, decodings, and
// both. The error names all that is wrong with c.
func (c Config) Tests() ([]Test, error) {
	c = c.complete()
	if err := c.validate(); err != nil {
		return nil, err
	}
	var tests []Test
	for _, depth := range c.Depth {
		for _, n := range c.Prompt {
			tests = append(tests, Test{Prompt: n, Depth: depth})
		}
		for _, n := range c.Gen {
			tests = append(tests, Test{Gen: n, Depth: depth})
		}
		for _, pg := range c.PromptGen {
			tests = append(tests, Test{Prompt: pg.Prompt, Gen: pg.Gen, Depth: depth})
		}
	}
	timed := tests[:0]
	for _, t := range tests {
		if t.tokens() > 0 {
			timed = append(timed, t)
		}
	}
	if len(timed) == 0 {
		return nil, errors.New("bench: nothing to measure: give a prompt or a generation of one token or more")
	}
	return timed, nil
}

func (c Config) complete() Config {
	if c.Prompt == nil {
		c.Prompt = []int{512}
	}
	if c.Gen == nil {
		c.Gen = []int{128}
	}
	if c.Depth == nil {
		c.Depth = []int{0}
	}
	if c.Repetitions == 0 {
		c.Repetitions = DefaultRepetitions
	}
	return c
}

func (c Config) validate() error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("bench: "+format, args...))
	}
	lists := []struct {
		name   string
		values []int
	}{{"prompt", c.Prompt}, {"generation", c.Gen}, {"depth", c.Depth}}
	for _, l := range lists {
		for _, n := range l.values {
			if n < 0 {
				fault("a %s of %d tokens: want 0 or more", l.name, n)
			}
		}
	}
	for _, pg := range c.PromptGen {
		if pg.Prompt < 1 || pg.Gen < 1 {
			fault("a prompt of %d with a generation of %d tokens: want 1 or more of each", pg.Prompt, pg.Gen)
		}
	}
	if c.Repetitions < 1 {
		fault("%d repetitions: want 1 or more", c.Repetitions)
	}
	return errors.Join(faults...)
}
