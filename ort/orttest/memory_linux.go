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

import "testing"

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
