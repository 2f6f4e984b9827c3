package xds

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
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/reconciler"
)

// clusterBody is a version of a service as a cluster; its endpoints come by EDS.
type clusterBody struct {
	Protocol string `json:"protocol"`
	Check    check  `json:"check,omitzero"`
}

// check is how an Envoy checks endpoints; zero: it does not. The port is the
// endpoints' business.
type check struct {
	Kind     string        `json:"kind"` // "http", "http2", "grpc" or "tcp"
	Path     string        `json:"path,omitempty"`
	Host     string        `json:"host,omitempty"` // as which the endpoint is asked; not for tcp
	Interval time.Duration `json:"interval"`
	Timeout  time.Duration `json:"timeout"`
	Rise     int           `json:"rise"`
	Fall     int           `json:"fall"`
}

// checkOf is the check of a service. At its own port an endpoint is asked in the
// service's protocol, at another one by HTTP/1.1.
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
		// Envoy would say the cluster's name, which holds a slash and is no host.
		c.Host = strings.TrimPrefix(svc.Hosts[len(svc.Hosts)-1], "*.")
	}
	return c
}

// checkPort is the port that is checked, 0 where it is the endpoint's.
func checkPort(h *packets.HealthCheck) uint16 {
	if h == nil {
		return 0
	}
	return cmp.Or(h.HTTP.Port, h.TCP)
}

// Equal implements reconciler.Body.
func (b *clusterBody) Equal(o reconciler.Body) bool {
	x, ok := o.(*clusterBody)
	return ok && *b == *x
}

// String implements reconciler.Body.
func (b *clusterBody) String() string {
	s := "speaks " + b.Protocol
	if b.Check != (check{}) {
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

// Delta implements reconciler.Body: what changes.
func (b *clusterBody) Delta(old reconciler.Body) string {
	o, ok := old.(*clusterBody)
	if !ok || o.Protocol != b.Protocol {
		return fromTo(old, b)
	}
	return fmt.Sprintf("%s -> %s", o.Check, b.Check)
}

func nativeCluster(name string, b *clusterBody) *clusterv3.Cluster {
	c := &clusterv3.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig:     &clusterv3.Cluster_EdsClusterConfig{EdsConfig: adsSource()},
		ConnectTimeout:       durationpb.New(2 * time.Second),
		OutlierDetection:     outlierDetection(),
		HealthChecks:         healthChecks(b.Check),
		CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
			MaxRetries: wrapperspb.UInt32(1024), // at one time, as many as there may be requests; Envoy's own 3 fail those of an endpoint that dies
		}}},
		// What leaves a version is not to be sent its requests any more, however well
		// it is: it may be of another version now.
		IgnoreHealthOnHostRemoval: true,
	}
	if b.Protocol != "http" {
		c.TypedExtensionProtocolOptions = http2Upstream(&corev3.Http2ProtocolOptions{})
	}
	return c
}

// outlierDetection takes out an endpoint that fails request after request as a
// gateway would say it: it refuses or breaks connections, or answers with 502, 503
// or 504. Other errors of an application are none of its business, as whoever sends
// bad requests could take out one endpoint after the other by them. At least half
// of the endpoints stay, and so does a single one. Where more than half fail their
// checks or are out, Envoy asks all of them (its panic threshold, 50 %).
func outlierDetection() *clusterv3.OutlierDetection {
	off := wrapperspb.UInt32(0)
	return &clusterv3.OutlierDetection{
		ConsecutiveGatewayFailure:          wrapperspb.UInt32(5),
		EnforcingConsecutiveGatewayFailure: wrapperspb.UInt32(100),
		EnforcingConsecutive_5Xx:           off,
		EnforcingSuccessRate:               off,
		Interval:                           durationpb.New(5 * time.Second), // at which those that are out are looked at
		BaseEjectionTime:                   durationpb.New(30 * time.Second),
		MaxEjectionTime:                    durationpb.New(5 * time.Minute),
		MaxEjectionPercent:                 wrapperspb.UInt32(50),
	}
}

// anotherHost has a request not be tried again where it failed.
func anotherHost() []*routev3.RetryPolicy_RetryHostPredicate {
	return []*routev3.RetryPolicy_RetryHostPredicate{{
		Name:       "envoy.retry_host_predicates.previous_hosts",
		ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: mustAny(&previoushostsv3.PreviousHostsPredicate{})},
	}}
}

// healthChecks are made by every Envoy of every endpoint, also of versions without
// traffic: they may get some at any time.
func healthChecks(c check) []*corev3.HealthCheck {
	if c == (check{}) {
		return nil
	}
	h := &corev3.HealthCheck{
		Interval: durationpb.New(c.Interval), NoTrafficInterval: durationpb.New(c.Interval), Timeout: durationpb.New(c.Timeout),
		HealthyThreshold: wrapperspb.UInt32(uint32(c.Rise)), UnhealthyThreshold: wrapperspb.UInt32(uint32(c.Fall)),
		IntervalJitterPercent: 10, // of many Envoys
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
			ExpectedStatuses: []*typev3.Int64Range{{Start: 200, End: 400}}, // as of the servers of gateways
		}
		if c.Kind == "http2" {
			http.CodecClientType = typev3.CodecClientType_HTTP2
		}
		h.HealthChecker = &corev3.HealthCheck_HttpHealthCheck_{HttpHealthCheck: http}
	}
	return []*corev3.HealthCheck{h}
}

// portText is a port for people.
func portText(port uint16) string {
	if port == 0 {
		return "their own port"
	}
	return "port " + strconv.Itoa(int(port))
}
