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
	pointer := v.Kind() == reflect.Pointer
	into := reflect.New(v.Type())
	if pointer {
		into = reflect.New(v.Type().Elem())
	}
	if err := decode([]byte(value), into.Interface()); err != nil {
		return fmt.Errorf("accelerate: option %q: %w", key, err)
	}
	if !pointer {
		into = into.Elem()
	}
	v.Set(into)
	return nil
}

// option is the field of a struct with this name in its tag; not valid where there is none.
func option(v reflect.Value, name string) reflect.Value {
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get("yaml") == name {
			return v.Field(i)
		}
	}
	return reflect.Value{}
}
