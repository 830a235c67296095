package machine

import "golang.org/x/sys/unix"

func readMachine() Memory {
	total, err := unix.SysctlUint64("hw.memsize")
	if err != nil {
		return Memory{}
	}
	return Memory{Total: int64(total)}
}
