package grammar

import (
	"encoding/binary"
	"slices"
)

// A progress is how far an object is: which properties may still come, and how many there are by now.
type progress struct {
	gone  []byte // bits, by property: it was there, or it is too late for it
	count int32  // of properties, as far as that matters
}

func (s progress) has(i int) bool { return s.gone[i/8]>>(i%8)&1 != 0 }

func (s progress) text() string {
	return string(binary.BigEndian.AppendUint32(append([]byte(nil), s.gone...), uint32(s.count)))
}

func progressOf(text string) progress {
	n := len(text) - 4
	return progress{gone: []byte(text[:n]), count: int32(binary.BigEndian.Uint32([]byte(text[n:])))}
}

// start is before the first property. Properties that cannot be are gone.
func (o *objectOf) start() progress {
	s := progress{gone: make([]byte, (len(o.properties)+7)/8)}
	for i, p := range o.properties {
		if !p.value.possible && !p.required {
			s.gone[i/8] |= 1 << (i % 8)
		}
	}
	return s
}

// free is the number of a property that is not declared.
const free = -1

// with is behind one property more, number i.
func (o *objectOf) with(s progress, i int) progress {
	next := progress{gone: append([]byte(nil), s.gone...), count: s.count}
	if next.count < max(o.min, o.max, 1) {
		next.count++
	}
	from, to := i, i // what is gone with it
	if !o.anyOrder {
		from = 0
	}
	if i == free {
		from, to = 0, len(o.properties)-1
		if o.anyOrder {
			to = -1
		}
	}
	for k := from; k <= to; k++ {
		next.gone[k/8] |= 1 << (k % 8)
	}
	return next
}

// feasible reports whether the object can still be completed.
func (o *objectOf) feasible(s progress) bool {
	required, open := int32(0), int32(0)
	for i, p := range o.properties {
		if s.has(i) {
			continue
		}
		open++
		if p.required {
			required++
			if !p.value.possible {
				return false
			}
		}
	}
	others := slices.ContainsFunc(o.free, func(f freeProperty) bool { return f.value.possible })
	return (others || s.count+open >= o.min) && (o.max == unbounded || s.count+required <= o.max && o.min <= o.max)
}

// missing reports whether a required property is still to come.
func (o *objectOf) missing(s progress) bool {
	for i, p := range o.properties {
		if p.required && !s.has(i) {
			return true
		}
	}
	return false
}

// objectRule unfolds the rest of an object from its progress.
type objectRule struct {
	j *jsonTerms
	o *objectOf
}

func (r *objectRule) unfold(a *arena, state string) id {
	j, o, s := r.j.in(a), r.o, progressOf(state)
	separator := empty
	if s.count > 0 {
		separator = j.cat(j.text(","), j.space)
	}
	var parts []id
	member := func(name id, v *value, i int) {
		next := o.with(s, i)
		if v.possible && (o.max == unbounded || s.count < o.max) && o.feasible(next) {
			parts = append(parts, j.sequence(separator, j.member(name, j.valueTerm(v)), j.space, j.call(o.rule, next.text())))
		}
	}
	for i, p := range o.properties {
		if s.has(i) {
			continue
		}
		member(j.text(`"`+stringText(p.name)+`"`), p.value, i)
		if p.required && !o.anyOrder {
			break
		}
	}
	missing := o.missing(s)
	if !missing || o.anyOrder {
		for _, f := range o.free {
			member(f.name, f.value, free)
		}
	}
	if !missing && s.count >= o.min {
		parts = append(parts, j.text("}"))
	}
	return j.alt(parts...)
}
