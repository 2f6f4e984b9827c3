package xds

import (
	"context"
	"errors"
	"io"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// The bounds of what clients can make the server hold.
const (
	maxStreams = 10_000
	maxRequest = 32 << 20 // the versions of everything that an Envoy has
	maxNames   = 200_000  // that one stream asks for, or says it has, of one type
	maxName    = 1024     // bytes of such a name
	maxNodeID  = 253
)

// ServerOptions are what a gRPC server for Envoys needs: it bounds what one may
// send, and finds out about dead ones.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxConcurrentStreams(maxNodeStreams), // of one connection
		grpc.ConnectionTimeout(helloWait),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
}

// Register adds the discovery service to a server.
func (s *Sink) Register(server *grpc.Server) {
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(server, s)
}

// deltaServer is the server's side of one stream.
type deltaServer = discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer

// DeltaAggregatedResources serves one Envoy.
func (s *Sink) DeltaAggregatedResources(server deltaServer) error {
	st, err := s.open(callerOf(server.Context()), false)
	if err != nil {
		return err
	}
	return s.run(st, server)
}

// deltaStream is what a stream is served by.
type deltaStream interface {
	Send(*discoveryv3.DeltaDiscoveryResponse) error
	Recv() (*discoveryv3.DeltaDiscoveryRequest, error)
	Context() context.Context
}

// run serves a stream until it ends. Each has goroutines of its own, so that a
// slow Envoy holds up nobody else; what it has missed is worked out when it is
// ready for more.
func (s *Sink) run(st *stream, server deltaStream) error {
	defer s.close(st)
	ctx, cancel := context.WithCancelCause(server.Context())
	defer cancel(nil)
	go func() { cancel(st.receive(server)) }()
	for {
		res, wait, err := st.next(time.Now())
		if err != nil {
			return err
		}
		if res != nil {
			if err := server.Send(res); err != nil {
				return err
			}
			continue
		}
		if err := st.sleep(ctx, wait); err != nil {
			return err
		}
	}
}

func (s *Sink) open(from caller, sotw bool) (*stream, error) {
	s.streamsMu.Lock()
	defer s.streamsMu.Unlock()
	if len(s.streams) >= maxStreams {
		return nil, status.Errorf(codes.ResourceExhausted, "%d envoys are connected, which is the most", maxStreams)
	}
	st := newStream(s, from, sotw)
	s.streams[st] = true
	return st, nil
}

// close forgets a stream, and with it what its Envoy has refused.
func (s *Sink) close(st *stream) {
	s.streamsMu.Lock()
	delete(s.streams, st)
	s.streamsMu.Unlock()
	if st.end() {
		s.cfg.Hints.Add(Target)
	}
}

// receive takes requests until the stream ends, and returns why it does.
func (st *stream) receive(server deltaStream) error {
	for {
		req, err := server.Recv()
		if err != nil {
			return err
		}
		if err := st.take(req); err != nil {
			return err
		}
		st.poke()
	}
}

// sleep returns when there may be something to send, at the latest after a
// while if that is not zero. The error is the stream's end; a nil one is not.
func (st *stream) sleep(ctx context.Context, most time.Duration) error {
	var timeout <-chan time.Time
	if most > 0 {
		timer := time.NewTimer(most)
		defer timer.Stop()
		timeout = timer.C
	}
	select {
	case <-st.wake:
	case <-timeout:
	case <-ctx.Done():
		cause := context.Cause(ctx)
		if errors.Is(cause, io.EOF) {
			return status.Error(codes.Canceled, "the client has closed the stream")
		}
		return cause
	}
	return nil
}

// poke wakes the sender. It never waits.
func (st *stream) poke() {
	select {
	case st.wake <- struct{}{}:
	default:
	}
}
