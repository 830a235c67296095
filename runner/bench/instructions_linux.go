package bench

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hardwareInstructions are those that the CPU has finished, outside of the kernel.
var hardwareInstructions = perfEvent{unix.PERF_TYPE_HARDWARE, unix.PERF_COUNT_HW_INSTRUCTIONS}

type perfEvent struct {
	kind   uint32
	config uint64
}

// count counts an event on the calling thread, to which the goroutine is locked, while f runs. The counter is pinned: it counts all
// the time, or not at all where others take the CPU's few counters. An event that is never seen is not counted.
func (e perfEvent) count(f func() error) (n uint64, err error) {
	fd, err := unix.PerfEventOpen(&unix.PerfEventAttr{
		Type: e.kind, Config: e.config, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
		Bits: unix.PerfBitDisabled | unix.PerfBitPinned | unix.PerfBitExcludeKernel | unix.PerfBitExcludeHv,
	}, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("%w: perf_event_open: %w", ErrNoCounter, err)
	}
	defer unix.Close(fd)
	if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_ENABLE, 0); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrNoCounter, err)
	}
	if err := f(); err != nil {
		return 0, err
	}
	var value [8]byte
	if _, err := unix.Read(fd, value[:]); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrNoCounter, err)
	}
	// Zero too where nothing was read: a pinned counter that found no place is at its end.
	if n = binary.NativeEndian.Uint64(value[:]); n == 0 {
		return 0, fmt.Errorf("%w: the counter does not move", ErrNoCounter)
	}
	return n, nil
}
