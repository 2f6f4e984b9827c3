package xds

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gray-release/gray/policies/requests"
)

// gRPC's own client asks for a listener by the host of its target, xds:///HOST,
// and follows it to routes, clusters and endpoints. It knows neither virtual host
// discovery nor vhost_header. So each service has resources for such clients: an
// API listener a host, and one RouteConfiguration under the service's name.

// stageAPI stages these resources of the services that change. Hosts are taken
// away first, as they may move from one service to another.
func (p *packer) stageAPI(st *staged) {
	names := maps.Clone(st.services)
	for name := range st.rules {
		names[name] = nil
	}
	var gone, come []put
	stays := map[string]bool{}
	for name := range names {
		if old := p.services[name]; old != nil {
			for _, host := range old.body.Hosts {
				gone = append(gone, put{apiListener, host, nil})
			}
		}
		body := p.bodyOf(st, name)
		if body == nil {
			gone = append(gone, put{apiRoutes, name, nil})
			continue
		}
		puts, err := apiService(name, body, p.rulesOf(st, name))
		if err != nil {
			st.failed = st.failed.Add(key(kindVirtualHost, name), fmt.Errorf("clients of gRPC cannot be served: %w", err))
			continue
		}
		come = append(come, puts...)
		for _, host := range body.Hosts {
			stays[host] = true
		}
	}
	gone = slices.DeleteFunc(gone, func(p put) bool { return p.t == apiListener && stays[p.name] })
	st.puts = append(append(st.puts, gone...), come...)
}

func apiService(service string, b *virtualHostBody, rules []*requests.Rule) ([]put, error) {
	routes, err := pack(apiRoutesOf(service, b, rules))
	if err != nil {
		return nil, err
	}
	puts := []put{{apiRoutes, service, routes}}
	for _, host := range b.Hosts {
		if strings.HasPrefix(host, "*.") {
			continue // these clients ask by name
		}
		listener, err := pack(apiListenerOf(host, service))
		if err != nil {
			return nil, err
		}
		puts = append(puts, put{apiListener, host, listener})
	}
	return puts, nil
}

// apiListenerOf is the listener of a host, which no address belongs to.
func apiListenerOf(host, service string) *listenerv3.Listener {
	manager := &hcmv3.HttpConnectionManager{
		StatPrefix:     "gray",
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{ConfigSource: adsSource(), RouteConfigName: service}},
		HttpFilters:    []*hcmv3.HttpFilter{httpFilter("envoy.filters.http.router", &routerv3.Router{})},
	}
	return &listenerv3.Listener{Name: host, ApiListener: &listenerv3.ApiListener{ApiListener: mustAny(manager)}}
}

// apiRoutesOf is the rules of a service for requests whose account nobody sees. The
// client came here by the service's host, so that any authority is this service's.
func apiRoutesOf(service string, b *virtualHostBody, rules []*requests.Rule) *routev3.RouteConfiguration {
	h := &routev3.VirtualHost{Name: service, Domains: []string{"*"}}
	whole := false
	for _, r := range requests.OrderRules(rules, nil, nil) {
		for _, m := range r.Match {
			if m.Hi != requests.Slots {
				continue // a share of the accounts that those without one do not belong to
			}
			for _, headers := range apiHeaders(m.Tests) {
				h.Routes = append(h.Routes, apiRoute(headers, service, r.Version, b))
			}
		}
		whole = whole || r.Whole()
	}
	if !whole {
		h.Routes = append(h.Routes, apiRoute(nil, service, b.Default, b))
	}
	return &routev3.RouteConfiguration{Name: service, VirtualHosts: []*routev3.VirtualHost{h}}
}

// apiHeaders is tests as lists of matchers, any of which does. gRPC has no way to
// take a missing header for an empty one: its absence is a matcher of its own.
func apiHeaders(tests []requests.HeaderTest) [][]*routev3.HeaderMatcher {
	lists := [][]*routev3.HeaderMatcher{nil}
	for i := range tests {
		matchers := nativeTest(&tests[i])
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

func apiRoute(headers []*routev3.HeaderMatcher, service, version string, b *virtualHostBody) *routev3.Route {
	action := &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: service + "/" + version}}
	if b.Timeout > 0 { // gRPC takes no notice of RouteAction.timeout
		action.MaxStreamDuration = &routev3.RouteAction_MaxStreamDuration{MaxStreamDuration: durationpb.New(b.Timeout)}
	}
	return &routev3.Route{
		Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}, Headers: headers},
		Action: &routev3.Route_Route{Route: action},
	}
}

// cannot lists what a client with a state-of-the-world stream is not given of the
// services that it has asked for. The caller holds the stream's lock.
func (st *stream) cannot() []string {
	if !st.sotw {
		return nil
	}
	st.sink.mu.RLock()
	defer st.sink.mu.RUnlock()
	services := map[string]bool{}
	for host := range st.types[typeListener].names {
		if service := st.sink.packer.owners[host]; service != "" {
			services[service] = true
		}
	}
	const most = 20
	var all []string
	for _, service := range slices.Sorted(maps.Keys(services)) {
		svc := st.sink.packer.services[service]
		shares := 0
		for _, b := range svc.rules {
			if slices.ContainsFunc(b.Match, func(m requests.Match) bool { return m.Lo != 0 || m.Hi != requests.Slots }) {
				shares++
			}
		}
		if n := st.sink.accounts[service]; n > 0 {
			all = append(all, fmt.Sprintf("%s: %d accounts of policies count as requests without an account", service, n))
		}
		if shares > 0 {
			all = append(all, fmt.Sprintf("%s: the shares of accounts of %d policies: all count as requests without an account", service, shares))
		}
		r := st.sink.state[key(kindCluster, service+"/"+svc.body.Default)]
		if r != nil && r.Body.(*clusterBody).Check != (check{}) {
			all = append(all, fmt.Sprintf("%s: health checks", service))
		}
		if svc.body.Retries > 0 {
			all = append(all, fmt.Sprintf("%s: retries", service))
		}
	}
	if len(all) > most {
		all = append(all[:most], fmt.Sprintf("and %d more", len(all)-most))
	}
	return all
}
