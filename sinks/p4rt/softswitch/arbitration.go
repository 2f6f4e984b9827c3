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

// maxControllers bounds the streams that are open at a time.
const maxControllers = 64

// electionID is a 128-bit number.
type electionID struct{ high, low uint64 }

func toElectionID(u *p4v1.Uint128) electionID { return electionID{u.GetHigh(), u.GetLow()} }

func (e electionID) compare(o electionID) int {
	return cmp.Or(cmp.Compare(e.high, o.high), cmp.Compare(e.low, o.low))
}

func (e electionID) proto() *p4v1.Uint128 { return &p4v1.Uint128{High: e.high, Low: e.low} }

// controller is one open stream that has arbitrated.
type controller struct {
	id   electionID // zero: never primary
	send chan *p4v1.StreamMessageResponse
}

// role is the controllers of one role. The primary is the one whose election id
// is the highest that the role has ever seen; while that one is away there is
// none.
type role struct {
	highest     electionID
	controllers map[*controller]bool
}

func (r *role) primary() *controller {
	for c := range r.controllers {
		if c.id != (electionID{}) && c.id == r.highest {
			return c
		}
	}
	return nil
}

// controllers is everyone who is connected, by role.
type controllers struct {
	mu     sync.Mutex
	roles  map[string]*role
	count  int
	device uint64
}

// authorise lets a request through that names the primary's election id.
func (s *Switch) authorise(device uint64, roleName string, id *p4v1.Uint128) error {
	if err := s.checkDevice(device); err != nil {
		return err
	}
	s.controllers.mu.Lock()
	defer s.controllers.mu.Unlock()
	r := s.controllers.roles[roleName]
	if r == nil || r.primary() == nil || r.highest != toElectionID(id) {
		return status.Errorf(codes.PermissionDenied, "the request is not from the primary controller")
	}
	return nil
}

// StreamChannel arbitrates. There are no packet-ins, packet-outs and digests in
// the gray pipeline.
func (s *Switch) StreamChannel(stream p4v1.P4Runtime_StreamChannelServer) error {
	var roleName string
	var self *controller
	incoming, failed := receive(stream)
	var send chan *p4v1.StreamMessageResponse
	for {
		select {
		case err := <-failed:
			s.controllers.leave(roleName, self)
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case m := <-send:
			if err := stream.Send(m); err != nil {
				s.controllers.leave(roleName, self)
				return err
			}
		case m := <-incoming:
			a := m.GetArbitration()
			if a == nil {
				continue // nothing else has a meaning here
			}
			err := s.checkDevice(a.GetDeviceId())
			if err == nil && self != nil && a.GetRole().GetName() != roleName {
				err = status.Errorf(codes.FailedPrecondition, "a stream cannot change its role")
			}
			if err == nil {
				roleName = a.GetRole().GetName()
				self, err = s.controllers.arbitrate(roleName, self, toElectionID(a.GetElectionId()))
			}
			if err != nil {
				s.controllers.leave(roleName, self)
				return err
			}
			send = self.send
		}
	}
}

// receive reads a stream into a channel until it ends.
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

// arbitrate lets a controller in, or gives it another election id, and tells
// everyone of the role who is primary now.
func (c *controllers) arbitrate(name string, self *controller, id electionID) (*controller, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.roles[name]
	if r == nil {
		r = &role{controllers: map[*controller]bool{}}
		c.roles[name] = r
	}
	for other := range r.controllers {
		if other != self && id != (electionID{}) && other.id == id {
			return self, status.Errorf(codes.InvalidArgument, "election id %d/%d is in use by another controller", id.high, id.low)
		}
	}
	before := r.primary()
	if self == nil {
		if c.count >= maxControllers {
			return nil, status.Errorf(codes.ResourceExhausted, "%d controllers are connected already", c.count)
		}
		self = &controller{send: make(chan *p4v1.StreamMessageResponse, 2*maxControllers)}
		r.controllers[self] = true
		c.count++
	}
	self.id = id
	if id.compare(r.highest) > 0 {
		r.highest = id
	}
	if r.primary() != before {
		r.tell(name, c.device)
	} else {
		r.tellOne(self, name, c.device)
	}
	return self, nil
}

func (c *controllers) leave(name string, self *controller) {
	if self == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.roles[name]
	if !r.controllers[self] {
		return
	}
	wasPrimary := r.primary() == self
	delete(r.controllers, self)
	c.count--
	if wasPrimary {
		r.tell(name, c.device)
	}
}

func (r *role) tell(name string, device uint64) {
	for c := range r.controllers {
		r.tellOne(c, name, device)
	}
}

// tellOne sends a controller its standing. One that does not read its messages
// misses some; it learns its standing from the refusal of its writes.
func (r *role) tellOne(c *controller, name string, device uint64) {
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
