//go:build race

package runner_test

// racing says that the race detector is on, which takes memory of its own for each address that is new to it.
const racing = true
