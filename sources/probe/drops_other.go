//go:build !linux

package probe

import "syscall"

// dropped is known on Linux only.
func dropped(syscall.Conn) uint32 { return 0 }
