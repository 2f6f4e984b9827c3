// Package softswitch is `gray switch`, the software gateway: a strict P4Runtime server
// and a packet path in Go that runs the gray pipeline. Laptops and tests use it in place
// of a Tofino, and sinks/p4rt programs it like any other switch.
//
// The server refuses what the P4Runtime specification refuses, with the code that the
// specification names. It also refuses byte strings that are not in their shortest form,
// which would read back in another form than they were written. So a client that works
// here works elsewhere. A Personality makes it differ as other servers do. It has the
// tables of any P4Info, with exact, ternary and range fields, but forwards packets only
// with the gray pipeline. Default actions are constant. Constant entries are not in a
// P4Info and cannot be read. All state is in memory: a restarted switch is empty.
package softswitch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// maxMessage bounds a P4Runtime message in either direction, in bytes.
const maxMessage = 64 << 20

// Switch is one software gateway.
type Switch struct {
	p4v1.UnimplementedP4RuntimeServer
	deviceID    uint64
	personality Personality

	// Writes and Reads see the programs. Packets see the plane of the live one, whose
	// own lock is held for one update at a time, so that a large batch does not delay
	// packets.
	mu    sync.RWMutex
	live  *program // nil: no pipeline
	saved *program // saved and not committed yet: Reads and Writes are for it
	plane atomic.Pointer[plane]

	controllers controllers
	stats       stats
	pushes      atomic.Uint64

	portsMu sync.RWMutex
	ports   map[uint32]port
	closing sync.WaitGroup
}

// port sends frames.
type port struct {
	// send sends a frame. offload is the offload header that the ingress port received
	// with it, or nil.
	send  func(offload, frame []byte) error
	close func() error
}

// New returns a strict switch without a pipeline and without ports.
func New(deviceID uint64) *Switch { return NewLike(deviceID, personalities[0]) }

// NewLike is New with another personality.
func NewLike(deviceID uint64, p Personality) *Switch {
	s := &Switch{deviceID: deviceID, personality: p, ports: map[uint32]port{}}
	s.controllers.roles = map[string]*role{}
	s.controllers.device = deviceID
	return s
}

// Register adds the P4Runtime service to a server. Without ServerOptions, large batches
// fail on the server.
func (s *Switch) Register(server *grpc.Server) { p4v1.RegisterP4RuntimeServer(server, s) }

// ServerOptions are the limits that a switch needs: large messages, and frequent
// keepalive pings.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage), grpc.MaxHeaderListSize(16 << 20),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
}

// Attach makes a port that sends frames to a function. A frame is valid only during the
// call, which must not block.
func (s *Switch) Attach(number uint32, send func(frame []byte)) error {
	return s.attach(number, port{
		send:  func(_, frame []byte) error { send(frame); return nil },
		close: func() error { return nil },
	})
}

func (s *Switch) attach(number uint32, p port) error {
	s.portsMu.Lock()
	defer s.portsMu.Unlock()
	if _, taken := s.ports[number]; taken {
		return fmt.Errorf("port %d is already attached; give each interface its own number", number)
	}
	s.ports[number] = p
	return nil
}

// Inject receives a frame, rewrites it in place and sends it out of the port that the
// pipeline chooses. It reports whether the frame was sent.
func (s *Switch) Inject(frame []byte) bool { return s.inject(nil, frame) }

func (s *Switch) inject(offload, frame []byte) bool {
	out, frame, ok := s.Process(frame)
	if !ok {
		return false
	}
	s.portsMu.RLock()
	p, known := s.ports[out]
	s.portsMu.RUnlock()
	if !known {
		s.stats.drop(dropNoPort)
		return false
	}
	if err := p.send(offload, frame); err != nil {
		s.stats.drop(dropNotSent)
		return false
	}
	s.stats.forwarded.Add(1)
	return true
}

// Close detaches all ports and waits for their readers.
func (s *Switch) Close() error {
	s.portsMu.Lock()
	ports := slices.Collect(maps.Values(s.ports))
	clear(s.ports)
	s.portsMu.Unlock()
	var errs []error
	for _, p := range ports {
		errs = append(errs, p.close())
	}
	s.closing.Wait()
	return errors.Join(errs...)
}

// Capabilities returns the supported version of P4Runtime.
func (s *Switch) Capabilities(_ context.Context, req *p4v1.CapabilitiesRequest) (*p4v1.CapabilitiesResponse, error) {
	if req.GetDeviceId() != 0 {
		if err := s.checkDevice(req.GetDeviceId()); err != nil {
			return nil, err
		}
	}
	return &p4v1.CapabilitiesResponse{P4RuntimeApiVersion: "1.5.0"}, nil
}

// dropReason is why a packet was dropped.
type dropReason int

const (
	dropTruncated dropReason = iota
	dropMalformed
	dropNoPipeline
	dropNoVIP
	dropNoProfile
	dropNoPool
	dropNoBucket
	dropNoBackend
	dropNoPort
	dropNotSent
	dropReasons
)

var dropNames = [dropReasons]string{
	"truncated", "malformed", "no pipeline", "no VIP", "no hash profile", "no pool", "no bucket", "no backend", "no port", "not sent",
}

type stats struct {
	forwarded atomic.Uint64
	writes    atomic.Uint64
	dropped   [dropReasons]atomic.Uint64
}

func (s *stats) drop(r dropReason) { s.dropped[r].Add(1) }

// Stats is what a switch has counted since it was made.
type Stats struct {
	Forwarded uint64            // packets sent on
	Dropped   map[string]uint64 // packets dropped, by reason
	Writes    uint64            // updates of the tables that succeeded
	Pushes    uint64            // pipelines that were committed
}

// Stats returns the counts.
func (s *Switch) Stats() Stats {
	st := Stats{Forwarded: s.stats.forwarded.Load(), Writes: s.stats.writes.Load(), Pushes: s.pushes.Load(), Dropped: map[string]uint64{}}
	for r := range dropReasons {
		if n := s.stats.dropped[r].Load(); n > 0 {
			st.Dropped[dropNames[r]] = n
		}
	}
	return st
}
