package orttest

// #include <malloc.h>
//
// static long long allocated(void) {
// #if defined(__GLIBC__) && __GLIBC_PREREQ(2, 33)
//   return mallinfo2().uordblks;
// #else
//   return -1;
// #endif
// }
import "C"

import (
	"os"
	"regexp"
	"strconv"
	"testing"
)

// Allocated is how many bytes C's malloc has given out and not been given back, for this process: those of ONNX Runtime
// too, mapped blocks (mallopt(3), M_MMAP_THRESHOLD) excepted. A test on a system whose C library does not tell is skipped.
func Allocated(tb testing.TB) int {
	tb.Helper()
	n := int(C.allocated())
	if n < 0 {
		tb.Skip("only glibc 2.33 and later tell how much memory malloc has given out")
	}
	return n
}

// ResidentAnonymous is RssAnon of this process in bytes, see proc_pid_status(5).
func ResidentAnonymous(tb testing.TB) int {
	tb.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		tb.Fatal(err)
	}
	found := regexp.MustCompile(`RssAnon:\s+(\d+) kB`).FindSubmatch(status)
	if found == nil {
		tb.Fatalf("/proc/self/status does not tell RssAnon: %s", status)
	}
	kB, err := strconv.Atoi(string(found[1]))
	if err != nil {
		tb.Fatal(err)
	}
	return kB << 10
}
