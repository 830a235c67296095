package accelerate

import (
	"fmt"
	"io"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestExplain(t *testing.T) {
	full := fmt.Errorf("ir: write x: %w", &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC})
	require.ErrorIs(t, explain(full), syscall.ENOSPC)
	require.ErrorContains(t, explain(full), "make room")
	require.Equal(t, io.EOF, explain(io.EOF))
}
