package softswitch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// vnetHeader is the size of a virtio_net_hdr, which the kernel puts before each frame
// because of PACKET_VNET_HDR. It says what still has to be done: to fill in a checksum,
// to segment a large frame. It is sent as it was received, so that frames of local
// senders, which are large and have no checksums, pass unchanged. Rewriting moves no
// header to which it points.
const vnetHeader = 10

// AttachInterface makes a network interface a port, with AF_PACKET. It needs
// CAP_NET_RAW. Frames that the switch itself sends are not received.
func (s *Switch) AttachInterface(number uint32, name string) error {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return fmt.Errorf("port %d: there is no interface %q", number, name)
	}
	file, err := openPacket(ifi)
	if err != nil {
		return fmt.Errorf("port %d: cannot use interface %q: %w", number, name, err)
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return errors.Join(err, file.Close())
	}
	p := port{close: file.Close, send: func(offload, frame []byte) error {
		if offload == nil {
			offload = make([]byte, vnetHeader)
		}
		invert(offload, frame)
		var sendErr error
		// A full queue drops the frame, as a wire would; nothing waits.
		err := raw.Control(func(fd uintptr) { _, sendErr = unix.Writev(int(fd), [][]byte{offload, frame}) })
		return errors.Join(err, sendErr)
	}}
	if err := s.attach(number, p); err != nil {
		return errors.Join(err, file.Close())
	}
	s.closing.Go(func() {
		r := newPacketReader(raw)
		for {
			offload, frame, err := r.next()
			switch {
			case err == nil:
				invert(offload, frame)
				s.inject(offload, frame)
			case !errors.Is(err, unix.ENETDOWN): // closed, or the interface is gone
				return
			}
		}
	})
	return nil
}

// packetReader reads one frame at a time into its buffer.
type packetReader struct {
	raw    syscall.RawConn
	buffer []byte // the offload header, and a frame with room for a VLAN tag before it
	oob    []byte
}

func newPacketReader(raw syscall.RawConn) *packetReader {
	return &packetReader{raw: raw, buffer: make([]byte, vnetHeader+vlanTag+1<<17), oob: make([]byte, unix.CmsgSpace(auxdataSize))}
}

const (
	macs        = 12 // the two MAC addresses at the start of a frame
	vlanTag     = 4
	auxdataSize = 20 // of struct tpacket_auxdata
)

// next waits for a frame. The kernel takes out a VLAN tag and reports it separately;
// next puts it back.
func (r *packetReader) next() (offload, frame []byte, err error) {
	offload = r.buffer[:vnetHeader]
	body := r.buffer[vnetHeader+vlanTag:]
	var n, oobn int
	var recvErr error
	err = r.raw.Read(func(fd uintptr) bool {
		n, oobn, _, _, recvErr = unix.RecvmsgBuffers(int(fd), [][]byte{offload, body}, r.oob, 0)
		return recvErr != unix.EAGAIN && recvErr != unix.EINTR
	})
	if err = errors.Join(err, recvErr); err != nil {
		return nil, nil, err
	}
	if n -= vnetHeader; n < macs {
		return offload, body[:max(n, 0)], nil
	}
	tpid, tci, tagged := vlanOf(r.oob[:oobn])
	if !tagged {
		return offload, body[:n], nil
	}
	frame = r.buffer[vnetHeader : vnetHeader+vlanTag+n]
	copy(frame, body[:macs])
	binary.BigEndian.PutUint16(frame[macs:], tpid)
	binary.BigEndian.PutUint16(frame[macs+2:], tci)
	shift(offload, vlanTag)
	return offload, frame, nil
}

// vlanOf finds a frame's VLAN tag in what was told beside it.
func vlanOf(oob []byte) (tpid, tci uint16, tagged bool) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, 0, false
	}
	for _, m := range messages {
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < auxdataSize {
			continue
		}
		status := binary.NativeEndian.Uint32(m.Data)
		if status&unix.TP_STATUS_VLAN_VALID == 0 {
			return 0, 0, false
		}
		tpid = typeVLAN
		if status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
			tpid = binary.NativeEndian.Uint16(m.Data[18:])
		}
		return tpid, binary.NativeEndian.Uint16(m.Data[16:]), true
	}
	return 0, 0, false
}

// invert complements a partial checksum, which is the plain sum of the pseudo header.
// In that form a new address changes it in the same way as a complete checksum.
func invert(offload, frame []byte) {
	at := int(binary.NativeEndian.Uint16(offload[6:])) + int(binary.NativeEndian.Uint16(offload[8:]))
	if offload[0]&needsChecksum != 0 && at+2 <= len(frame) {
		frame[at], frame[at+1] = ^frame[at], ^frame[at+1]
	}
}

// needsChecksum is the flag in a virtio_net_hdr for a partial checksum.
const needsChecksum = 1

// shift moves the offsets in a virtio_net_hdr by the number of bytes put in before them.
func shift(offload []byte, by uint16) {
	for _, at := range []int{2, 6} { // hdr_len, csum_start
		if v := binary.NativeEndian.Uint16(offload[at:]); v != 0 && (at == 2 || offload[0]&needsChecksum != 0) {
			binary.NativeEndian.PutUint16(offload[at:], v+by)
		}
	}
}

// openPacket opens a raw socket on an interface.
func openPacket(ifi *net.Interface) (*os.File, error) {
	// Without a protocol the socket receives nothing until it is bound; else it would
	// receive the frames of all interfaces.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open a raw socket: %w; it needs CAP_NET_RAW", err)
	}
	address := &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: ifi.Index}
	member := unix.PacketMreq{Ifindex: int32(ifi.Index), Type: unix.PACKET_MR_PROMISC}
	// A large buffer, so that no frames are lost in a pause. Root may exceed the limit.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20) != nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<20)
	}
	err = errors.Join(
		err,
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &member),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.Bind(fd, address),
	)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), ifi.Name), nil // non-blocking, so that Close ends a Read
}

// htons returns a number in network byte order.
func htons(v uint16) uint16 { return v<<8 | v>>8 }
