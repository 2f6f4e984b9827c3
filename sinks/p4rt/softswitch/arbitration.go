package softswitch

import (
	"cmp"
	"errors"
	"io"
	"sync"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxControllers bounds the streams that are open at a time, and maxRoles the
// roles whose highest election id is remembered.
const (
	maxControllers = 64
	maxRoles       = 64
)

// electionID is a 128-bit number, or none, which is lower than all.
type electionID struct {
	set       bool
	high, low uint64
}

func toElectionID(u *p4v1.Uint128) electionID {
	return electionID{u != nil, u.GetHigh(), u.GetLow()}
}

func (e electionID) compare(o electionID) int {
	return cmp.Or(e.rank()-o.rank(), cmp.Compare(e.high, o.high), cmp.Compare(e.low, o.low))
}

func (e electionID) rank() int {
	if e.set {
		return 1
	}
	return 0
}

func (e electionID) proto() *p4v1.Uint128 {
	if !e.set {
		return nil
	}
	return &p4v1.Uint128{High: e.high, Low: e.low}
}

// controller is one open stream that has arbitrated.
type controller struct {
	id   electionID // none: never primary
	send chan *p4v1.StreamMessageResponse
}

// role is the controllers of one role. The primary is the one whose election id is the
// highest that the role has ever seen. While that controller is away there is none.
type role struct {
	highest     electionID
	controllers map[*controller]bool
}

func (r *role) primary() *controller {
	for c := range r.controllers {
		if c.id.set && c.id == r.highest {
			return c
		}
	}
	return nil
}

// controllers has all connected controllers, by role. A Write holds the read lock while
// it runs: nobody becomes primary before the Writes of the last primary are done.
type controllers struct {
	mu     sync.RWMutex
	roles  map[string]*role
	count  int // streams, also those that have not arbitrated yet
	device uint64
}

// authorise refuses a request that does not have the primary's election id. Until done
// is called, no other controller becomes primary.
func (s *Switch) authorise(device uint64, roleName string, id *p4v1.Uint128) (done func(), err error) {
	if err := s.checkDevice(device); err != nil {
		return nil, err
	}
	s.controllers.mu.RLock()
	r := s.controllers.roles[roleName]
	switch {
	case r == nil && roleName != "":
		err = status.Errorf(codes.NotFound, "no controller has arbitrated for role %q", roleName)
	case r == nil || r.primary() == nil || r.highest != toElectionID(id):
		err = status.Errorf(codes.PermissionDenied, "the request is not from the primary controller")
	}
	if err != nil {
		s.controllers.mu.RUnlock()
		return nil, err
	}
	return s.controllers.mu.RUnlock, nil
}

// StreamChannel arbitrates. The gray pipeline has no packet-ins, packet-outs and
// digests.
func (s *Switch) StreamChannel(stream p4v1.P4Runtime_StreamChannelServer) error {
	if err := s.controllers.open(); err != nil {
		return err
	}
	var roleName string
	var self *controller
	defer func() { s.controllers.leave(roleName, self) }()
	incoming, failed := receive(stream)
	var send chan *p4v1.StreamMessageResponse
	for {
		select {
		case err := <-failed:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case m := <-send:
			if err := stream.Send(m); err != nil {
				return err
			}
		case m := <-incoming:
			a := m.GetArbitration()
			if a == nil {
				continue // other messages are ignored
			}
			if err := s.checkArbitration(a, self != nil, roleName); err != nil {
				return err
			}
			c, err := s.controllers.arbitrate(a.GetRole().GetName(), self, toElectionID(a.GetElectionId()))
			if err != nil {
				return err
			}
			self, roleName, send = c, a.GetRole().GetName(), c.send
		}
	}
}

// checkArbitration checks an arbitration request; again says that it is not the first
// on its stream.
func (s *Switch) checkArbitration(a *p4v1.MasterArbitrationUpdate, again bool, roleName string) error {
	switch {
	case again && a.GetDeviceId() != s.deviceID:
		return status.Errorf(codes.FailedPrecondition, "a stream cannot change its device")
	case again && a.GetRole().GetName() != roleName:
		return status.Errorf(codes.FailedPrecondition, "a stream cannot change its role")
	case a.GetRole().GetConfig() != nil:
		return status.Errorf(codes.InvalidArgument, "role configs are not supported; each role has the whole pipeline")
	}
	return s.checkDevice(a.GetDeviceId())
}

// receive reads a stream into a channel until the stream ends.
func receive(stream p4v1.P4Runtime_StreamChannelServer) (<-chan *p4v1.StreamMessageRequest, <-chan error) {
	incoming, failed := make(chan *p4v1.StreamMessageRequest), make(chan error, 1)
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case incoming <- m:
			case <-stream.Context().Done():
				failed <- stream.Context().Err()
				return
			}
		}
	}()
	return incoming, failed
}

// open counts a stream.
func (c *controllers) open() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count >= maxControllers {
		return status.Errorf(codes.ResourceExhausted, "%d controllers are already connected", c.count)
	}
	c.count++
	return nil
}

// arbitrate adds a controller, or changes its election id, and tells the controllers
// that have to know who is primary now.
func (c *controllers) arbitrate(name string, self *controller, id electionID) (*controller, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.roles[name]
	if r == nil {
		if len(c.roles) >= maxRoles {
			return nil, status.Errorf(codes.ResourceExhausted, "there are already %d roles", len(c.roles))
		}
		r = &role{controllers: map[*controller]bool{}}
		c.roles[name] = r
	}
	for other := range r.controllers {
		if other != self && id.set && other.id == id {
			return nil, status.Errorf(codes.InvalidArgument, "election id %d/%d is in use by another controller", id.high, id.low)
		}
	}
	before := r.primary()
	if self == nil {
		self = &controller{send: make(chan *p4v1.StreamMessageResponse, 2*maxControllers)}
		r.controllers[self] = true
	}
	self.id = id
	if id.compare(r.highest) > 0 {
		r.highest = id
	}
	if self == before || self == r.primary() {
		r.notifyAll(name, c.device)
	} else {
		r.notify(self, name, c.device)
	}
	return self, nil
}

// leave removes a stream; self is nil if it has not arbitrated.
func (c *controllers) leave(name string, self *controller) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count--
	if self == nil {
		return
	}
	r := c.roles[name]
	wasPrimary := r.primary() == self
	delete(r.controllers, self)
	if wasPrimary {
		r.notifyAll(name, c.device)
	}
}

func (r *role) notifyAll(name string, device uint64) {
	for c := range r.controllers {
		r.notify(c, name, device)
	}
}

// notify tells a controller whether it is primary. One that does not read its messages
// misses some, and learns from its refused writes that it is not.
func (r *role) notify(c *controller, name string, device uint64) {
	code := codes.OK
	switch p := r.primary(); {
	case p == nil:
		code = codes.NotFound
	case p != c:
		code = codes.AlreadyExists
	}
	a := &p4v1.MasterArbitrationUpdate{DeviceId: device, ElectionId: r.highest.proto(), Status: &rpcstatus.Status{Code: int32(code)}}
	if name != "" {
		a.Role = &p4v1.Role{Name: name}
	}
	select {
	case c.send <- &p4v1.StreamMessageResponse{Update: &p4v1.StreamMessageResponse_Arbitration{Arbitration: a}}:
	default:
	}
}
