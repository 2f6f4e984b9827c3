package lower

import (
	"slices"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/gray-release/gray/policies"
)

// routes is rules as routes; Envoy takes the first that matches.
func (b *VirtualHost) routes(service string, rules []*policies.RequestRule) []*routev3.Route {
	var routes []*routev3.Route
	for _, r := range rules {
		for _, m := range r.Match {
			for _, headers := range matchers(m) {
				routes = append(routes, b.route(headers, service, r.Version))
			}
		}
		if r.Whole() {
			return routes
		}
	}
	return append(routes, b.route(nil, service, b.Default))
}

func (b *VirtualHost) route(headers []*routev3.HeaderMatcher, service, version string) *routev3.Route {
	return &routev3.Route{
		Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}, Headers: headers},
		Action: b.action(service, version),
	}
}

// matchers is a set of requests as lists of header matchers: a request is in the set
// when all matchers of one list match.
func matchers(m policies.RequestMatch) [][]*routev3.HeaderMatcher {
	lists := [][]*routev3.HeaderMatcher{nil}
	for i := range m.Tests {
		var longer [][]*routev3.HeaderMatcher
		for _, list := range lists {
			for _, matcher := range testMatchers(&m.Tests[i]) {
				longer = append(longer, append(slices.Clip(list), matcher))
			}
		}
		lists = longer
	}
	if m.Lo == 0 && m.Hi == policies.Slots {
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

// testMatchers is a test as header matchers: it holds when any of them matches. To
// Envoy, a missing header matches no matcher, not even an inverted one, unless it is
// treated as empty. Where that does not help, its absence is a matcher of its own.
func testMatchers(t *policies.HeaderTest) []*routev3.HeaderMatcher {
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
func (b *VirtualHost) action(service, version string) *routev3.Route_Route {
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
	return &routev3.Route_Route{Route: action}
}
