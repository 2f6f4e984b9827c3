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
	deviceID uint64
	like     Personality

	// The programs are what Writes and Reads see. Packets see the plane of the
	// live one; its own lock is held for one update at a time, so that a large
	// batch does not hold up packets.
	mu    sync.RWMutex
	live  *program // nil: no pipeline
	saved *program // verified and saved, not yet committed: Reads and Writes are for it
	plane atomic.Pointer[plane]

	controllers controllers
	stats       stats
	pushes      atomic.Uint64

	portsMu sync.RWMutex
	ports   map[uint32]port
	closing sync.WaitGroup
}

// port is where frames leave.
type port struct {
	// send sends a frame out, or tells why not. offload is what the interface that
	// the frame came in by said about it, nil where there is nothing to say.
	send  func(offload, frame []byte) error
	close func() error
}

// New returns a strict switch without pipeline and without ports.
func New(deviceID uint64) *Switch { return NewLike(deviceID, personalities[0]) }

// NewLike returns a switch of another personality.
func NewLike(deviceID uint64, like Personality) *Switch {
	s := &Switch{deviceID: deviceID, like: like, ports: map[uint32]port{}}
	s.controllers.roles = map[string]*role{}
	s.controllers.device = deviceID
	return s
}

// Register adds the P4Runtime service to a server. The server should be made
// with ServerOptions, or large batches fail.
func (s *Switch) Register(server *grpc.Server) { p4v1.RegisterP4RuntimeServer(server, s) }

// ServerOptions are the limits that a switch wants: large messages, and clients
// that look often whether it is still there.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage), grpc.MaxHeaderListSize(16 << 20),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
}

// Attach makes a port whose frames go to a function. The frame is valid only
// during the call, which must not block.
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
		return fmt.Errorf("port %d is attached already; give each interface its own number", number)
	}
	s.ports[number] = p
	return nil
}

// Inject lets a frame come in, rewrites it in place and sends it out of the port
// that the pipeline says. It reports whether the frame was sent on.
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

// Capabilities says which version of P4Runtime is served.
func (s *Switch) Capabilities(_ context.Context, req *p4v1.CapabilitiesRequest) (*p4v1.CapabilitiesResponse, error) {
	if req.GetDeviceId() != 0 {
		if err := s.checkDevice(req.GetDeviceId()); err != nil {
			return nil, err
		}
	}
	return &p4v1.CapabilitiesResponse{P4RuntimeApiVersion: "1.5.0"}, nil
}
