//go:build !linux

package softswitch

import "fmt"

// AttachInterface makes a network interface a port; only Linux has AF_PACKET.
func (s *Switch) AttachInterface(number uint32, name string) error {
	return fmt.Errorf("port %d: cannot use interface %q: interfaces need Linux; use in-memory ports", number, name)
}
