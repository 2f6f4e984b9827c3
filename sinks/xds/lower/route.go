package lower

import (
	"slices"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/gray-release/gray/policies/requests"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// routes is rules as routes; the first that matches is taken. lists has the header
// matchers of a set of requests: all matchers of one list match a request of the set.
func (b *VirtualHost) routes(rules []*requests.Rule, lists func(requests.Match) [][]*routev3.HeaderMatcher, action func(version string) *routev3.RouteAction) []*routev3.Route {
	var all []*routev3.Route
	for _, r := range rules {
		for _, m := range r.Match {
			for _, headers := range lists(m) {
				all = append(all, route(headers, action(r.Version)))
			}
		}
		if r.Whole() {
			return all
		}
	}
	return append(all, route(nil, action(b.Default)))
}

func route(headers []*routev3.HeaderMatcher, action *routev3.RouteAction) *routev3.Route {
	return &routev3.Route{
		Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}, Headers: headers},
		Action: &routev3.Route_Route{Route: action},
	}
}

// envoyRoutes is routes for Envoy.
func (b *VirtualHost) envoyRoutes(service string, rules []*requests.Rule) []*routev3.Route {
	return b.routes(rules, matchers, func(version string) *routev3.RouteAction { return b.action(service, version) })
}

// matchers is the lists of a set of requests for Envoy.
func matchers(m requests.Match) [][]*routev3.HeaderMatcher {
	lists := combine(m.Tests, testMatchers)
	if m.Lo == 0 && m.Hi == requests.Slots {
		return lists
	}
	slots := &routev3.HeaderMatcher{Name: slotHeader, HeaderMatchSpecifier: &routev3.HeaderMatcher_RangeMatch{
		RangeMatch: &typev3.Int64Range{Start: int64(m.Lo), End: int64(m.Hi)},
	}}
	for i := range lists {
		lists[i] = append(lists[i], slots)
	}
	return lists
}

// combine makes lists with one matcher of each test, all that there are.
func combine(tests []requests.HeaderTest, matchers func(*requests.HeaderTest) []*routev3.HeaderMatcher) [][]*routev3.HeaderMatcher {
	lists := [][]*routev3.HeaderMatcher{nil}
	for i := range tests {
		var longer [][]*routev3.HeaderMatcher
		for _, list := range lists {
			for _, m := range matchers(&tests[i]) {
				longer = append(longer, append(slices.Clip(list), m))
			}
		}
		lists = longer
	}
	return lists
}

// testMatchers is a test as header matchers: it holds when any of them matches. To
// Envoy, a missing header matches no matcher, not even an inverted one, unless it is
// treated as empty. Where that does not help, its absence is a matcher of its own.
func testMatchers(t *requests.HeaderTest) []*routev3.HeaderMatcher {
	value := new(matcherv3.StringMatcher)
	switch t.Kind {
	case "exact":
		value.MatchPattern = &matcherv3.StringMatcher_Exact{Exact: t.Value}
	case "prefix":
		value.MatchPattern = &matcherv3.StringMatcher_Prefix{Prefix: t.Value}
	case "suffix":
		value.MatchPattern = &matcherv3.StringMatcher_Suffix{Suffix: t.Value}
	case "regex":
		value.MatchPattern = &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: t.Value}}
	default:
		return []*routev3.HeaderMatcher{presence(t.Name, !t.Not)}
	}
	m := &routev3.HeaderMatcher{
		Name: t.Name, InvertMatch: t.Not, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: value},
	}
	switch empty := []string{""}; {
	case !t.Not:
		return []*routev3.HeaderMatcher{m}
	case t.Holds(empty):
		m.TreatMissingHeaderAsEmpty = true
		return []*routev3.HeaderMatcher{m}
	}
	return []*routev3.HeaderMatcher{presence(t.Name, false), m}
}

func presence(name string, present bool) *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: present}}
}

// action sends requests to a version. Only requests that the upstream cannot have
// begun to process are retried.
func (b *VirtualHost) action(service, version string) *routev3.RouteAction {
	action := &routev3.RouteAction{
		ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: service + "/" + version},
		Timeout:          durationpb.New(b.Timeout),
	}
	if b.Retries > 0 {
		action.RetryPolicy = &routev3.RetryPolicy{
			RetryOn: "connect-failure,refused-stream,reset-before-request", NumRetries: wrapperspb.UInt32(uint32(b.Retries)),
			RetryHostPredicate: anotherHost(), HostSelectionRetryMaxAttempts: 5,
		}
	}
	return action
}

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
func (b *VirtualHost) APIRoutes(service string, rules []*requests.Rule) *routev3.RouteConfiguration {
	action := func(version string) *routev3.RouteAction {
		a := &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: service + "/" + version}}
		if b.Timeout > 0 { // gRPC ignores RouteAction.timeout
			a.MaxStreamDuration = &routev3.RouteAction_MaxStreamDuration{MaxStreamDuration: durationpb.New(b.Timeout)}
		}
		return a
	}
	return &routev3.RouteConfiguration{Name: service, VirtualHosts: []*routev3.VirtualHost{{
		Name: service, Domains: []string{"*"}, Routes: b.routes(requests.OrderRules(rules, nil, nil), apiMatchers, action),
	}}}
}

// apiMatchers is the lists of a set of requests for gRPC, none where the set has no
// requests without an account: those are in the last slot.
func apiMatchers(m requests.Match) [][]*routev3.HeaderMatcher {
	if m.Hi != requests.Slots {
		return nil
	}
	return combine(m.Tests, func(t *requests.HeaderTest) []*routev3.HeaderMatcher {
		all := testMatchers(t)
		if all[0].TreatMissingHeaderAsEmpty { // gRPC does not know this: the absence is a matcher of its own
			all[0].TreatMissingHeaderAsEmpty = false
			all = append(all, presence(t.Name, false))
		}
		return all
	})
}
