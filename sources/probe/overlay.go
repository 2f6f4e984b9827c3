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
)

// chunk is how many packets are sent at once, so that a receiver's buffer holds
// them.
const chunk = 32

// receiveBuffer is what the socket asks for, in bytes; the kernel may give less.
const receiveBuffer = 4 << 20

// socket is the UDP socket at a VTEP, for all that is pinged from it.
type socket struct {
	vtep  netip.Addr
	conn  *net.UDPConn
	users int // under the prober's mutex
	done  chan struct{}

	mu   sync.RWMutex
	runs map[uint64]*run
}

// acquire returns the socket of a request's VTEP, opening it where nobody did.
func (p *Prober) acquire(r Request, c Check) (*socket, error) {
	if r.Monitor == nil {
		return nil, fmt.Errorf("network %s has no monitor to ping from; give it one, or ping from the host", r.Network)
	}
	vtep := r.Monitor.VTEP.Addr
	if vtep.Is4() != c.VIP.Is4() {
		return nil, fmt.Errorf("the VIP %s cannot be reached from the monitor's VTEP %s, of another family", c.VIP, vtep)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.sockets[vtep]
	if s == nil {
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(vtep, vxlanPort)))
		if err != nil {
			return nil, fmt.Errorf("cannot receive VXLAN at the monitor's VTEP %s: %w; it must be an address of the daemon's host that no VXLAN interface uses", vtep, unwrapped(err))
		}
		_ = conn.SetReadBuffer(receiveBuffer) // less than wanted is fine: drops are seen
		s = &socket{vtep: vtep, conn: conn, done: make(chan struct{}), runs: map[uint64]*run{}}
		p.sockets[vtep] = s
		go s.receive()
	}
	s.users++
	return s, nil
}

// release gives a socket back; the last one closes it.
func (p *Prober) release(s *socket) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.users--; s.users == 0 {
		delete(p.sockets, s.vtep)
		s.conn.Close()
		<-s.done
	}
}

// receive takes replies until the socket is closed.
func (s *socket) receive() {
	defer close(s.done)
	b := make([]byte, 2048)
	for {
		n, _, err := s.conn.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // of an ICMP error, which is about one packet
		}
		now := time.Now()
		e, ok := parse(b[:n])
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
	done    chan struct{} // closed when nothing is missing any more

	mu      sync.Mutex
	todo    []*Answer
	seen    []uint64 // a bit for each echo of each answer
	missing int      // echoes that may still be answered in time
	over    bool     // nobody writes to the answers any more
}

// receive takes a reply: foreign ones are ignored, late and second ones counted.
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

// less notes that one echo is not waited for any more.
func (r *run) less() {
	if r.missing--; r.missing == 0 {
		close(r.done)
	}
}

// echo pings the answers' addresses through the VIP. An error is of the daemon's
// own host.
func (p *Prober) echo(ctx context.Context, s *socket, q Request, c Check, todo []*Answer) error {
	var nonce [8]byte
	_, _ = rand.Read(nonce[:]) // never fails
	id := binary.BigEndian.Uint64(nonce[:])
	r := &run{
		vni: uint32(q.VNI), monitor: q.Monitor.Address.Addr, began: time.Now(), timeout: c.Timeout, count: c.Count,
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
	if err := p.send(ctx, s, r, q, c, id); err != nil {
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
		return fmt.Errorf("the daemon's host dropped %d replies, as its receive buffer was full; raise sysctl net.core.rmem_max", n)
	}
	return nil
}

// send sends the echo requests in rounds, each of one to every address.
func (p *Prober) send(ctx context.Context, s *socket, r *run, q Request, c Check, id uint64) error {
	to := netip.AddrPortFrom(c.VIP, vxlanPort)
	e := echo{vni: r.vni, srcMAC: q.Monitor.MAC, src: r.monitor, tag: tag{run: id}}
	b := make([]byte, 0, maxFrame)
	for round := range c.Count {
		next := time.Now().Add(p.opt.Interval)
		for i, a := range r.todo {
			if i%chunk == 0 {
				if err := p.wait(ctx, min(chunk, len(r.todo)-i)); err != nil {
					return err
				}
			}
			e.sequence, e.target, e.dst, e.dstMAC = uint16(round), uint32(i), a.Address, a.mac
			// The reply may be there before the call returns.
			r.mu.Lock()
			a.Sent++
			r.mu.Unlock()
			e.sent = int64(time.Since(r.began))
			if _, err := s.conn.WriteToUDPAddrPort(e.append(b), to); err != nil {
				return fmt.Errorf("cannot send to the VIP %s from %s: %w", c.VIP, s.vtep, unwrapped(err))
			}
		}
		if round < c.Count-1 {
			if err := sleep(ctx, time.Until(next)); err != nil {
				return err
			}
		}
	}
	return nil
}

// unwrapped is what the kernel said, without the addresses that a reader knows.
func unwrapped(err error) error {
	if no, ok := errors.AsType[syscall.Errno](err); ok {
		return no
	}
	return err
}
