package xds

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/reconciler"
)

// endpointsBody is where a version runs.
type endpointsBody struct {
	Endpoints []requests.Endpoint `json:"endpoints"`
	Etcd      string              `json:"etcd,omitempty"`      // the target that they are registered under; empty: a document lists them
	CheckPort uint16              `json:"checkPort,omitempty"` // that is checked; 0: their own
	unknown   bool                // nobody has told yet what is registered: what is live stays; never of what is live
}

// Equal implements reconciler.Body: what is not known is equal to whatever is live.
func (b *endpointsBody) Equal(o reconciler.Body) bool {
	x, ok := o.(*endpointsBody)
	return ok && b.Etcd == x.Etcd && b.CheckPort == x.CheckPort && (b.unknown || !x.unknown && slices.Equal(b.Endpoints, x.Endpoints))
}

// String implements reconciler.Body.
func (b *endpointsBody) String() string {
	words := make([]string, len(b.Endpoints))
	for i, e := range b.Endpoints {
		words[i] = endpointText(e)
	}
	s := strings.Join(words, ", ")
	switch {
	case b.unknown:
		s = "those"
	case s == "":
		s = "none"
	}
	if b.Etcd != "" {
		s += " of etcd " + b.Etcd
	}
	if b.CheckPort != 0 {
		s += ", checked at " + portText(b.CheckPort)
	}
	return s
}

func endpointText(e requests.Endpoint) string {
	s := netip.AddrPortFrom(e.Address, e.Port).String()
	if e.Weight != 1 {
		s += fmt.Sprintf(" weight %d", e.Weight)
	}
	return s
}

// Delta implements reconciler.Body: the endpoints that come and go.
func (b *endpointsBody) Delta(old reconciler.Body) string {
	o, ok := old.(*endpointsBody)
	if !ok {
		return fromTo(old, b)
	}
	var words []string
	for _, e := range b.Endpoints {
		if !slices.Contains(o.Endpoints, e) {
			words = append(words, "+"+endpointText(e))
		}
	}
	for _, e := range o.Endpoints {
		if !b.unknown && !slices.Contains(b.Endpoints, e) {
			words = append(words, "-"+endpointText(e))
		}
	}
	if b.Etcd != o.Etcd {
		words = append(words, fmt.Sprintf("%s -> %s", source(o.Etcd), source(b.Etcd)))
	}
	if b.CheckPort != o.CheckPort {
		words = append(words, fmt.Sprintf("checked at %s -> %s", portText(o.CheckPort), portText(b.CheckPort)))
	}
	return strings.Join(words, ", ")
}

// source tells where endpoints come from.
func source(etcd string) string {
	if etcd == "" {
		return "listed"
	}
	return "etcd " + etcd
}

// settle makes changes of what is not known into changes of what is live. What is
// not live either cannot be made yet.
func settle(changes []reconciler.Change) (able []reconciler.Change, failed *reconciler.PartialError) {
	for _, c := range changes {
		if c.New == nil {
			able = append(able, c)
			continue
		}
		body, ok := c.New.Body.(*endpointsBody)
		if !ok || !body.unknown {
			able = append(able, c)
			continue
		}
		if c.Old == nil {
			failed = failed.Add(c.Key(), fmt.Errorf("nobody knows yet what is registered under etcd %s; see what gray status says about it", body.Etcd))
			continue
		}
		settled := *c.New
		settled.Body = &endpointsBody{Endpoints: c.Old.Body.(*endpointsBody).Endpoints, Etcd: body.Etcd, CheckPort: body.CheckPort}
		able = append(able, reconciler.Change{Old: c.Old, New: &settled})
	}
	return able, failed
}

func nativeEndpoints(name string, b *endpointsBody) *endpointv3.ClusterLoadAssignment {
	a := &endpointv3.ClusterLoadAssignment{ClusterName: name}
	if len(b.Endpoints) == 0 {
		return a
	}
	locality := &endpointv3.LocalityLbEndpoints{
		Locality:            &corev3.Locality{},
		LoadBalancingWeight: wrapperspb.UInt32(1), // grpc-go leaves out localities without
	}
	for _, e := range b.Endpoints {
		locality.LbEndpoints = append(locality.LbEndpoints, nativeEndpoint(e, b.CheckPort))
	}
	a.Endpoints = []*endpointv3.LocalityLbEndpoints{locality}
	return a
}

func nativeEndpoint(e requests.Endpoint, checkPort uint16) *endpointv3.LbEndpoint {
	at := &endpointv3.Endpoint{Address: socketAddress(e.Address.String(), e.Port)}
	if checkPort != 0 {
		at.HealthCheckConfig = &endpointv3.Endpoint_HealthCheckConfig{PortValue: uint32(checkPort)}
	}
	return &endpointv3.LbEndpoint{
		HostIdentifier:      &endpointv3.LbEndpoint_Endpoint{Endpoint: at},
		LoadBalancingWeight: wrapperspb.UInt32(e.Weight),
	}
}
