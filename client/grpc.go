package client

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
)

// Scheme is the scheme of gRPC targets for a Config: gray:///vpc-api.internal or
// gray:///10.9.1.11:8080.
const Scheme = "gray"

// DialOptions returns the options of grpc.NewClient for targets of Scheme. Requests take
// turns among the addresses of a name, unless a later option says otherwise. The caller
// adds transport credentials. Proxies in the environment are not used.
func DialOptions(cfg Config) []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithResolvers(builder{cfg}),
		grpc.WithNoProxy(),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`),
		grpc.WithChainUnaryInterceptor(unaryAccount),
		grpc.WithChainStreamInterceptor(streamAccount),
	}
}

func unaryAccount(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	ctx, err := outgoing(ctx)
	if err != nil {
		return err
	}
	return invoke(ctx, method, req, reply, conn, opts...)
}

func streamAccount(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	ctx, err := outgoing(ctx)
	if err != nil {
		return nil, err
	}
	return streamer(ctx, desc, conn, method, opts...)
}

// outgoing puts the account of a context into the metadata that is sent.
func outgoing(ctx context.Context) (context.Context, error) {
	md, _ := metadata.FromOutgoingContext(ctx) // a copy
	value, err := routeBy(ctx, md.Get(Header))
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if value == "" {
		return ctx, nil
	}
	if md == nil {
		md = metadata.MD{}
	}
	md.Set(Header, value)
	return metadata.NewOutgoingContext(ctx, md), nil
}

// builder makes the resolvers of one Config.
type builder struct{ cfg Config }

// Scheme implements resolver.Builder.
func (builder) Scheme() string { return Scheme }

// Build implements resolver.Builder. The :authority stays the target's name, because the
// proxy routes by it.
func (b builder) Build(target resolver.Target, conn resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	how, to, err := b.cfg.choose(target.Endpoint(), "")
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &grayResolver{stop: stop, done: make(chan struct{})}
	if how != byName {
		close(r.done)
		return r, conn.UpdateState(stateOf([]string{to}))
	}
	go func() {
		defer close(r.done)
		known := false
		b.cfg.Naming.Watch(ctx, to, func(addresses []string, err error) {
			if err == nil && len(addresses) == 0 && !known {
				err = noEndpoint(to)
			}
			if err != nil {
				conn.ReportError(err)
				return
			}
			known = true
			// An error would ask for another lookup, but this one does not end.
			_ = conn.UpdateState(stateOf(addresses))
		})
	}()
	return r, nil
}

func stateOf(addresses []string) resolver.State {
	var s resolver.State
	for _, a := range addresses {
		s.Endpoints = append(s.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: a}}})
	}
	return s
}

// grayResolver follows one target.
type grayResolver struct {
	stop context.CancelFunc
	done chan struct{}
}

// ResolveNow implements resolver.Resolver. It does nothing: Naming reports changes.
func (*grayResolver) ResolveNow(resolver.ResolveNowOptions) {}

// Close implements resolver.Resolver.
func (r *grayResolver) Close() {
	r.stop()
	<-r.done
}
