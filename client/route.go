package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Config says how to reach services. The zero Config only dials IP:port.
type Config struct {
	Proxy  string // host:port of the node's Envoy; empty: requests do not go through the mesh
	Naming Naming // looks up domain names; nil: they cannot be looked up
}

// Naming turns names into addresses and follows them.
type Naming interface {
	// Watch calls update with all addresses (host:port, sorted) of a name, empty if
	// there are none, at the start and whenever they change. If they cannot be looked
	// up, it calls update with an error and retries; the last addresses stay valid. It
	// makes one call at a time, and returns when ctx ends.
	Watch(ctx context.Context, name string, update func(addresses []string, err error))
}

// way is how a service is reached.
type way int

// The ways, in the order in which they are tried.
const (
	viaProxy way = iota
	byName
	direct
)

// choose returns the way to a service and its address: that of the proxy, a name without
// a port, or IP:port. service is host or host:port; port is the default for the direct
// way.
func (c Config) choose(service, port string) (way, string, error) {
	host := service
	if h, p, err := net.SplitHostPort(service); err == nil {
		host, port = h, p
	}
	host = strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
	ip, err := netip.ParseAddr(host)
	isName := err != nil
	if isName && !isDomain(host) {
		return 0, "", fmt.Errorf("%q is not a service; want a domain name or IP:port", service)
	}
	switch {
	case c.Proxy != "":
		return viaProxy, c.Proxy, checkProxy(c.Proxy)
	case isName && c.Naming == nil:
		return 0, "", fmt.Errorf("%q is a name, and cannot be looked up; set Proxy or Naming, or give IP:port", service)
	case isName:
		return byName, host, nil
	case port == "":
		return 0, "", fmt.Errorf("%q has no port; want IP:port", service)
	}
	return direct, net.JoinHostPort(ip.String(), port), nil
}

// isDomain reports whether a name consists of labels separated by dots.
func isDomain(name string) bool {
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || strings.ContainsFunc(label, func(r rune) bool {
			return r != '-' && r != '_' && (r < 'a' || r > 'z') && (r < '0' || r > '9')
		}) {
			return false
		}
	}
	return len(name) <= 253
}

func checkProxy(proxy string) error {
	host, port, err := net.SplitHostPort(proxy)
	if err == nil && host == "" {
		err = errors.New("no host")
	}
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("the proxy %q is not host:port, such as 127.0.0.1:15001", proxy)
	}
	return nil
}
