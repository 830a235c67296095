package main

import "golang.org/x/sys/unix"

func machineMemory() memory {
	total, err := unix.SysctlUint64("hw.memsize")
	if err != nil {
		return memory{}
	}
	return memory{total: int64(total)}
}
