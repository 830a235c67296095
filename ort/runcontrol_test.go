package ort

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// Close leaves the options to the runs that have them until the last has ended.
func TestCloseWaitsForTheOptions(t *testing.T) {
	require.NoError(t, Init(Environment{}))
	c, err := NewRunControl()
	require.NoError(t, err)
	for range 2 {
		_, err = c.begin()
		require.NoError(t, err)
	}
	closed := make(chan struct{})
	go func() {
		c.Close()
		close(closed)
	}()
	for c.Reset() == nil { // until nobody is let in
		runtime.Gosched()
	}
	for range 2 {
		for range 1000 { // time enough to release them
			runtime.Gosched()
			select {
			case <-closed:
				t.Fatal("the options are released, and a run has them")
			default:
			}
		}
		_ = c.end(nil)
	}
	<-closed
}
