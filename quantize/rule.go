package quantize

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
)

// Rule says how the weights that a glob matches are quantised where that is not as [Options] say of all.
// Rules apply in order, and each changes what it names: of two that match and name the same, the later
// one counts.
type Rule struct {
	// Match is a glob for the name of the tensor, or of a node that reads it: a rule for
	// "/lm_head/*" is about the head alone, also where it shares its table with the embedding, which is
	// then stored twice. * stands for any characters, / and . among them; ? and [a-z] are as in path.Match.
	Match string
	// Keep leaves weights in their type. A later rule with a Precision takes them in again.
	Keep bool
	// What the rule names; zero values name nothing.
	Precision     Precision
	BlockSize     int
	Symmetric     *bool
	Method        Method
	Scale         Scale
	AccuracyLevel int
}

// ParseRule reads a rule as a user writes it: a glob, =, and what to do, in parts joined by colons, in any
// order:
//
//	keep (or float)               leave the weights in their type
//	int4, int8, dynamic-int8      precision
//	b16, b32, b64, b128, b256     block size
//	sym, asym                     without, with zero points
//	rtn, hqq                      method
//	max, mse                      scale
//	level1 ... level4             accuracy level
//
// as in "model.layers.0.*=int8:b64:sym".
func ParseRule(s string) (Rule, error) {
	at := strings.LastIndexByte(s, '=')
	if at < 0 {
		return Rule{}, fmt.Errorf("quantize: rule %q: want GLOB=VALUE, such as 'model.layers.0.*=int8'", s)
	}
	r := Rule{Match: s[:at]}
	for part := range strings.SplitSeq(s[at+1:], ":") {
		if err := r.parse(strings.ToLower(part)); err != nil {
			return Rule{}, fmt.Errorf("quantize: rule %q: %w", s, err)
		}
	}
	if faults := r.faults(); len(faults) > 0 {
		return Rule{}, fmt.Errorf("quantize: %w", oneLine{faults})
	}
	return r, nil
}

// parse reads one part of a rule's value.
func (r *Rule) parse(part string) error {
	number := func(prefix string) (int, bool) {
		digits, ok := strings.CutPrefix(part, prefix)
		n, err := strconv.Atoi(digits)
		return n, ok && err == nil
	}
	symmetric := part == "sym"
	if p, err := ParsePrecision(part); err == nil {
		return once(&r.Precision, p)
	}
	if m, err := ParseMethod(part); err == nil {
		return once(&r.Method, m)
	}
	if s, err := ParseScale(part); err == nil {
		return once(&r.Scale, s)
	}
	if n, ok := number("b"); ok {
		return once(&r.BlockSize, n)
	}
	if n, ok := number("level"); ok {
		return once(&r.AccuracyLevel, n)
	}
	switch part {
	case "keep", "float":
		return once(&r.Keep, true)
	case "sym", "asym":
		return once(&r.Symmetric, &symmetric)
	}
	return fmt.Errorf("%q: want keep, int4, int8, dynamic-int8, b32 (a block size), sym, asym, %s, max, mse or level4 (an accuracy level)", part, list(Methods()))
}

// once sets what a rule names. Naming a thing twice, or nothing, is a slip of the pen.
func once[T comparable](field *T, value T) error {
	var none T
	switch {
	case *field != none:
		return errors.New("it says the same thing twice")
	case value == none:
		return errors.New("a number is 0")
	}
	*field = value
	return nil
}

// String gives the rule as ParseRule reads it.
func (r Rule) String() string {
	var parts []string
	add := func(set bool, part string) {
		if set {
			parts = append(parts, part)
		}
	}
	add(r.Keep, "keep")
	add(r.Precision != "", string(r.Precision))
	add(r.BlockSize != 0, "b"+strconv.Itoa(r.BlockSize))
	add(r.Symmetric != nil && *r.Symmetric, "sym")
	add(r.Symmetric != nil && !*r.Symmetric, "asym")
	add(r.Method != "", string(r.Method))
	add(r.Scale != "", string(r.Scale))
	add(r.AccuracyLevel != 0, "level"+strconv.Itoa(r.AccuracyLevel))
	return r.Match + "=" + strings.Join(parts, ":")
}

// MarshalText is String, and UnmarshalText ParseRule, for files of settings.
func (r Rule) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what ParseRule reads.
func (r *Rule) UnmarshalText(text []byte) (err error) {
	*r, err = ParseRule(string(text))
	return err
}

// faults lists what is wrong with the rule whatever the options are; what it makes of them is checked
// where it is applied.
func (r Rule) faults() []error {
	var all []error
	fault := func(format string, args ...any) {
		all = append(all, fmt.Errorf("rule %q: "+format, append([]any{r.String()}, args...)...))
	}
	if _, err := path.Match(slashless(r.Match), ""); err != nil || r.Match == "" {
		fault("not a valid glob before the =")
	}
	if _, err := r.Precision.bits(); err != nil && r.Precision != "" {
		fault("%w", err)
	}
	if r.Precision.integer() && (r.BlockSize != 0 || r.Symmetric != nil) {
		fault("%s has no blocks", r.Precision)
	}
	bare := r
	bare.Match, bare.Keep = "", false
	switch named := bare != (Rule{}); {
	case r.Keep && named:
		fault("weights that keep their type have no format")
	case !r.Keep && !named:
		fault("it asks for nothing")
	}
	return all
}

func (r Rule) matches(name string) bool {
	ok, _ := path.Match(slashless(r.Match), slashless(name))
	return ok && name != ""
}

// slashless lets * of path.Match stand for slashes too: names of nodes are full of them, and hold no
// control characters.
func slashless(s string) string { return strings.ReplaceAll(s, "/", "\x01") }

// literal is a glob that matches name alone.
func literal(name string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(name)
}

// form is in what form a weight is stored, and how that is found. Uses of a weight in one form share it.
type form struct {
	method Method
	scale  Scale
	format Format
}

// recipe is what is done to a weight for one use of it.
type recipe struct {
	form
	integers Precision // DynamicInt8 or StaticInt8 for products in integers, "" for blocks
	keep     bool
	level    int  // accuracy level, of products
	chosen   bool // a rule has named the format
}

// apply is the recipe with what the rule names.
func (r Rule) apply(c recipe) recipe {
	c.chosen = c.chosen || r.Keep || r.Precision != "" || r.BlockSize != 0 || r.Symmetric != nil
	if r.Keep {
		c.keep = true
	}
	if bits, err := r.Precision.bits(); err == nil {
		c.keep, c.format.Bits, c.integers = false, bits, r.Precision.integers()
	}
	if r.BlockSize != 0 || r.Symmetric != nil {
		c.integers = ""
	}
	if r.BlockSize != 0 {
		c.format.BlockSize = r.BlockSize
	}
	if r.Symmetric != nil {
		c.format.Symmetric = *r.Symmetric
	}
	if r.Method != "" {
		c.method = r.Method
	}
	if r.Scale != "" {
		c.scale = r.Scale
	}
	if r.AccuracyLevel != 0 {
		c.level = r.AccuracyLevel
	}
	return c
}

// faults lists what is wrong with a recipe.
func (c recipe) faults() []error {
	all := c.format.faults()
	if c.level < 1 || c.level > 4 {
		all = append(all, fmt.Errorf("accuracy level %d: it must be 1 to 4", c.level))
	}
	if _, err := parse("method", string(c.method), Methods()); err != nil {
		all = append(all, err)
	}
	if _, err := parse("scale", string(c.scale), Scales()); err != nil {
		all = append(all, err)
	}
	return all
}
