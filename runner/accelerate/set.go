package accelerate

import (
	"fmt"
	"maps"
	"reflect"
	"strings"
)

// Set gives the option key the value that it would have in a configuration file: Set("spin", "off"),
// Set("calibration.samples", "64"), Set("session_entries.session.disable_prepacking", "1"). Of a map, one entry is set and
// the others stay. Like ReadConfig it does not validate c.
func (c *Config) Set(key, value string) error {
	v, rest := reflect.ValueOf(c).Elem(), key
	for {
		name, tail, nested := strings.Cut(rest, ".")
		v = option(v, name)
		if !v.IsValid() || nested && v.Kind() != reflect.Struct && v.Kind() != reflect.Map {
			return fmt.Errorf("accelerate: there is no option %q", key)
		}
		if v.Kind() == reflect.Map {
			if tail == "" {
				return fmt.Errorf("accelerate: option %q: which of its entries? Write %s.NAME", key, key)
			}
			entries := maps.Clone(v.Interface().(map[string]string)) // others may hold what c was copied from
			if entries == nil {
				entries = map[string]string{}
			}
			entries[tail] = value
			v.Set(reflect.ValueOf(entries))
			return nil
		}
		if !nested {
			break
		}
		rest = tail
	}
	if v.Kind() == reflect.String {
		v.SetString(value)
		return nil
	}
	n, err := parse([]byte(value))
	if err != nil {
		return fmt.Errorf("accelerate: option %q: %w", key, err)
	}
	var r reader
	if r.read(n, v, key); r.err() != nil {
		return fmt.Errorf("accelerate: %w", r.err())
	}
	return nil
}

// option is the field of a struct with this name in its tag, or in that of a struct within that is inline; not valid where there
// is none.
func option(v reflect.Value, name string) reflect.Value {
	for i := range v.NumField() {
		switch tag := v.Type().Field(i).Tag.Get("yaml"); {
		case tag == ",inline":
			if field := option(v.Field(i), name); field.IsValid() {
				return field
			}
		case tag == name && name != "":
			return v.Field(i)
		}
	}
	return reflect.Value{}
}
