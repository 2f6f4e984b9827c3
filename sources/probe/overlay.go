package probe

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/gray-release/gray/schema"
)

// chunk is how many packets are sent at once; a receiver's buffer must hold them.
const chunk = 32

// receiveBuffer is the buffer size to ask for, in bytes; the kernel may grant less.
const receiveBuffer = 4 << 20

// socket is a socket that many runs share at the same time.
type socket struct {
	key   string
	conn  packetConn
	parse func(b []byte, from net.Addr) (echo, bool)
	users int // guarded by the prober's mutex
	done  chan struct{}

	mu   sync.RWMutex
	runs map[uint64]*run
}

// packetConn is a UDP or an ICMP socket.
type packetConn interface {
	net.PacketConn
	syscall.Conn
	SetReadBuffer(bytes int) error
}

// overlay returns the socket at the VTEP of a request's monitor, and a function that
// sends through a VIP.
func (p *Prober) overlay(r Request, c Test) (*socket, func(*echo) error, error) {
	if r.Monitor == nil {
		return nil, nil, fmt.Errorf("the Network %s has no monitor to ping from; add one, or ping from the host", r.Network)
	}
	vtep := r.Monitor.VTEP.Addr
	if vtep.Is4() != c.VIP.Is4() {
		return nil, nil, fmt.Errorf("the monitor's VTEP %[2]s cannot reach the VIP %[1]s, which is of another IP version", c.VIP, vtep)
	}
	s, err := p.acquire("vxlan "+vtep.String(), func() (*socket, error) {
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(p.opt.Underlay(netip.AddrPortFrom(vtep, vxlanPort))))
		if err != nil {
			return nil, fmt.Errorf("cannot receive VXLAN at the monitor's VTEP %s: %w; it must be an address of the daemon's host that no VXLAN interface uses", vtep, unwrapped(err))
		}
		return &socket{conn: conn, parse: func(b []byte, _ net.Addr) (echo, bool) { return parse(b) }}, nil
	})
	if err != nil {
		return nil, nil, err
	}
	conn, to := s.conn.(*net.UDPConn), p.opt.Underlay(netip.AddrPortFrom(c.VIP, vxlanPort))
	b := make([]byte, 0, maxFrame)
	return s, func(e *echo) error {
		e.srcMAC = r.Monitor.MAC
		if _, err := conn.WriteToUDPAddrPort(e.append(b), to); err != nil {
			return fmt.Errorf("cannot send to the VIP %s from %s: %w", c.VIP, vtep, unwrapped(err))
		}
		return nil
	}, nil
}

// acquire returns a socket by its key, and opens it if necessary.
func (p *Prober) acquire(key string, open func() (*socket, error)) (*socket, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.sockets[key]
	if s == nil {
		var err error
		if s, err = open(); err != nil {
			return nil, err
		}
		_ = s.conn.SetReadBuffer(receiveBuffer) // a smaller one is fine: drops are noticed
		s.key, s.done, s.runs = key, make(chan struct{}), map[uint64]*run{}
		p.sockets[key] = s
		go s.receive()
	}
	s.users++
	return s, nil
}

// release returns a socket; the last user closes it.
func (p *Prober) release(s *socket) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.users--; s.users == 0 {
		delete(p.sockets, s.key)
		_ = s.conn.Close()
		<-s.done
	}
}

// receive reads replies until the socket is closed.
func (s *socket) receive() {
	defer close(s.done)
	b := make([]byte, 2048)
	for {
		n, from, err := s.conn.ReadFrom(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error, which is about one packet
		}
		now := time.Now()
		e, ok := s.parse(b[:n], from)
		if !ok {
			continue
		}
		s.mu.RLock()
		r := s.runs[e.run]
		s.mu.RUnlock()
		if r != nil {
			r.receive(&e, now)
		}
	}
}

// run is one attempt to ping addresses.
type run struct {
	vni     uint32
	monitor netip.Addr
	began   time.Time
	timeout time.Duration
	count   int
	done    chan struct{} // closed when no echo is missing

	mu      sync.Mutex
	todo    []*Answer
	seen    []uint64 // a bit for each echo of each answer
	missing int      // echoes that may still be answered in time
	over    bool     // the answers must not change any more
}

// receive counts a reply, also a late or a second one, and ignores those to others.
func (r *run) receive(e *echo, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over || int(e.target) >= len(r.todo) || int(e.sequence) >= r.count {
		return
	}
	a := r.todo[e.target]
	took := now.Sub(r.began) - time.Duration(e.sent)
	if e.vni != r.vni || e.src != a.Address || e.dst != r.monitor || took < 0 || e.sent < 0 {
		return
	}
	bit := int(e.target)*r.count + int(e.sequence)
	switch {
	case r.seen[bit/64]&(1<<(bit%64)) != 0:
		a.Duplicates++
		return
	case took > r.timeout:
		a.Late++
	default:
		a.Received++
		a.Latency.add(took)
		r.less()
	}
	r.seen[bit/64] |= 1 << (bit % 64)
}

// less records that one echo is no longer missing.
func (r *run) less() {
	if r.missing--; r.missing == 0 {
		close(r.done)
	}
}

// echo pings the answers' addresses from a socket. An error means that the daemon's
// host failed.
func (p *Prober) echo(ctx context.Context, s *socket, c Test, vni schema.VNI, monitor netip.Addr, todo []*Answer, transmit func(*echo) error) error {
	var nonce [8]byte
	_, _ = rand.Read(nonce[:]) // never fails
	id := binary.BigEndian.Uint64(nonce[:])
	r := &run{
		vni: uint32(vni), monitor: monitor, began: time.Now(), timeout: c.Timeout, count: c.Count,
		done: make(chan struct{}), todo: todo, seen: make([]uint64, (len(todo)*c.Count+63)/64), missing: len(todo) * c.Count,
	}
	s.mu.Lock()
	s.runs[id] = r
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.runs, id)
		s.mu.Unlock()
		r.mu.Lock()
		r.over = true
		r.mu.Unlock()
	}()
	before := dropped(s.conn)
	if err := p.send(ctx, r, id, transmit); err != nil {
		return err
	}
	timer := time.NewTimer(c.Timeout)
	defer timer.Stop()
	select {
	case <-r.done:
		return nil
	case <-timer.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if n := dropped(s.conn) - before; n > 0 {
		return fmt.Errorf("the daemon's host dropped %d replies because its receive buffer was full; raise sysctl net.core.rmem_max", n)
	}
	return nil
}

// unreachable is a failure to send to one address.
type unreachable struct{ error }

// send sends the echo requests in rounds, one to every address in each.
func (p *Prober) send(ctx context.Context, r *run, id uint64, transmit func(*echo) error) error {
	e := echo{vni: r.vni, src: r.monitor, tag: tag{run: id}}
	for round := range r.count {
		next := time.Now().Add(p.opt.Interval)
		for i, a := range r.todo {
			if i%chunk == 0 {
				if err := p.wait(ctx, min(chunk, len(r.todo)-i)); err != nil {
					return err
				}
			}
			e.sequence, e.target, e.dst, e.dstMAC = uint16(round), uint32(i), a.Address, a.mac
			// The reply may arrive before the call returns.
			r.mu.Lock()
			a.Sent++
			r.mu.Unlock()
			e.sent = int64(time.Since(r.began))
			err := transmit(&e)
			if _, ok := errors.AsType[unreachable](err); ok {
				r.mu.Lock()
				a.Error = err.Error()
				r.less()
				r.mu.Unlock()
			} else if err != nil {
				return err
			}
		}
		if round < r.count-1 {
			if err := sleep(ctx, time.Until(next)); err != nil {
				return err
			}
		}
	}
	return nil
}

// unwrapped is the error of the kernel, without the addresses, which the reader knows.
func unwrapped(err error) error {
	if no, ok := errors.AsType[syscall.Errno](err); ok {
		return no
	}
	return err
}
