package xds

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"
	"sigs.k8s.io/yaml"

	"github.com/gray-release/gray/policies"
)

// serverCluster is the cluster by which an Envoy reaches the daemon. Its name
// holds no slash, so that no service version has it.
const serverCluster = "gray-xds"

// Bootstrap is the bootstrap of a node's Envoy as YAML. xdsAddress is where the
// daemon serves, host:port.
func Bootstrap(n *policies.Node, xdsAddress string) ([]byte, error) {
	host, portText, err := net.SplitHostPort(xdsAddress)
	port, portErr := strconv.ParseUint(portText, 10, 16)
	if err != nil || portErr != nil || host == "" || port == 0 {
		return nil, fmt.Errorf("the daemon's address %q is not host:port", xdsAddress)
	}
	kind := clusterv3.Cluster_STRICT_DNS
	if _, err := netip.ParseAddr(host); err == nil {
		kind = clusterv3.Cluster_STATIC
	}
	endpoint := &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
		Endpoint: &endpointv3.Endpoint{Address: socketAddress(host, uint16(port))},
	}}
	b := &bootstrapv3.Bootstrap{
		Node:  &corev3.Node{Id: n.Name, Cluster: "gray"},
		Admin: &bootstrapv3.Admin{Address: socketAddress("127.0.0.1", n.AdminPort)},
		DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{
			// VHDS needs a delta stream.
			AdsConfig: &corev3.ApiConfigSource{
				ApiType: corev3.ApiConfigSource_DELTA_GRPC, TransportApiVersion: corev3.ApiVersion_V3,
				SetNodeOnFirstMessageOnly: true,
				GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
					EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: serverCluster},
				}}},
			},
			CdsConfig: adsSource(), LdsConfig: adsSource(),
		},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{{
			Name: serverCluster, ConnectTimeout: durationpb.New(2 * time.Second),
			ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: kind},
			LoadAssignment: &endpointv3.ClusterLoadAssignment{
				ClusterName: serverCluster,
				Endpoints:   []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{endpoint}}},
			},
			TypedExtensionProtocolOptions: http2Upstream(&corev3.Http2ProtocolOptions{
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
