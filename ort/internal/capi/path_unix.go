//go:build !windows

package capi

// #include <stdlib.h>
import "C"

import "unsafe"

// nativePath returns path as the C API wants it (an ORTCHAR_T string), in memory
// for C.free. The caller has checked that path holds no zero byte.
func nativePath(path string) unsafe.Pointer { return unsafe.Pointer(C.CString(path)) }
