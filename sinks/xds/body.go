package xds

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/gray-release/gray/reconciler"
)

// Target is the sink's only target.
const Target = "xds"

// The kinds of resources.
const (
	kindCluster     = "Cluster"
	kindEndpoints   = "Endpoints"
	kindVirtualHost = "VirtualHost"
	kindAccount     = "Account"
	kindListener    = "Listener"
)

// rankOf orders the kinds: what a resource refers to has a lower rank.
var rankOf = map[string]int{kindCluster: 1, kindEndpoints: 2, kindVirtualHost: 3, kindAccount: 4, kindListener: 5}

// virtualHostBody is a service and what everybody gets whom no policy names.
type virtualHostBody struct {
	Hosts   []string      `json:"hosts"`
	Default string        `json:"default"`
	Timeout time.Duration `json:"timeout,omitempty"`
	Retries int           `json:"retries,omitempty"`
}

// accountBody sends one account to a version. There are many of them, so the
// name is the key's, "service/account", and shares its memory.
type accountBody struct {
	name    string
	Version string `json:"version"`
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
	return ok && b.Default == x.Default && b.sameForAccounts(x)
}

// sameForAccounts tells whether the two make equal shards of accounts.
func (b *virtualHostBody) sameForAccounts(x *virtualHostBody) bool {
	return slices.Equal(b.Hosts, x.Hosts) && b.Timeout == x.Timeout && b.Retries == x.Retries
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
	return strings.Join(words, ", ")
}

// Equal implements reconciler.Body.
func (b *accountBody) Equal(o reconciler.Body) bool {
	x, ok := o.(*accountBody)
	return ok && *b == *x
}

// String implements reconciler.Body.
func (b *accountBody) String() string { return b.who() + " -> " + b.Version }

// Delta implements reconciler.Body.
func (b *accountBody) Delta(old reconciler.Body) string {
	if o, ok := old.(*accountBody); ok {
		return b.who() + " " + o.Version + " -> " + b.Version
	}
	return fromTo(old, b)
}

// split gives the two halves of the name.
func (b *accountBody) split() (service, account string) {
	service, account, _ = strings.Cut(b.name, "/")
	return service, account
}

func (b *accountBody) who() string {
	service, account := b.split()
	return service + " account " + account
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
