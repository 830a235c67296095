package grammar

import (
	"math/big"
	"unicode/utf8"
)

// accepts reports whether all schemas accept a value. It serves for values that a schema lists, and for
// names of properties.
func (c *compiler) accepts(set []*node, v any) (bool, error) {
	for _, n := range set {
		if ok, err := c.valid(n, v); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (c *compiler) valid(n *node, v any) (bool, error) {
	if n.never || n.types&typeOf(v) == 0 || n.choices != nil && !containsValue(n.choices, v) {
		return false, nil
	}
	if ok, err := c.accepts(n.also, v); !ok || err != nil {
		return false, err
	}
	for _, g := range n.groups {
		count := 0
		for _, m := range g.nodes {
			ok, err := c.valid(m, v)
			if err != nil {
				return false, err
			}
			if ok {
				count++
			}
		}
		if count == 0 || g.exactly && count > 1 {
			return false, nil
		}
	}
	switch v := v.(type) {
	case *big.Rat:
		return n.numbers.contain(v), nil
	case string:
		return c.validString(n, v)
	case []any:
		return c.validArray(n, v)
	case *object:
		return c.validObject(n, v)
	}
	return true, nil
}

func typeOf(v any) types {
	switch v := v.(type) {
	case nil:
		return typeNull
	case bool:
		return typeBoolean
	case *big.Rat:
		if v.IsInt() {
			return typeInteger
		}
		return typeFraction
	case string:
		return typeString
	case []any:
		return typeArray
	}
	return typeObject
}

func (n *numbers) contain(v *big.Rat) bool {
	if n.lo != nil {
		if c := v.Cmp(n.lo); c < 0 || c == 0 && n.loOpen {
			return false
		}
	}
	if n.hi != nil {
		if c := v.Cmp(n.hi); c > 0 || c == 0 && n.hiOpen {
			return false
		}
	}
	for _, m := range n.multiples {
		if !new(big.Rat).Quo(v, m).IsInt() {
			return false
		}
	}
	return true
}

func isBetween(n int, least, most int32) bool {
	return n >= int(least) && (most == unbounded || n <= int(most))
}

func (c *compiler) validString(n *node, s string) (bool, error) {
	if !isBetween(utf8.RuneCountInString(s), n.minLength, n.maxLength) {
		return false, nil
	}
	for _, p := range n.expressions() {
		if ok, err := c.matches(p, s); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// matches reports whether a pattern is found in s.
func (c *compiler) matches(pattern, s string) (bool, error) {
	n, err := c.pattern(pattern)
	if err != nil {
		return false, err
	}
	for _, b := range []byte(stringText(s)) {
		n = c.j.step(n, b)
	}
	return c.j.at(n).nullable, nil
}

func (c *compiler) validArray(n *node, list []any) (bool, error) {
	if !isBetween(len(list), n.minItems, n.maxItems) {
		return false, nil
	}
	for i, v := range list {
		item := n.items
		if i < len(n.prefix) {
			item = n.prefix[i]
		}
		if item == nil {
			continue
		}
		if ok, err := c.valid(item, v); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (c *compiler) validObject(n *node, o *object) (bool, error) {
	if !isBetween(len(o.names), n.minProperties, n.maxProperties) {
		return false, nil
	}
	for _, name := range n.required {
		if _, ok := o.values[name]; !ok {
			return false, nil
		}
	}
	for _, name := range o.names {
		set, possible, err := c.property([]*node{n}, name)
		if !possible || err != nil {
			return false, err
		}
		if ok, err := c.accepts(set, o.values[name]); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}
