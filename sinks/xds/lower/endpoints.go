package lower

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/reconciler"
)

// Endpoints is where a version of a service runs.
type Endpoints struct {
	Endpoints []requests.Endpoint `json:"endpoints"`
	Etcd      string              `json:"etcd,omitempty"`      // the etcd target that they are registered under; empty: a document lists them
	CheckPort uint16              `json:"checkPort,omitempty"` // that health checks go to; 0: the endpoint's own
	Unknown   bool                `json:"-"`                   // etcd was not read yet: what is live stays; never true of what is live
}

// Equal implements reconciler.Body: unknown endpoints equal whatever is live.
func (b *Endpoints) Equal(o reconciler.Body) bool {
	x, ok := o.(*Endpoints)
	return ok && b.Etcd == x.Etcd && b.CheckPort == x.CheckPort && (b.Unknown || !x.Unknown && slices.Equal(b.Endpoints, x.Endpoints))
}

// String implements reconciler.Body.
func (b *Endpoints) String() string {
	words := make([]string, len(b.Endpoints))
	for i, e := range b.Endpoints {
		words[i] = endpointText(e)
	}
	s := strings.Join(words, ", ")
	switch {
	case b.Unknown:
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

// Delta implements reconciler.Body: the endpoints that are added and removed.
func (b *Endpoints) Delta(old reconciler.Body) string {
	o, ok := old.(*Endpoints)
	if !ok {
		return reconciler.FromTo(old, b)
	}
	var words []string
	for _, e := range b.Endpoints {
		if !slices.Contains(o.Endpoints, e) {
			words = append(words, "+"+endpointText(e))
		}
	}
	for _, e := range o.Endpoints {
		if !b.Unknown && !slices.Contains(b.Endpoints, e) {
			words = append(words, "-"+endpointText(e))
		}
	}
	if rest := deltaOf("", source(o.Etcd), source(b.Etcd), "checked at ", portText(o.CheckPort), portText(b.CheckPort)); rest != "" {
		words = append(words, rest)
	}
	return strings.Join(words, ", ")
}

// source says where endpoints come from.
func source(etcd string) string {
	if etcd == "" {
		return "listed"
	}
	return "etcd " + etcd
}

// Message implements Native.
func (b *Endpoints) Message(name string) proto.Message {
	a := &endpointv3.ClusterLoadAssignment{ClusterName: name}
	if len(b.Endpoints) == 0 {
		return a
	}
	locality := &endpointv3.LocalityLbEndpoints{
		Locality:            &corev3.Locality{},
		LoadBalancingWeight: wrapperspb.UInt32(1), // grpc-go ignores localities without a weight
	}
	for _, e := range b.Endpoints {
		locality.LbEndpoints = append(locality.LbEndpoints, endpointMessage(e, b.CheckPort))
	}
	a.Endpoints = []*endpointv3.LocalityLbEndpoints{locality}
	return a
}

func endpointMessage(e requests.Endpoint, checkPort uint16) *endpointv3.LbEndpoint {
	at := &endpointv3.Endpoint{Address: SocketAddress(e.Address.String(), e.Port)}
	if checkPort != 0 {
		at.HealthCheckConfig = &endpointv3.Endpoint_HealthCheckConfig{PortValue: uint32(checkPort)}
	}
	return &endpointv3.LbEndpoint{
		HostIdentifier:      &endpointv3.LbEndpoint_Endpoint{Endpoint: at},
		LoadBalancingWeight: wrapperspb.UInt32(e.Weight),
	}
}
