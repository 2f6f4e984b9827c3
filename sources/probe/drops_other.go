//go:build !linux

package probe

import "net"

// dropped is known on Linux only.
func dropped(*net.UDPConn) uint32 { return 0 }
