package xds

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"
	"sigs.k8s.io/yaml"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/sinks/xds/lower"
)

// serverCluster is the cluster of the daemon. Its name has no slash, so that it is not
// that of a version of a service.
const serverCluster = "gray-xds"

// Server is the daemon as an Envoy reaches it.
type Server struct {
	Address string // host:port

	// The absolute paths of the CA of the daemon's certificate and of the Envoy's own
	// certificate and key, on the Envoy's host; all empty: plaintext.
	CA, Cert, Key string
	// Name is the daemon's name in its certificate; empty: the host of Address.
	Name string
}

// Bootstrap is the bootstrap of a node's Envoy as YAML.
func Bootstrap(n *policies.Node, server Server) ([]byte, error) {
	host, portText, err := net.SplitHostPort(server.Address)
	port, portErr := strconv.ParseUint(portText, 10, 16)
	if err != nil || portErr != nil || host == "" || port == 0 {
		return nil, fmt.Errorf("the daemon's address %q is not host:port", server.Address)
	}
	secured, err := server.transport(host)
	if err != nil {
		return nil, err
	}
	kind := clusterv3.Cluster_STRICT_DNS
	if _, err := netip.ParseAddr(host); err == nil {
		kind = clusterv3.Cluster_STATIC
	}
	endpoint := &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
		Endpoint: &endpointv3.Endpoint{Address: lower.SocketAddress(host, uint16(port))},
	}}
	b := &bootstrapv3.Bootstrap{
		Node:  &corev3.Node{Id: n.Name, Cluster: "gray"},
		Admin: &bootstrapv3.Admin{Address: lower.SocketAddress("127.0.0.1", n.AdminPort)},
		DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{
			// VHDS needs a delta stream
			AdsConfig: &corev3.ApiConfigSource{
				ApiType: corev3.ApiConfigSource_DELTA_GRPC, TransportApiVersion: corev3.ApiVersion_V3,
				SetNodeOnFirstMessageOnly: true,
				GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
					EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: serverCluster},
				}}},
			},
			CdsConfig: lower.ADSSource(), LdsConfig: lower.ADSSource(),
		},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{{
			Name: serverCluster, ConnectTimeout: durationpb.New(2 * time.Second), TransportSocket: secured,
			ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: kind},
			LoadAssignment: &endpointv3.ClusterLoadAssignment{
				ClusterName: serverCluster,
				Endpoints:   []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{endpoint}}},
			},
			TypedExtensionProtocolOptions: lower.HTTP2Upstream(&corev3.Http2ProtocolOptions{
				ConnectionKeepalive: &corev3.KeepaliveSettings{
					Interval: durationpb.New(30 * time.Second), Timeout: durationpb.New(5 * time.Second),
				},
			}),
		}}},
	}
	if err := b.ValidateAll(); err != nil {
		return nil, fmt.Errorf("node %s makes no valid bootstrap: %w", n.Name, err)
	}
	json, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(b)
	if err != nil {
		return nil, err
	}
	return yaml.JSONToYAML(json)
}

// transport is the TLS of the connection to the daemon; nil: plaintext.
func (s Server) transport(host string) (*corev3.TransportSocket, error) {
	files := []string{s.CA, s.Cert, s.Key}
	if !slices.ContainsFunc(files, func(f string) bool { return f != "" }) {
		if s.Name != "" {
			return nil, errors.New("the daemon's name is for TLS; give the files of the CA, the certificate and the key too")
		}
		return nil, nil
	}
	for _, f := range files {
		if !path.IsAbs(f) {
			return nil, fmt.Errorf("the file %q is not an absolute path; TLS needs the paths of the CA, the certificate and the key on the nodes", f)
		}
	}
	name := cmp.Or(s.Name, host)
	kind, sni := tlsv3.SubjectAltNameMatcher_DNS, name
	if _, err := netip.ParseAddr(name); err == nil {
		kind, sni = tlsv3.SubjectAltNameMatcher_IP_ADDRESS, ""
	}
	file := func(f string) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: f}}
	}
	context := &tlsv3.UpstreamTlsContext{Sni: sni, CommonTlsContext: &tlsv3.CommonTlsContext{
		AlpnProtocols:   []string{"h2"},
		TlsParams:       &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2},
		TlsCertificates: []*tlsv3.TlsCertificate{{CertificateChain: file(s.Cert), PrivateKey: file(s.Key)}},
		ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			TrustedCa: file(s.CA),
			MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{{
				SanType: kind, Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: name}},
			}},
		}},
	}}
	return &corev3.TransportSocket{
		Name: "envoy.transport_sockets.tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: lower.Any(context)},
	}, nil
}
