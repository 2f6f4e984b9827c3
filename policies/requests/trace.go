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

// The longest routing header and the longest account in it, in bytes. A longer one
// counts as no account.
const (
	maxRouteHeader = 16384
	MaxAccount     = 256
)

// accountOf returns the account in a routing header: the first value of key in pairs
// like those of a cookie ("account_id=50002001; region=cn-bj2"). Pairs may be in any
// order. Names and values may have spaces around them, and a value may be in double
// quotes. Commas separate pairs too, as they join the lines of a header that comes more
// than once. It returns "" if there is no account.
func accountOf(header, key string) string {
	if len(header) > maxRouteHeader {
		return ""
	}
	for rest := header; rest != ""; {
		rest = strings.TrimLeft(rest, spaces+";,")
		end := strings.IndexAny(rest, "=;,")
		if end < 0 || rest[end] != '=' {
			rest = rest[max(end, 0):]
			if end < 0 {
				break
			}
			continue
		}
		name := strings.TrimRight(rest[:end], spaces)
		var value string
		value, rest = pairValue(rest[end+1:])
		if name == key {
			if len(value) > MaxAccount {
				return ""
			}
			return value
		}
	}
	return ""
}

// spaces are the bytes that are trimmed around names and values.
const spaces = " \t\n\v\f\r"

// pairValue reads the value after "=" and returns it with the rest.
func pairValue(s string) (value, rest string) {
	s = strings.TrimLeft(s, spaces)
	if strings.HasPrefix(s, `"`) {
		if end := strings.IndexByte(s[1:], '"'); end >= 0 {
			after := strings.TrimLeft(s[end+2:], spaces)
			if after == "" || after[0] == ';' || after[0] == ',' {
				return s[1 : end+1], after
			}
		}
	}
	end := strings.IndexAny(s, ";,")
	if end < 0 {
		end = len(s)
	}
	return strings.TrimRight(s[:end], spaces), s[end:]
}

// slotOf is the slot of an account, 0 to 99. The first n percent of the accounts are
// those with a slot below n. Requests without an account have the last slot.
func slotOf(account string) int {
	if account == "" {
		return Slots - 1
	}
	h := uint32(2166136261) // FNV-1a; its lower half alone spreads digits badly
	for i := range len(account) {
		h = (h ^ uint32(account[i])) * 16777619
	}
	return int((h ^ h>>16) % Slots)
}
