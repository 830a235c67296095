package tune

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/runner/accelerate"
)

// The list has each field of a configuration, and nothing else.
func TestSettings(t *testing.T) {
	var fields, listed []string
	for _, f := range reflect.VisibleFields(reflect.TypeFor[accelerate.Config]()) {
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		fields = append(fields, name)
	}
	for _, s := range Settings() {
		require.NotEmpty(t, s.Default, s.Name)
		require.NotEmpty(t, s.Effect, s.Name)
		listed = append(listed, s.Name)
	}
	slices.Sort(fields)
	slices.Sort(listed)
	require.Equal(t, fields, listed)
}
