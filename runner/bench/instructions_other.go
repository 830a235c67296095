//go:build !linux

package bench

import "fmt"

// hardwareInstructions cannot be counted here.
var hardwareInstructions perfEvent

type perfEvent struct{}

func (perfEvent) count(func() error) (uint64, error) {
	return 0, fmt.Errorf("%w: it takes Linux", ErrNoCounter)
}
