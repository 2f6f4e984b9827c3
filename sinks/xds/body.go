package xds

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/reconciler"
)

// Target is the sink's only target.
const Target = "xds"

// The kinds of resources.
const (
	kindCluster     = "Cluster"
	kindEndpoints   = "Endpoints"
	kindVirtualHost = "VirtualHost"
	kindRule        = "Rule"
	kindAccount     = "Account"
	kindListener    = "Listener"
)

// rankOf orders the kinds: what a resource refers to has a lower rank.
var rankOf = map[string]int{kindCluster: 1, kindEndpoints: 2, kindVirtualHost: 3, kindRule: 4, kindAccount: 5, kindListener: 6}

// togetherOf marks the kinds that decide about requests together: some of what a
// commit changes in them would answer requests as neither the commit before nor
// this one does.
var togetherOf = map[string]bool{kindVirtualHost: true, kindRule: true, kindAccount: true}

// virtualHostBody is a service and what everybody gets whom no policy names.
type virtualHostBody struct {
	Hosts   []string      `json:"hosts"`
	Default string        `json:"default"`
	Timeout time.Duration `json:"timeout,omitempty"`
	Retries int           `json:"retries,omitempty"`

	RouteBy requests.RouteBy `json:"routeBy"`
}

// listenerBody is where a node's Envoy listens.
type listenerBody struct {
	Bind netip.Addr `json:"bind"`
	Port uint16     `json:"port"`
}

func fromTo(old, b reconciler.Body) string { return old.String() + " -> " + b.String() }

// Equal implements reconciler.Body.
func (b *virtualHostBody) Equal(o reconciler.Body) bool {
	x, ok := o.(*virtualHostBody)
	return ok && slices.Equal(b.Hosts, x.Hosts) && b.RouteBy == x.RouteBy && b.sameForAccounts(x)
}

// sameForAccounts tells whether the two make equal shards of accounts.
func (b *virtualHostBody) sameForAccounts(x *virtualHostBody) bool {
	return b.Default == x.Default && b.Timeout == x.Timeout && b.Retries == x.Retries
}

// String implements reconciler.Body.
func (b *virtualHostBody) String() string {
	s := fmt.Sprintf("%s -> %s", strings.Join(b.Hosts, " "), b.Default)
	if b.Timeout > 0 {
		s += ", timeout " + b.Timeout.String()
	}
	if b.Retries > 0 {
		s += fmt.Sprintf(", retries %d", b.Retries)
	}
	if b.RouteBy != requests.DefaultRouteBy {
		s += ", by " + b.RouteBy.String()
	}
	return s
}

// Delta implements reconciler.Body: the fields that change.
func (b *virtualHostBody) Delta(old reconciler.Body) string {
	o, ok := old.(*virtualHostBody)
	if !ok {
		return fromTo(old, b)
	}
	var words []string
	if !slices.Equal(o.Hosts, b.Hosts) {
		words = append(words, fmt.Sprintf("hosts %s -> %s", strings.Join(o.Hosts, " "), strings.Join(b.Hosts, " ")))
	}
	if o.Default != b.Default {
		words = append(words, fmt.Sprintf("default %s -> %s", o.Default, b.Default))
	}
	if o.Timeout != b.Timeout {
		words = append(words, fmt.Sprintf("timeout %s -> %s", o.Timeout, b.Timeout))
	}
	if o.Retries != b.Retries {
		words = append(words, fmt.Sprintf("retries %d -> %d", o.Retries, b.Retries))
	}
	if o.RouteBy != b.RouteBy {
		words = append(words, fmt.Sprintf("by %s -> %s", o.RouteBy, b.RouteBy))
	}
	return strings.Join(words, ", ")
}

// Equal implements reconciler.Body.
func (b *listenerBody) Equal(o reconciler.Body) bool {
	x, ok := o.(*listenerBody)
	return ok && *b == *x
}

// String implements reconciler.Body.
func (b *listenerBody) String() string {
	return "proxy on " + netip.AddrPortFrom(b.Bind, b.Port).String()
}

// Delta implements reconciler.Body.
func (b *listenerBody) Delta(old reconciler.Body) string { return fromTo(old, b) }
