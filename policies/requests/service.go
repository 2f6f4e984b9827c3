// Package requests is sets of requests and what an Envoy does with them: the rules of a
// service, shares of accounts, and the model that follows a request through the routes.
//
// It is pure, and does not import the compiler, which makes its rules from the
// documents.
package requests

import (
	"net/netip"
	"slices"
	"time"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/schema"
)

// Service is a service behind Envoys, with its versions.
type Service struct {
	Name     string
	Origin   schema.Position
	Hosts    []string // sorted, lower case, without port
	Protocol string   // what the endpoints speak: "http", "http2" or "grpc"
	RouteBy  RouteBy
	Default  string               // the version for requests that no rule matches
	Versions []ServiceVersion     // sorted by name
	Health   *packets.HealthCheck // nil: the endpoints are not checked
	Timeout  time.Duration        // of a whole request; 0: none
	Retries  int
}

// RouteBy is where a request carries its account: the value of Key in the header
// Header (lower case), which is encoded like a cookie.
type RouteBy struct {
	Header string `json:"header"`
	Key    string `json:"key"`
}

// String is "key KEY of header HEADER".
func (r RouteBy) String() string { return "key " + r.Key + " of header " + r.Header }

// DefaultRouteBy is the RouteBy of a Service that has none.
var DefaultRouteBy = RouteBy{Header: "x-ucloud-routeby", Key: "account_id"}

// ServiceVersion is one version of a service and where it runs.
type ServiceVersion struct {
	Name      string
	Origin    schema.Position
	Endpoints []Endpoint     // sorted by address and port
	Etcd      string         // the target of the endpoints; empty: the document lists them
	Unknown   bool           // the endpoints in etcd are not known yet; what is live stays
	Image     string         // the image that nodes run; empty: something else runs the version
	Compose   map[string]any // further fields of its compose service, checked by schema; read-only
}

// Version returns the version of that name, or nil.
func (s *Service) Version(name string) *ServiceVersion {
	for i := range s.Versions {
		if s.Versions[i].Name == name {
			return &s.Versions[i]
		}
	}
	return nil
}

// Endpoint is an address that serves a version.
type Endpoint struct {
	Address netip.Addr
	Port    uint16
	Weight  uint32 // at least 1
}

// HostPort is ADDRESS:PORT.
func (e Endpoint) HostPort() string { return netip.AddrPortFrom(e.Address, e.Port).String() }

// AccountRoute is the rules for one account of a service, beside the rules for all
// requests; see OrderRules.
type AccountRoute struct {
	Service, Account string
	Rules            []Rule   // in order of precedence
	Instead          []string // the policies whose rules for all requests do not apply to it, sorted
	Origin           schema.Position
}

// Equal tells whether two routes are equal.
func (r *AccountRoute) Equal(o *AccountRoute) bool {
	return r.Origin == o.Origin && slices.Equal(r.Instead, o.Instead) &&
		slices.EqualFunc(r.Rules, o.Rules, func(a, b Rule) bool { return a.Equal(&b) })
}
