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

	"github.com/gray-release/gray/reconciler"
)

// gRPC's own client asks for a listener by the host of its target, xds:///HOST,
// and follows it to routes, clusters and endpoints. It knows neither virtual host
// discovery nor vhost_header. So each service has resources for such clients: an
// API listener a host, and one RouteConfiguration under the service's name.

// apiPuts is what changes of services do to these resources. Hosts are taken away
// first, as they may move from one service to another. An error stands in failed.
func apiPuts(changes []reconciler.Change, failed *reconciler.PartialError) ([]put, *reconciler.PartialError) {
	var gone, come []put
	for _, c := range changes {
		if c.Key().Kind != kindVirtualHost {
			continue
		}
		if c.Old != nil {
			for _, host := range c.Old.Body.(*virtualHostBody).Hosts {
				gone = append(gone, put{apiListener, host, nil})
			}
		}
		if c.New == nil {
			gone = append(gone, put{apiRoutes, c.Key().Name, nil})
			continue
		}
		puts, err := apiService(c.New.Name, c.New.Body.(*virtualHostBody))
		if err != nil {
			failed = failed.Add(c.Key(), fmt.Errorf("clients of gRPC cannot be served: %w", err))
			continue
		}
		come = append(come, puts...)
	}
	stays := map[string]bool{}
	for _, p := range come {
		stays[p.name] = stays[p.name] || p.t == apiListener
	}
	gone = slices.DeleteFunc(gone, func(p put) bool { return p.t == apiListener && stays[p.name] })
	return append(gone, come...), failed
}

func apiService(service string, b *virtualHostBody) ([]put, error) {
	routes, err := pack(apiRoutesOf(service, b))
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

// apiRoutesOf sends everything to the default version. The client came here by
// the service's host, so that any authority is this service's.
func apiRoutesOf(service string, b *virtualHostBody) *routev3.RouteConfiguration {
	action := &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: service + "/" + b.Default}}
	if b.Timeout > 0 { // gRPC takes no notice of RouteAction.timeout
		action.MaxStreamDuration = &routev3.RouteAction_MaxStreamDuration{MaxStreamDuration: durationpb.New(b.Timeout)}
	}
	return &routev3.RouteConfiguration{Name: service, VirtualHosts: []*routev3.VirtualHost{{
		Name: service, Domains: []string{"*"},
		Routes: []*routev3.Route{{
			Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
			Action: &routev3.Route_Route{Route: action},
		}},
	}}}
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
		b := svc.body
		if n := len(svc.rules); n > 0 {
			all = append(all, fmt.Sprintf("%s: %d rules by header or share of accounts; who they are about gets %s", service, n, b.Default))
		}
		if n := st.sink.accounts[service]; n > 0 {
			all = append(all, fmt.Sprintf("%s: %d accounts that policies send to another version get %s", service, n, b.Default))
		}
		if b.Retries > 0 {
			all = append(all, fmt.Sprintf("%s: retries", service))
		}
	}
	if len(all) > most {
		all = append(all[:most], fmt.Sprintf("and %d more", len(all)-most))
	}
	return all
}
