package schema

import (
	"fmt"
	"strings"
	"time"
)

// The bounds and defaults of health checks.
const (
	minInterval     = Duration(100 * time.Millisecond)
	maxInterval     = Duration(time.Hour)
	defaultInterval = Duration(2 * time.Second)
	defaultTimeout  = Duration(time.Second)

	serviceInterval = Duration(5 * time.Second) // the default of a Service, where every Envoy checks every endpoint
)

// gatewayHealth checks the health check of a Gateway, and fills defaults.
func (v *validator) gatewayHealth(h *HealthCheck) {
	if kinds := h.kinds(); kinds != 1 {
		v.errorf("spec.healthCheck", "has %d kinds of checks; give one of icmp, tcp and http", kinds)
	}
	if h.TCP != nil && h.TCP.Port == 0 {
		v.errorf("spec.healthCheck.tcp", "has no port; give the one that the servers listen on")
	}
	if h.HTTP != nil && h.HTTP.Port == 0 {
		h.HTTP.Port = 80
	}
	v.checkTimes(h, defaultInterval)
}

// serviceHealth checks the health check of a Service, and fills defaults.
func (v *validator) serviceHealth(s *ServiceSpec) {
	h := s.HealthCheck
	switch kinds := h.kinds(); {
	case h.ICMP != nil:
		v.errorf("spec.healthCheck.icmp", "is not for a Service, as Envoy sends no echo requests; give tcp or http")
	case kinds > 1:
		v.errorf("spec.healthCheck", "has %d kinds of checks; give one of tcp and http", kinds)
	case kinds == 0 && s.Protocol != "grpc" && !v.wrong("spec.protocol"):
		v.errorf("spec.healthCheck", "has no kind of check; give one of tcp and http")
	}
	v.checkTimes(h, serviceInterval)
}

// kinds counts the kinds of checks that are set.
func (h *HealthCheck) kinds() int {
	kinds := 0
	for _, has := range []bool{h.ICMP != nil, h.TCP != nil, h.HTTP != nil} {
		if has {
			kinds++
		}
	}
	return kinds
}

// checkTimes checks the fields that all health checks have, and fills defaults.
func (v *validator) checkTimes(h *HealthCheck, interval Duration) {
	if h.HTTP != nil && (!strings.HasPrefix(h.HTTP.Path, "/") || !isPrintable(h.HTTP.Path)) {
		v.errorf("spec.healthCheck.http.path", "%q does not begin with /, or has a character that no path has", clip(h.HTTP.Path))
	}
	if h.Interval == 0 {
		h.Interval = interval
	}
	if h.Interval < minInterval || h.Interval > maxInterval {
		v.errorf("spec.healthCheck.interval", "%s is out of range; want %s to %s", h.Interval, minInterval, maxInterval)
		return
	}
	if h.Timeout == 0 {
		h.Timeout = min(defaultTimeout, h.Interval)
	}
	if h.Timeout > h.Interval {
		v.errorf("spec.healthCheck.timeout", "%s is longer than the interval, %s", h.Timeout, h.Interval)
	}
}

// forwardIP checks that the VIPs and the backends of a Gateway are of one IP version, as
// forward: ip replaces the VIP by the backend's address.
func (v *validator) forwardIP(g *GatewaySpec) {
	for i, vip := range g.VIPs {
		if vip.Is6() != g.VIPs[0].Is6() {
			v.errorf(fmt.Sprintf("spec.vips[%d]", i), "%s and %s are of different IP versions, and forward: ip rewrites both to one address; make a Gateway of each", vip, g.VIPs[0])
			return
		}
	}
	for i, ver := range g.Versions {
		for j, b := range ver.Backends {
			if len(g.VIPs) > 0 && b.Address.IsValid() && b.Address.Is6() != g.VIPs[0].Is6() {
				v.errorf(fmt.Sprintf("spec.versions[%d].backends[%d].address", i, j), "%s is not of the IP version of the VIP %s, which forward: ip rewrites to it", b.Address, g.VIPs[0])
			}
		}
	}
}
