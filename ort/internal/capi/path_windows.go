package capi

// #include <stdlib.h>
import "C"

import (
	"unicode/utf16"
	"unsafe"
)

// nativePath returns path as the C API wants it (an ORTCHAR_T string, UTF-16 on
// Windows), in memory for C.free. The caller has checked that path holds no zero
// byte.
func nativePath(path string) unsafe.Pointer {
	units := append(utf16.Encode([]rune(path)), 0)
	p := C.malloc(C.size_t(2 * len(units)))
	copy(unsafe.Slice((*uint16)(p), len(units)), units)
	return p
}
