package machine

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestStatusBytes(t *testing.T) {
	const status = "Name:\tqwenrt\nVmHWM:\t  123456 kB\nRssAnon:\t       7 kB\n"
	require.EqualValues(t, 123456<<10, statusBytes(status, "VmHWM:"))
	require.EqualValues(t, 7<<10, statusBytes(status, "RssAnon:"))
	require.Zero(t, statusBytes(status, "VmPeak:"))
}
