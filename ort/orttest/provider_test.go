//go:build unix

package orttest

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	runs, err := parse("in x 4096 1 4\nout z 8192\nend\ngraph 7\nin x 0 0\nend\n")
	require.NoError(t, err)
	require.Equal(t, []Run{
		{Inputs: map[string]Value{"x": {4096, []int64{1, 4}}}, Outputs: map[string]Value{"z": {8192, []int64{}}}},
		{Inputs: map[string]Value{"x": {0, []int64{0}}}, Outputs: map[string]Value{}, Graph: "7"},
	}, runs)
	for _, text := range []string{"in x y\n", "in x 1 y\n"} {
		_, err := parse(text)
		require.ErrorContains(t, err, "orttest: ", text)
	}
}
