package probe

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// memoryDrops is the index of the dropped packets in the nine numbers of SO_MEMINFO.
const memoryDrops, memoryNumbers = 8, 9

// dropped is how many packets the kernel dropped because the buffer of a socket was
// full. Such a loss must not be blamed on a release.
func dropped(c syscall.Conn) uint32 {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	var info [memoryNumbers]uint32
	size := uint32(unsafe.Sizeof(info))
	_ = raw.Control(func(fd uintptr) {
		// A kernel before 4.12 does not know the option and leaves zeros.
		_, _, _ = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	})
	return info[memoryDrops]
}
