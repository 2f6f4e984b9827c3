package softswitch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"unsafe"

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
	// Without a protocol the socket gets nothing before it is bound, when it would
	// get the frames of all interfaces.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("port %d: cannot open a raw socket: %w; it needs CAP_NET_RAW", number, err)
	}
	address := &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: ifi.Index}
	member := unix.PacketMreq{Ifindex: int32(ifi.Index), Type: unix.PACKET_MR_PROMISC}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &member),
		unix.Bind(fd, address),
	)
	if err != nil {
		return errors.Join(fmt.Errorf("port %d: cannot use interface %q: %w", number, name, err), unix.Close(fd))
	}
	file := os.NewFile(uintptr(fd), name) // a non-blocking descriptor, so that Close ends a read
	raw, err := file.SyscallConn()
	if err != nil {
		return errors.Join(fmt.Errorf("port %d: cannot use interface %q: %w", number, name, err), file.Close())
	}
	p := port{close: file.Close, send: func(frame []byte) error {
		_, err := file.Write(frame)
		return err
	}}
	if err := s.attach(number, p); err != nil {
		return errors.Join(err, file.Close())
	}
	s.closing.Go(func() {
		r := reader{raw: raw}
		for {
			frame, err := r.next()
			switch {
			case err == nil:
				s.Inject(frame)
			case !errors.Is(err, unix.ENETDOWN): // closed, or the interface is gone
				return
			}
		}
	})
	return nil
}

// reader takes frames from a raw socket.
type reader struct {
	raw    syscall.RawConn
	buffer [65536]byte
	aux    [256]byte
}

const (
	macs    = 12 // bytes of the two addresses that a frame begins with
	tagSize = 4  // bytes of a VLAN tag
)

// next waits for a frame, which is valid until the next call. The kernel takes
// the VLAN tag out of a frame and hands it over beside it; it is put back.
func (r *reader) next() ([]byte, error) {
	var n, auxSize int
	var err error
	again := r.raw.Read(func(fd uintptr) bool {
		n, auxSize, _, _, err = unix.Recvmsg(int(fd), r.buffer[tagSize:], r.aux[:], 0)
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
	if err := errors.Join(again, err); err != nil {
		return nil, err
	}
	tpid, tci, tagged := vlanTag(r.aux[:auxSize])
	if !tagged || n < macs {
		return r.buffer[tagSize : tagSize+n], nil
	}
	copy(r.buffer[:macs], r.buffer[tagSize:])
	binary.BigEndian.PutUint16(r.buffer[macs:], tpid)
	binary.BigEndian.PutUint16(r.buffer[macs+2:], tci)
	return r.buffer[:tagSize+n], nil
}

// vlanTag finds the VLAN tag in what the kernel says beside a frame.
func vlanTag(aux []byte) (tpid, tci uint16, tagged bool) {
	messages, err := unix.ParseSocketControlMessage(aux)
	if err != nil {
		return 0, 0, false
	}
	for _, m := range messages {
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < int(unsafe.Sizeof(unix.TpacketAuxdata{})) {
			continue
		}
		status := binary.NativeEndian.Uint32(m.Data[unsafe.Offsetof(unix.TpacketAuxdata{}.Status):])
		if status&unix.TP_STATUS_VLAN_VALID == 0 {
			continue
		}
		tpid = typeVLAN
		if status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
			tpid = binary.NativeEndian.Uint16(m.Data[unsafe.Offsetof(unix.TpacketAuxdata{}.Vlan_tpid):])
		}
		return tpid, binary.NativeEndian.Uint16(m.Data[unsafe.Offsetof(unix.TpacketAuxdata{}.Vlan_tci):]), true
	}
	return 0, 0, false
}

// htons gives a number in network byte order.
func htons(v uint16) uint16 { return v<<8 | v>>8 }
