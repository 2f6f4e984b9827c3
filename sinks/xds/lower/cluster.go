package lower

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/reconciler"
)

// Cluster is a version of a service; its endpoints come by EDS.
type Cluster struct {
	Protocol string `json:"protocol"`
	Check    check  `json:"check,omitzero"`
}

// check is how an Envoy checks the endpoints; zero: not at all. The port is in
// Endpoints.
type check struct {
	Kind     string        `json:"kind"` // "http", "http2", "grpc" or "tcp"
	Path     string        `json:"path,omitempty"`
	Host     string        `json:"host,omitempty"` // the authority of the request; not for tcp
	Interval time.Duration `json:"interval"`
	Timeout  time.Duration `json:"timeout"`
	Rise     int           `json:"rise"`
	Fall     int           `json:"fall"`
}

// checkOf is the check of a service. An endpoint is checked by the service's
// protocol at its own port, and by HTTP/1.1 at another one.
func checkOf(svc *requests.Service) check {
	h := svc.Health
	if h == nil {
		return check{}
	}
	c := check{Kind: "tcp", Interval: h.Interval, Timeout: h.Timeout, Rise: h.Rise, Fall: h.Fall}
	switch {
	case h.HTTP.Path != "" && (svc.Protocol == "http" || h.HTTP.Port != 0):
		c.Kind, c.Path = "http", h.HTTP.Path
	case h.HTTP.Path != "":
		c.Kind, c.Path = "http2", h.HTTP.Path
	case h.GRPC:
		c.Kind = "grpc"
	}
	if c.Kind != "tcp" && len(svc.Hosts) > 0 {
		// Envoy's default is the cluster's name, which has a slash and is not a host.
		c.Host = strings.TrimPrefix(svc.Hosts[len(svc.Hosts)-1], "*.")
	}
	return c
}

// checkPort is the port that is checked; 0: the endpoint's own.
func checkPort(h *packets.HealthCheck) uint16 {
	if h == nil {
		return 0
	}
	return cmp.Or(h.HTTP.Port, h.TCP)
}

// Equal implements reconciler.Body.
func (b *Cluster) Equal(o reconciler.Body) bool {
	x, ok := o.(*Cluster)
	return ok && *b == *x
}

// String implements reconciler.Body.
func (b *Cluster) String() string {
	s := "speaks " + b.Protocol
	if b.HealthChecked() {
		s += ", " + b.Check.String()
	}
	return s
}

// String is a check in words.
func (c check) String() string {
	if c == (check{}) {
		return "not checked"
	}
	what := strings.TrimSpace(c.Kind + " " + c.Host + c.Path)
	return fmt.Sprintf("checked by %s every %s, timeout %s, rise %d, fall %d", what, c.Interval, c.Timeout, c.Rise, c.Fall)
}

// HealthChecked tells whether Envoys check the endpoints.
func (b *Cluster) HealthChecked() bool { return b.Check != (check{}) }

// Delta implements reconciler.Body: what changes.
func (b *Cluster) Delta(old reconciler.Body) string {
	o, ok := old.(*Cluster)
	if !ok || o.Protocol != b.Protocol {
		return reconciler.FromTo(old, b)
	}
	return fmt.Sprintf("%s -> %s", o.Check, b.Check)
}

// Message implements Native.
func (b *Cluster) Message(name string) proto.Message {
	c := &clusterv3.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig:     &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ADSSource()},
		ConnectTimeout:       durationpb.New(2 * time.Second),
		OutlierDetection:     outlierDetection(),
		HealthChecks:         healthChecks(b.Check),
		CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
			MaxRetries: wrapperspb.UInt32(1024), // in flight, as many as requests; by Envoy's default of 3, requests fail when an endpoint dies
		}}},
		// An endpoint that leaves a version gets no more of its requests even if it is
		// healthy: it may run another version now.
		IgnoreHealthOnHostRemoval: true,
	}
	if b.Protocol != "http" {
		c.TypedExtensionProtocolOptions = HTTP2Upstream(&corev3.Http2ProtocolOptions{})
	}
	return c
}

// outlierDetection ejects an endpoint after five gateway errors in a row: it refuses
// or breaks connections, or answers 502, 503 or 504. Other errors do not count, or
// a client with bad requests could eject one endpoint after the other. At least
// half of the endpoints stay, and so does a single one. When more than half are
// unhealthy or ejected, Envoy uses all of them (its panic threshold, 50 %).
func outlierDetection() *clusterv3.OutlierDetection {
	off := wrapperspb.UInt32(0)
	return &clusterv3.OutlierDetection{
		ConsecutiveGatewayFailure:          wrapperspb.UInt32(5),
		EnforcingConsecutiveGatewayFailure: wrapperspb.UInt32(100),
		EnforcingConsecutive_5Xx:           off,
		EnforcingSuccessRate:               off,
		Interval:                           durationpb.New(5 * time.Second), // how often ejected endpoints are looked at
		BaseEjectionTime:                   durationpb.New(30 * time.Second),
		MaxEjectionTime:                    durationpb.New(5 * time.Minute),
		MaxEjectionPercent:                 wrapperspb.UInt32(50),
	}
}

// anotherHost makes a retry go to another endpoint.
func anotherHost() []*routev3.RetryPolicy_RetryHostPredicate {
	return []*routev3.RetryPolicy_RetryHostPredicate{{
		Name:       "envoy.retry_host_predicates.previous_hosts",
		ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: Any(&previoushostsv3.PreviousHostsPredicate{})},
	}}
}

// healthChecks has every Envoy check every endpoint, also of versions without
// traffic: they may get some at any time.
func healthChecks(c check) []*corev3.HealthCheck {
	if c == (check{}) {
		return nil
	}
	h := &corev3.HealthCheck{
		Interval: durationpb.New(c.Interval), NoTrafficInterval: durationpb.New(c.Interval), Timeout: durationpb.New(c.Timeout),
		HealthyThreshold: wrapperspb.UInt32(uint32(c.Rise)), UnhealthyThreshold: wrapperspb.UInt32(uint32(c.Fall)),
		IntervalJitterPercent: 10, // many Envoys check at once
	}
	switch c.Kind {
	case "tcp":
		h.HealthChecker = &corev3.HealthCheck_TcpHealthCheck_{TcpHealthCheck: &corev3.HealthCheck_TcpHealthCheck{}}
	case "grpc":
		h.HealthChecker = &corev3.HealthCheck_GrpcHealthCheck_{GrpcHealthCheck: &corev3.HealthCheck_GrpcHealthCheck{Authority: c.Host}}
	default:
		http := &corev3.HealthCheck_HttpHealthCheck{
			Path:             c.Path,
			Host:             c.Host,
			ExpectedStatuses: []*typev3.Int64Range{{Start: 200, End: 400}}, // what gateways count as healthy
		}
		if c.Kind == "http2" {
			http.CodecClientType = typev3.CodecClientType_HTTP2
		}
		h.HealthChecker = &corev3.HealthCheck_HttpHealthCheck_{HttpHealthCheck: http}
	}
	return []*corev3.HealthCheck{h}
}

// portText says which port is checked.
func portText(port uint16) string {
	if port == 0 {
		return "their own port"
	}
	return "port " + strconv.Itoa(int(port))
}
