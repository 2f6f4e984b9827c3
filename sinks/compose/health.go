package compose

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/requests"
)

// healthCheck is the service's own check, run inside the container on this node; nil
// where the service has none, or its port is not known. It needs curl, wget or nc in
// the image. A version whose image has none of them brings a healthcheck of its own.
func healthCheck(n *policies.Node, svc *requests.Service, v *requests.ServiceVersion) *types.HealthCheckConfig {
	h := svc.Health
	if h == nil || h.ICMP {
		return nil
	}
	port := h.TCP
	if h.HTTP.Path != "" {
		port = h.HTTP.Port
	}
	for _, e := range v.Endpoints {
		if port == 0 && v.Etcd == "" && e.Address == n.Address {
			port = e.Port
		}
	}
	if port == 0 {
		return nil
	}
	seconds := max(1, int(h.Timeout/time.Second))
	command := fmt.Sprintf("nc -z -w %d %s %d", seconds, n.Address, port)
	if ownPort := h.HTTP.Port == 0; h.HTTP.Path != "" && !(ownPort && (svc.Protocol == "http2" || svc.Protocol == "grpc")) { // HTTP/2, which wget does not speak
		url := quote("http://" + net.JoinHostPort(n.Address.String(), strconv.Itoa(int(port))) + h.HTTP.Path)
		command = fmt.Sprintf("if command -v curl >/dev/null; then curl -fsS -m %d -o /dev/null %s; else wget -q -T %d -O /dev/null %s; fi",
			seconds, url, seconds, url)
	}
	check := &types.HealthCheckConfig{Test: types.HealthCheckTest{"CMD-SHELL", command}}
	if h.Interval > 0 {
		check.Interval = duration(h.Interval)
	}
	if h.Timeout > 0 {
		check.Timeout = duration(h.Timeout)
	}
	if h.Fall > 0 {
		retries := uint64(h.Fall)
		check.Retries = &retries
	}
	return check
}

func duration(d time.Duration) *types.Duration {
	t := types.Duration(d)
	return &t
}

// quote makes one word of a text for a shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
