package xds

import (
	"fmt"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	upstreamsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/gray-release/gray/policies/requests"
)

// The names that Envoys see. Envoy takes everything up to the last slash of a
// virtual host's name for its RouteConfiguration, and drops it silently where
// that is not ours: the part behind routesName must hold no slash.
const (
	routesName = "gray"
	keyHeader  = "x-gray-key"
	slotHeader = "x-gray-slot"

	accountFilter = "gray.account" // finds its metadata by its own name
	anchorName    = routesName + "/@none"
)

// adsSource says that a resource comes by the stream that this one came by.
func adsSource() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
}

// patientSource is an adsSource for what a listener cannot do without: it does
// not open with half of its routes because gray took long.
func patientSource() *corev3.ConfigSource {
	s := adsSource()
	s.InitialFetchTimeout = durationpb.New(0)
	return s
}

// mustAny packs a message of this package; that can only fail for a mistake in
// it.
func mustAny(m proto.Message) *anypb.Any {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic("xds: " + err.Error())
	}
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()), Value: b}
}

// http2Upstream makes a cluster speak HTTP/2.
func http2Upstream(o *corev3.Http2ProtocolOptions) map[string]*anypb.Any {
	return map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": mustAny(&upstreamsv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: o},
			},
		},
	})}
}

func socketAddress(address string, port uint16) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: address, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)},
	}}}
}

// nativeRoutes is the one RouteConfiguration: it has no virtual hosts of its own.
// Its vhds field must stay as it is: Envoy opens a new subscription for another
// one, and does not tell the server.
func nativeRoutes() *routev3.RouteConfiguration {
	return &routev3.RouteConfiguration{
		Name:                   routesName,
		VhostHeader:            keyHeader,
		RequestHeadersToRemove: []string{keyHeader, slotHeader},
		Vhds:                   &routev3.Vhds{ConfigSource: patientSource()},
	}
}

// anchorHost is a virtual host that no request finds, as every key holds a
// slash. Envoy takes an answer without any virtual host for none at all, and a
// listener would never open where there is no service yet.
func anchorHost() *routev3.VirtualHost {
	return &routev3.VirtualHost{Name: anchorName, Domains: []string{"none"}}
}

func defaultHostName(service string) string { return routesName + "/" + service }

// defaultHost is the virtual host of a service for everyone whom no policy names by
// account. It is found by the host first; its routes tell the filter whose service
// it is and where requests carry their account.
func defaultHost(service string, b *virtualHostBody, rules []*requests.Rule) *routev3.VirtualHost {
	h := &routev3.VirtualHost{
		Name: defaultHostName(service), Domains: append(slices.Clone(b.Hosts), service+"/*"),
		Routes: nativeRules(service, b, requests.OrderRules(rules, nil, nil)),
	}
	meta := routeMetadata(service, b.RouteBy)
	for _, r := range h.Routes {
		r.Metadata = meta
	}
	return h
}

// routeMetadata is what the filter reads off a route.
func routeMetadata(service string, by requests.RouteBy) *corev3.Metadata {
	fields := map[string]*structpb.Value{}
	for k, v := range map[string]string{"service": service, "header": by.Header, "key": by.Key} {
		fields[k] = structpb.NewStringValue(v)
	}
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{accountFilter: {Fields: fields}}}
}

// accountsHost is the virtual host of some accounts of a service that are routed
// alike; accounts are sorted.
func accountsHost(name, service string, accounts []string, b *virtualHostBody, rules []*requests.Rule) *routev3.VirtualHost {
	h := &routev3.VirtualHost{Name: name, Routes: nativeRules(service, b, rules), Domains: make([]string, len(accounts))}
	for i, a := range accounts {
		h.Domains[i] = accountDomain(service, a)
	}
	return h
}

// accountDomain is the key that account.lua makes for a request of an account.
func accountDomain(service, account string) string { return service + "/a" + escapeAccount(account) }

// escapeAccount writes an account so that two accounts never make domains that
// are equal without case, and none ends like a host; account.lua does the same.
func escapeAccount(a string) string {
	plain := func(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' }
	n := 0
	for n < len(a) && plain(a[n]) {
		n++
	}
	if n == len(a) {
		return a
	}
	var s strings.Builder
	for i := range len(a) {
		if plain(a[i]) {
			s.WriteByte(a[i])
		} else {
			fmt.Fprintf(&s, "_%02x", a[i])
		}
	}
	return s.String()
}
