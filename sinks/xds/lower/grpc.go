package lower

import (
	"slices"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gray-release/gray/policies"
)

// gRPC's own client asks for a listener by the host of its target, xds:///HOST, and
// then for its routes, clusters and endpoints. It knows neither VHDS nor
// vhost_header. So each service has resources for such clients: an API listener for
// each host, and one RouteConfiguration with the service's name.

// APIListener is the listener of a host; it has no address.
func APIListener(host, service string) *listenerv3.Listener {
	manager := &hcmv3.HttpConnectionManager{
		StatPrefix:     "gray",
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{ConfigSource: ADSSource(), RouteConfigName: service}},
		HttpFilters:    []*hcmv3.HttpFilter{httpFilter("envoy.filters.http.router", &routerv3.Router{})},
	}
	return &listenerv3.Listener{Name: host, ApiListener: &listenerv3.ApiListener{ApiListener: Any(manager)}}
}

// APIRoutes is the rules of a service for requests without an account. The client
// got here by a host of the service, so its domain is every authority.
func (b *VirtualHost) APIRoutes(service string, rules []*policies.RequestRule) *routev3.RouteConfiguration {
	h := &routev3.VirtualHost{Name: service, Domains: []string{"*"}}
	whole := false
	for _, r := range policies.OrderRules(rules, nil, nil) {
		for _, m := range r.Match {
			if m.Hi != policies.Slots {
				continue // requests without an account are in the last slot
			}
			for _, headers := range apiHeaders(m.Tests) {
				h.Routes = append(h.Routes, b.apiRoute(headers, service, r.Version))
			}
		}
		whole = whole || r.Whole()
	}
	if !whole {
		h.Routes = append(h.Routes, b.apiRoute(nil, service, b.Default))
	}
	return &routev3.RouteConfiguration{Name: service, VirtualHosts: []*routev3.VirtualHost{h}}
}

// apiHeaders is tests as lists of header matchers: they hold when all matchers of one
// list match. gRPC cannot treat a missing header as empty: its absence is a matcher
// of its own.
func apiHeaders(tests []policies.HeaderTest) [][]*routev3.HeaderMatcher {
	lists := [][]*routev3.HeaderMatcher{nil}
	for i := range tests {
		matchers := testMatchers(&tests[i])
		if m := matchers[0]; m.TreatMissingHeaderAsEmpty {
			m.TreatMissingHeaderAsEmpty = false
			matchers = append(matchers, presence(tests[i].Name, false))
		}
		var longer [][]*routev3.HeaderMatcher
		for _, list := range lists {
			for _, m := range matchers {
				longer = append(longer, append(slices.Clip(list), m))
			}
		}
		lists = longer
	}
	return lists
}

func (b *VirtualHost) apiRoute(headers []*routev3.HeaderMatcher, service, version string) *routev3.Route {
	action := &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: service + "/" + version}}
	if b.Timeout > 0 { // gRPC ignores RouteAction.timeout
		action.MaxStreamDuration = &routev3.RouteAction_MaxStreamDuration{MaxStreamDuration: durationpb.New(b.Timeout)}
	}
	return &routev3.Route{
		Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}, Headers: headers},
		Action: &routev3.Route_Route{Route: action},
	}
}
