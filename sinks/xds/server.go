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

// The bounds of what a client can make the server store.
const (
	maxStreams = 10_000
	maxRequest = 32 << 20 // bytes; a request has the versions of all that an Envoy has
	maxNames   = 200_000  // of one type that a stream subscribes to, or says it has
	maxName    = 1024     // bytes of such a name
	maxNodeID  = 253
)

// ServerOptions are the options of a gRPC server for Envoys: bounds, and keepalive
// that finds dead connections.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxConcurrentStreams(maxNodeStreams), // on one connection
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
	return s.run(newStream(s, callerOf(server.Context()), false), server)
}

// deltaStream is a delta ADS stream, or a SotW stream that sotw translates.
type deltaStream interface {
	Send(*discoveryv3.DeltaDiscoveryResponse) error
	Recv() (*discoveryv3.DeltaDiscoveryRequest, error)
	Context() context.Context
}

// run serves a stream until it ends. Each has its own goroutines, so that a slow
// Envoy delays nobody else. What to send is worked out when the client can take it.
func (s *Sink) run(st *stream, server deltaStream) error {
	if err := s.admission.open(st); err != nil {
		return err
	}
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

// close forgets a stream, and with it what its Envoy has refused.
func (s *Sink) close(st *stream) {
	s.admission.close(st)
	if st.end() || s.cfg.Alone && !st.sotw {
		s.cfg.Hints.Add(Target)
	}
}

// receive handles requests until the stream ends, and returns why it ended.
func (st *stream) receive(server deltaStream) error {
	for {
		req, err := server.Recv()
		if err != nil {
			return err
		}
		if err := st.handle(req); err != nil {
			return err
		}
		st.poke()
	}
}

// sleep waits until there may be something to send, at most as long as that is not
// zero. An error ends the stream.
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
