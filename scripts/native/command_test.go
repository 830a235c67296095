package main

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFaultLine(t *testing.T) {
	tests := []struct{ name, output, want string }{
		{"nothing said", "", ""},
		{"no line calls itself an error", "one\ntwo\n\n", "two"},
		{"pip: warnings come first", "WARNING: a\nERROR: b\nERROR: c\n", "ERROR: b"},
		{"cargo: a closing line says less", "error[E0599]: a\n --> b\nwarning: build failed", "error[E0599]: a"},
		{"cargo: the package is on the next line", "error: rustc is not supported by:\n  tokenizers\n\n", "error: rustc is not supported by: tokenizers"},
		{"nothing after the colon", "error:", "error:"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { require.Equal(t, test.want, faultLine(test.output)) })
	}
}

// Ctrl-C must be reported as such, not as a fault of the program that was stopped.
func TestCommandStopped(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, command(ctx, t.TempDir(), "sh", "-c", "exit 1"), context.Canceled)
}
