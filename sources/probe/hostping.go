package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// pingHost pings the answers' addresses from the host, with one socket for each family.
// Libraries open a raw socket for each address, which loses replies: the kernel walks
// the list of such sockets for every ICMP packet, and misses some while others open or
// close.
func (p *Prober) pingHost(ctx context.Context, c Test, todo []*Answer) error {
	for _, v4 := range []bool{true, false} {
		of := slices.DeleteFunc(slices.Clone(todo), func(a *Answer) bool { return a.Address.Is4() != v4 })
		if len(of) == 0 {
			continue
		}
		s, err := p.acquire(fmt.Sprintf("icmp %t", v4), func() (*socket, error) { return listenICMP(v4) })
		if err != nil {
			return err
		}
		err = p.echo(ctx, s, c, 0, netip.Addr{}, of, s.transmitICMP)
		p.release(s)
		if err != nil {
			return err
		}
	}
	return nil
}

// listenICMP opens a raw socket, or an unprivileged one if the host allows that to the
// daemon's group.
func listenICMP(v4 bool) (*socket, error) {
	network, domain, protocol, reply := "ip4:icmp", unix.AF_INET, unix.IPPROTO_ICMP, byte(echoReply)
	if !v4 {
		network, domain, protocol, reply = "ip6:ipv6-icmp", unix.AF_INET6, unix.IPPROTO_ICMPV6, echoReply6
	}
	s := &socket{parse: func(b []byte, from net.Addr) (e echo, ok bool) {
		switch a := from.(type) {
		case *net.IPAddr:
			e.src, _ = netip.AddrFromSlice(a.IP)
		case *net.UDPAddr:
			e.src, _ = netip.AddrFromSlice(a.IP)
		}
		e.src = e.src.Unmap()
		return e, e.parseICMP(b, reply)
	}}
	conn, err := net.ListenPacket(network, "")
	if err == nil {
		s.conn = conn.(*net.IPConn)
		return s, nil
	}
	if errors.Is(err, os.ErrPermission) {
		var fd int
		if fd, err = unix.Socket(domain, unix.SOCK_DGRAM, protocol); err == nil {
			unix.CloseOnExec(fd)
			f := os.NewFile(uintptr(fd), network)
			conn, err = net.FilePacketConn(f)
			_ = f.Close() // the connection has its own
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot send echo requests: %w; give the daemon CAP_NET_RAW", unwrapped(err))
	}
	s.conn = conn.(*net.UDPConn)
	return s, nil
}

// transmitICMP sends an echo request. For IPv6 the kernel adds the checksum.
func (s *socket) transmitICMP(e *echo) error {
	request := byte(echoRequest)
	if !e.dst.Is4() {
		request = echoRequest6
	}
	var to net.Addr = &net.IPAddr{IP: e.dst.AsSlice()}
	if _, ok := s.conn.(*net.UDPConn); ok {
		to = &net.UDPAddr{IP: e.dst.AsSlice()}
	}
	_, err := s.conn.WriteTo(e.appendICMP(nil, request, 0), to)
	switch {
	case err == nil:
		return nil
	case isLocal(err):
		return fmt.Errorf("cannot send echo requests: %w", unwrapped(err))
	}
	return unreachable{unwrapped(err)}
}
