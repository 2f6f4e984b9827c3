package xds

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"maps"
	"slices"
	"sync"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

// sotwServer is the server's side of one state-of-the-world (SotW) stream.
type sotwServer = discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer

// StreamAggregatedResources serves a client that speaks SotW ADS, such as gRPC's own.
// It is served as a delta client is: sotw translates.
func (s *Sink) StreamAggregatedResources(server sotwServer) error {
	st := newStream(s, callerOf(server.Context()), true)
	return s.run(st, &sotw{server: server, st: st})
}

// errSotwEnvoy is why an Envoy is not served by SotW.
var errSotwEnvoy = status.Error(codes.FailedPrecondition,
	"an Envoy needs a delta stream, as virtual hosts come by nothing else; set api_type: DELTA_GRPC, as gray render bootstrap does")

// sotw translates a SotW stream to a delta stream.
type sotw struct {
	server sotwServer
	st     *stream

	mu    sync.Mutex
	types [wireTypes]sotwType
}

// sotwType is the state of one type of a stream.
type sotwType struct {
	begun bool
	all   bool            // subscribed to everything
	names map[string]bool // else to these
	nonce string          // of the last response; "" before the first

	// has is the clusters or listeners that the client was sent. A response has all of
	// them, and the client removes those that are missing.
	has map[string]*discoveryv3.Resource
}

// inFull tells whether a response has all resources of a type.
func inFull(t wireType) bool { return t == typeCluster || t == typeListener }

// Context implements deltaStream.
func (c *sotw) Context() context.Context { return c.server.Context() }

// Recv implements deltaStream.
func (c *sotw) Recv() (*discoveryv3.DeltaDiscoveryRequest, error) {
	for {
		req, err := c.server.Recv()
		if err != nil {
			return nil, err
		}
		if d := c.request(req); d != nil {
			return d, nil
		}
	}
}

// request translates a request. It returns nil for a stale one, which has the nonce
// of a response before the last: the client will answer the last one too.
func (c *sotw) request(req *discoveryv3.DiscoveryRequest) *discoveryv3.DeltaDiscoveryRequest {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := &discoveryv3.DeltaDiscoveryRequest{
		Node: req.GetNode(), TypeUrl: req.GetTypeUrl(), ResponseNonce: req.GetResponseNonce(), ErrorDetail: req.GetErrorDetail(),
	}
	t := typeOf(req.GetTypeUrl())
	if t == typeVirtualHost { // VHDS is for delta streams only
		d.TypeUrl, t = "", wireTypes
	}
	if t == wireTypes {
		return d
	}
	ct := &c.types[t]
	switch ct.nonce {
	case req.GetResponseNonce():
	case "": // the nonce is of the stream before this one
		d.ResponseNonce, d.ErrorDetail = "", nil
	default:
		return nil
	}
	names := map[string]bool{}
	for _, name := range req.GetResourceNames() {
		names[name] = true
		if !ct.names[name] {
			d.ResourceNamesSubscribe = append(d.ResourceNamesSubscribe, name)
		}
	}
	for name := range ct.names {
		if !names[name] {
			d.ResourceNamesUnsubscribe = append(d.ResourceNamesUnsubscribe, name)
		}
	}
	switch {
	case !ct.begun:
		ct.all = len(names) == 0
	case ct.all && len(names) > 0:
		ct.all = false
		d.ResourceNamesUnsubscribe = append(d.ResourceNamesUnsubscribe, "*")
	}
	ct.begun, ct.names = true, names
	maps.DeleteFunc(ct.has, func(name string, _ *discoveryv3.Resource) bool { return !ct.wants(name) })
	return d
}

func (ct *sotwType) wants(name string) bool { return ct.all || ct.names[name] || ct.names["*"] }

// Send implements deltaStream. SotW cannot say that endpoints or routes do not exist:
// such a response is not sent, and counts as acknowledged.
func (c *sotw) Send(d *discoveryv3.DeltaDiscoveryResponse) error {
	if res := c.response(d); res != nil {
		return c.server.Send(res)
	}
	defer c.st.poke()
	return c.st.handle(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: d.GetTypeUrl(), ResponseNonce: d.GetNonce()})
}

func (c *sotw) response(d *discoveryv3.DeltaDiscoveryResponse) *discoveryv3.DiscoveryResponse {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := typeOf(d.GetTypeUrl())
	ct, resources := &c.types[t], d.GetResources()
	if inFull(t) {
		if ct.has == nil {
			ct.has = map[string]*discoveryv3.Resource{}
		}
		for _, name := range d.GetRemovedResources() {
			delete(ct.has, name)
		}
		for _, r := range resources {
			if ct.wants(r.GetName()) {
				ct.has[r.GetName()] = r
			}
		}
		resources = slices.SortedFunc(maps.Values(ct.has), func(a, b *discoveryv3.Resource) int { return cmp.Compare(a.GetName(), b.GetName()) })
	} else if len(resources) == 0 {
		return nil
	}
	sum := sha256.New()
	bodies := make([]*anypb.Any, len(resources))
	for i, r := range resources {
		_, _ = io.WriteString(sum, r.GetName()+" "+r.GetVersion()+"\n")
		bodies[i] = r.GetResource()
	}
	ct.nonce = d.GetNonce()
	return &discoveryv3.DiscoveryResponse{
		TypeUrl: d.GetTypeUrl(), Nonce: ct.nonce, VersionInfo: hex.EncodeToString(sum.Sum(nil)[:8]), Resources: bodies,
	}
}
