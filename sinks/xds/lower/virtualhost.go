package lower

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/reconciler"
)

// The names that Envoys see. To Envoy, all up to the last slash of a virtual host's
// name is the name of its RouteConfiguration, and it silently drops a virtual host of
// another one. So there must be no slash behind RoutesName and its own.
const (
	RoutesName = "gray"
	KeyHeader  = "x-gray-key"
	slotHeader = "x-gray-slot"

	accountFilter = "gray.account" // Envoy gives a filter the metadata under its name
	AnchorName    = RoutesName + "/@none"
)

// VirtualHost is a service, with the version for requests that no policy is about.
type VirtualHost struct {
	Hosts   []string      `json:"hosts"`
	Default string        `json:"default"`
	Timeout time.Duration `json:"timeout,omitempty"`
	Retries int           `json:"retries,omitempty"`

	RouteBy requests.RouteBy `json:"routeBy"`
}

// Equal implements reconciler.Body.
func (b *VirtualHost) Equal(o reconciler.Body) bool {
	x, ok := o.(*VirtualHost)
	return ok && slices.Equal(b.Hosts, x.Hosts) && b.RouteBy == x.RouteBy && b.SameForAccounts(x)
}

// SameForAccounts tells whether the virtual hosts of accounts are the same for both.
func (b *VirtualHost) SameForAccounts(x *VirtualHost) bool {
	return b.Default == x.Default && b.Timeout == x.Timeout && b.Retries == x.Retries
}

// String implements reconciler.Body.
func (b *VirtualHost) String() string {
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
func (b *VirtualHost) Delta(old reconciler.Body) string {
	o, ok := old.(*VirtualHost)
	if !ok {
		return reconciler.FromTo(old, b)
	}
	return deltaOf(
		"hosts ", strings.Join(o.Hosts, " "), strings.Join(b.Hosts, " "),
		"default ", o.Default, b.Default,
		"timeout ", o.Timeout.String(), b.Timeout.String(),
		"retries ", strconv.Itoa(o.Retries), strconv.Itoa(b.Retries),
		"by ", o.RouteBy.String(), b.RouteBy.String(),
	)
}

// Routes is the one RouteConfiguration, named RoutesName: its virtual hosts come by
// VHDS. Its vhds field must never change: Envoy would open a new subscription and
// not tell the server.
func Routes() *routev3.RouteConfiguration {
	return &routev3.RouteConfiguration{
		Name:                   RoutesName,
		VhostHeader:            KeyHeader,
		RequestHeadersToRemove: []string{KeyHeader, slotHeader},
		Vhds:                   &routev3.Vhds{ConfigSource: patientSource()},
	}
}

// AnchorHost is a virtual host that no request reaches, as its domain is neither a
// host nor an account. Without it a listener would not open before there is a
// service: Envoy goes on waiting after a response without virtual hosts.
func AnchorHost() *routev3.VirtualHost {
	return &routev3.VirtualHost{Name: AnchorName, Domains: []string{"none"}}
}

// HostName is the name of the virtual host of a service.
func HostName(service string) string { return RoutesName + "/" + service }

// Host is the virtual host of a service for requests of accounts that no policy
// lists. The first look-up, by host, finds it for every request: its routes tell the
// filter the service and where requests carry their account.
func (b *VirtualHost) Host(service string, rules []*requests.Rule) *routev3.VirtualHost {
	h := &routev3.VirtualHost{
		Name: HostName(service), Domains: append(slices.Clone(b.Hosts), service+"/*"),
		Routes: b.envoyRoutes(service, requests.OrderRules(rules, nil, nil)),
	}
	meta := routeMetadata(service, b.RouteBy)
	for _, r := range h.Routes {
		r.Metadata = meta
	}
	return h
}

// routeMetadata is what account.lua reads from a route.
func routeMetadata(service string, by requests.RouteBy) *corev3.Metadata {
	fields := map[string]*structpb.Value{}
	for k, v := range map[string]string{"service": service, "header": by.Header, "key": by.Key} {
		fields[k] = structpb.NewStringValue(v)
	}
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{accountFilter: {Fields: fields}}}
}

// AccountsHost is the virtual host of accounts of a service that have the same
// routes; accounts are sorted.
func (b *VirtualHost) AccountsHost(name, service string, accounts []string, rules []*requests.Rule) *routev3.VirtualHost {
	h := &routev3.VirtualHost{Name: name, Routes: b.envoyRoutes(service, rules), Domains: make([]string, len(accounts))}
	for i, a := range accounts {
		h.Domains[i] = AccountDomain(service, a)
	}
	return h
}

// AccountDomain is the domain of an account: the key that account.lua makes for its
// requests.
func AccountDomain(service, account string) string { return service + "/a" + escapeAccount(account) }

// escapeAccount escapes an account as account.lua does: Envoy compares domains
// without case, and two accounts must not make the same one, or one like a host.
func escapeAccount(a string) string {
	plain := func(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' }
	n := 0
	for n < len(a) && plain(a[n]) {
		n++
	}
	if n == len(a) {
		return a
	}
	var s strings.Builder
	for i := range len(a) {
		if plain(a[i]) {
			s.WriteByte(a[i])
		} else {
			fmt.Fprintf(&s, "_%02x", a[i])
		}
	}
	return s.String()
}
