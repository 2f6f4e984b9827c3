package softswitch

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// AttachInterface makes a port of a network interface by AF_PACKET. It needs
// CAP_NET_RAW. Frames come in by a reader of its own; the frames that this
// switch sends are not read back.
func (s *Switch) AttachInterface(number uint32, name string) error {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return fmt.Errorf("port %d: there is no interface %q", number, name)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(htons(unix.ETH_P_ALL)))
	if err != nil {
		return fmt.Errorf("port %d: cannot open a raw socket: %w; it needs CAP_NET_RAW", number, err)
	}
	address := &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: ifi.Index}
	member := unix.PacketMreq{Ifindex: int32(ifi.Index), Type: unix.PACKET_MR_PROMISC}
	err = errors.Join(
		unix.Bind(fd, address),
		unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &member),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
	)
	if err != nil {
		return errors.Join(fmt.Errorf("port %d: cannot use interface %q: %w", number, name, err), unix.Close(fd))
	}
	file := os.NewFile(uintptr(fd), name) // a non-blocking descriptor, so that Close ends a Read
	p := port{close: file.Close, send: func(frame []byte) {
		if _, err := file.Write(frame); err != nil {
			s.stats.drop(dropNoPort)
		}
	}}
	if err := s.attach(number, p); err != nil {
		return errors.Join(err, file.Close())
	}
	s.closing.Go(func() {
		buffer := make([]byte, 65536)
		for {
			n, err := file.Read(buffer)
			switch {
			case err == nil:
				s.Inject(buffer[:n])
			case !errors.Is(err, unix.ENETDOWN): // closed, or the interface is gone
				return
			}
		}
	})
	return nil
}

// htons gives a number in network byte order.
func htons(v uint16) uint16 { return v<<8 | v>>8 }
