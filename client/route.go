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

// Config says how services are reached. The zero Config dials IP:port only.
type Config struct {
	Proxy  string // host:port of the node's Envoy; empty: requests do not go through the mesh
	Naming Naming // where domain names are looked up; nil: nowhere
}

// Naming turns names into addresses and follows them.
type Naming interface {
	// Watch calls update with all addresses (host:port, sorted) of a name, empty
	// where it has none, at the start and whenever they change. It calls update with
	// an error where they cannot be looked up; the last ones stay good, and it goes
	// on trying. It returns when ctx ends, and makes one call at a time.
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

// choose finds the way to a service and where it leads: the proxy's address, a
// name without port, or IP:port. service is host or host:port; port is for the
// direct way, where service has none.
func (c Config) choose(service, port string) (way, string, error) {
	host := service
	if h, p, err := net.SplitHostPort(service); err == nil {
		host, port = h, p
	}
	host = strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
	ip, isIP := parseIP(host)
	isName := !isIP
	if isName && !isDomain(host) {
		return 0, "", fmt.Errorf("%q names no service; want a domain name or IP:port", service)
	}
	switch {
	case c.Proxy != "":
		return viaProxy, c.Proxy, checkProxy(c.Proxy)
	case isName && c.Naming == nil:
		return 0, "", fmt.Errorf("%q is a name, and there is neither a proxy nor a naming to ask; set Proxy or Naming, or give IP:port", service)
	case isName:
		return byName, host, nil
	case port == "":
		return 0, "", fmt.Errorf("%q has no port; want IP:port", service)
	}
	return direct, net.JoinHostPort(ip.String(), port), nil
}

func parseIP(host string) (netip.Addr, bool) {
	ip, err := netip.ParseAddr(host)
	return ip, err == nil
}

// isDomain tells whether a name is made of labels with dots between them.
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
