package lower

import (
	_ "embed"
	"net/netip"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/gray-release/gray/reconciler"
)

//go:embed account.lua
var accountLua string

// Listener is where the Envoy of a node listens, as an explicit proxy.
type Listener struct {
	Bind netip.Addr `json:"bind"`
	Port uint16     `json:"port"`
}

// Equal implements reconciler.Body.
func (b *Listener) Equal(o reconciler.Body) bool {
	x, ok := o.(*Listener)
	return ok && *b == *x
}

// String implements reconciler.Body.
func (b *Listener) String() string {
	return "proxy on " + netip.AddrPortFrom(b.Bind, b.Port).String()
}

// Delta implements reconciler.Body.
func (b *Listener) Delta(old reconciler.Body) string { return reconciler.FromTo(old, b) }

// Message implements Native.
func (b *Listener) Message(node string) proto.Message {
	manager := &hcmv3.HttpConnectionManager{
		StatPrefix: "gray",
		CodecType:  hcmv3.HttpConnectionManager_AUTO, // HTTP/1, and HTTP/2 with prior knowledge
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
			ConfigSource: patientSource(), RouteConfigName: RoutesName,
		}},
		HttpProtocolOptions: &corev3.Http1ProtocolOptions{
			AcceptHttp_10: true, AllowAbsoluteUrl: wrapperspb.Bool(true), DefaultHostForHttp_10: "no-host.invalid",
		},
		StripPortMode:     &hcmv3.HttpConnectionManager_StripAnyHostPort{StripAnyHostPort: true},
		NormalizePath:     wrapperspb.Bool(true),
		StreamIdleTimeout: durationpb.New(0), // a gRPC stream may be idle for long
		LocalReplyConfig:  localReplies(),
		HttpFilters: []*hcmv3.HttpFilter{
			httpFilter(accountFilter, &luav3.Lua{DefaultSourceCode: inline(accountLua)}),
			httpFilter("envoy.filters.http.router", &routerv3.Router{}),
		},
	}
	return &listenerv3.Listener{
		Name:    node,
		Address: SocketAddress(b.Bind.String(), b.Port),
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
			Name:       "envoy.filters.network.http_connection_manager",
			ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: Any(manager)},
		}}}},
	}
}

func httpFilter(name string, config proto.Message) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: Any(config)}}
}

func inline(text string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: text}}
}

// localReplies is the answers to CONNECT and to a host that no service has.
func localReplies() *hcmv3.LocalReplyConfig {
	connect := &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_HeaderFilter{
		HeaderFilter: &accesslogv3.HeaderFilter{Header: &routev3.HeaderMatcher{
			Name: ":method",
			HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
				MatchPattern: &matcherv3.StringMatcher_Exact{Exact: "CONNECT"},
			}},
		}},
	}}
	noRoute := &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ResponseFlagFilter{
		ResponseFlagFilter: &accesslogv3.ResponseFlagFilter{Flags: []string{"NR"}},
	}}
	return &hcmv3.LocalReplyConfig{Mappers: []*hcmv3.ResponseMapper{
		reply(connect, "gray: CONNECT is off; send the request itself to this proxy\n"),
		reply(noRoute, "gray: no service has the host %REQ(:AUTHORITY)%\n"),
	}}
}

func reply(when *accesslogv3.AccessLogFilter, text string) *hcmv3.ResponseMapper {
	return &hcmv3.ResponseMapper{Filter: when, BodyFormatOverride: &corev3.SubstitutionFormatString{
		Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: inline(text)},
	}}
}
