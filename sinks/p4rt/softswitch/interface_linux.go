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

// vnetHeader is the size of a virtio_net_hdr, which the kernel puts before each
// frame under PACKET_VNET_HDR. It says what of the frame is left to do: a
// checksum, the segmentation of a large frame. It goes out as it came in, so
// that frames of local senders, which are large and without checksums, pass as
// they are; the rewriting moves no header that it points to.
const vnetHeader = 10

// AttachInterface makes a port of a network interface by AF_PACKET. It needs
// CAP_NET_RAW. Frames come in by a reader of its own; the frames that this
// switch sends are not read back.
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
		// A queue that is full drops, as a wire would; nothing waits.
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

// packetReader reads frames one by one into one buffer.
type packetReader struct {
	raw    syscall.RawConn
	buffer []byte // the offload header, and a frame with room for a VLAN tag before it
	oob    []byte
}

func newPacketReader(raw syscall.RawConn) *packetReader {
	return &packetReader{raw: raw, buffer: make([]byte, vnetHeader+vlanTag+1<<17), oob: make([]byte, unix.CmsgSpace(auxdataSize))}
}

const (
	macs        = 12 // the two addresses that a frame begins with
	vlanTag     = 4
	auxdataSize = 20 // of struct tpacket_auxdata
)

// next waits for a frame. A VLAN tag, which the kernel takes out of a frame and
// tells beside it, is put back in.
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

// invert turns a checksum that is left to do, which holds the plain sum of the
// pseudo header, into the form of one that is done, and back: then a new address
// changes both in the same way.
func invert(offload, frame []byte) {
	at := int(binary.NativeEndian.Uint16(offload[6:])) + int(binary.NativeEndian.Uint16(offload[8:]))
	if offload[0]&needsChecksum != 0 && at+2 <= len(frame) {
		frame[at], frame[at+1] = ^frame[at], ^frame[at+1]
	}
}

// needsChecksum is the flag of a virtio_net_hdr that says so.
const needsChecksum = 1

// shift moves the places in a virtio_net_hdr by what was put in before them.
func shift(offload []byte, by uint16) {
	for _, at := range []int{2, 6} { // hdr_len, csum_start
		if v := binary.NativeEndian.Uint16(offload[at:]); v != 0 && (at == 2 || offload[0]&needsChecksum != 0) {
			binary.NativeEndian.PutUint16(offload[at:], v+by)
		}
	}
}

// openPacket opens a raw socket on an interface.
func openPacket(ifi *net.Interface) (*os.File, error) {
	// Without a protocol the socket gets nothing before it is bound, when it would
	// get the frames of all interfaces.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open a raw socket: %w; it needs CAP_NET_RAW", err)
	}
	address := &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: ifi.Index}
	member := unix.PacketMreq{Ifindex: int32(ifi.Index), Type: unix.PACKET_MR_PROMISC}
	// As root beyond the system's limit, so that a pause loses nothing.
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

// htons gives a number in network byte order.
func htons(v uint16) uint16 { return v<<8 | v>>8 }
