package requests

import (
	"fmt"
	"iter"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/schema"
)

// Request is what a proxy sees of a request.
type Request struct {
	Host    string              // Host or :authority, with or without a port
	Path    string              // does not affect the version, only shown
	Headers map[string][]string // the lines of each, by lower-case name
}

// Trace is the path of one request through an Envoy.
type Trace struct {
	Service   string         `json:"service,omitempty"`
	Account   string         `json:"account,omitempty"` // of the request
	Slot      int            `json:"slot"`              // of the account, 0 to 99
	Steps     []packets.Step `json:"steps"`             // in Envoy's order
	Version   string         `json:"version,omitempty"`
	Cluster   string         `json:"cluster,omitempty"`
	Endpoints []Endpoint     `json:"endpoints,omitempty"` // as far as the documents list them
	NotFound  string         `json:"notFound,omitempty"`  // why the response is 404
}

// SameWay tells whether two requests go to the same endpoints.
func (t *Trace) SameWay(o *Trace) bool {
	return (t.NotFound == "") == (o.NotFound == "") && t.Cluster == o.Cluster && slices.Equal(t.Endpoints, o.Endpoints)
}

// Routes is the configuration of an Envoy.
type Routes interface {
	Services() iter.Seq[*Service]
	Rules(service string) []*Rule                  // for all requests, by policy
	Account(service, account string) *AccountRoute // nil: none
}

// Follow traces a request through an Envoy that is configured with the routes. It is
// the request model.
func Follow(routes Routes, r Request) *Trace {
	t := &Trace{}
	host := hostOf(r.Host)
	svc, by := serviceOf(routes, host)
	if svc == nil {
		t.NotFound = fmt.Sprintf("no Service has the host %s", host)
		t.Steps = append(t.Steps, packets.Step{Table: "host"})
		return t
	}
	t.Service = svc.Name
	t.step("host", by, "Service "+svc.Name, svc.Origin)
	t.Account = accountOf(strings.Join(r.Headers[svc.RouteBy.Header], ","), svc.RouteBy.Key)
	t.Slot = slotOf(t.Account)
	who := "none"
	if t.Account != "" {
		who = t.Account
	}
	t.step("account", svc.RouteBy.String(), fmt.Sprintf("%s, among the first %d%%", who, t.Slot+1), svc.Origin)
	t.Version = svc.Default
	var own AccountRoute
	if route := routes.Account(svc.Name, t.Account); route != nil && t.Account != "" {
		own = *route
	}
	decided := false
	for _, rule := range OrderRules(routes.Rules(svc.Name), own.Rules, own.Instead) {
		holds := !decided && rule.Holds(t.Slot, r.Headers)
		match := rule.MatchString()
		if slices.ContainsFunc(own.Rules, func(o Rule) bool { return o.Policy == rule.Policy }) {
			match = fmt.Sprintf("account %s: %s", t.Account, match)
		}
		t.Steps = append(t.Steps, packets.Step{
			Table: "rule " + rule.Policy, Entry: fmt.Sprintf("priority %d: %s", rule.Priority, match), Says: "version " + rule.Version,
			Policy: rule.Policy, Origin: rule.Origin, Wins: holds,
		})
		if holds {
			decided, t.Version = true, rule.Version
		}
	}
	for _, policy := range own.Instead {
		if !slices.ContainsFunc(t.Steps, func(s packets.Step) bool { return s.Policy == policy }) {
			t.Steps = append(t.Steps, packets.Step{Table: "rule " + policy, Policy: policy}) // it excludes the account
		}
	}
	t.Steps = append(t.Steps, packets.Step{Table: "default", Entry: "all requests", Says: "version " + svc.Default, Origin: svc.Origin, Wins: !decided})
	version := svc.Version(t.Version)
	t.Cluster, t.Endpoints = svc.Name+"/"+t.Version, version.Endpoints
	t.step("cluster", t.Cluster, endpointsText(version), version.Origin)
	return t
}

func (t *Trace) step(table, entry, says string, origin schema.Position) {
	t.Steps = append(t.Steps, packets.Step{Table: table, Entry: entry, Says: says, Origin: origin})
}

func endpointsText(v *ServiceVersion) string {
	if v.Unknown {
		return "those of etcd " + v.Etcd
	}
	words := make([]string, len(v.Endpoints))
	for i, e := range v.Endpoints {
		words[i] = netip.AddrPortFrom(e.Address, e.Port).String()
	}
	if len(words) == 0 {
		return "no endpoints in the documents"
	}
	return strings.Join(words, " ")
}

// hostOf is a Host value as Envoy looks it up: lower case, without port.
func hostOf(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.ToLower(host)
}

// serviceOf finds the service of a host, and the entry of its hosts that matches: an
// exact one, or else the longest wildcard.
func serviceOf(routes Routes, host string) (svc *Service, by string) {
	for s := range routes.Services() {
		for _, h := range s.Hosts {
			suffix, wild := strings.CutPrefix(h, "*")
			holds := h == host || wild && len(host) > len(suffix) && strings.HasSuffix(host, suffix)
			if better := by == "" || h == host || by != host && len(h) > len(by); holds && better {
				svc, by = s, h
			}
		}
	}
	return svc, by
}
