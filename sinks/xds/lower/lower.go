package lower

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unique"

	"google.golang.org/protobuf/proto"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/memo"
	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
)

// Target is the target of every resource of this package.
const Target = "xds"

// The kinds of resources.
const (
	KindCluster     = "Cluster"
	KindEndpoints   = "Endpoints"
	KindVirtualHost = "VirtualHost"
	KindRule        = "Rule"
	KindAccount     = "Account"
	KindListener    = "Listener"
)

// rankOf orders the kinds: a resource refers to lower ranks only.
var rankOf = map[string]int{KindCluster: 1, KindEndpoints: 2, KindVirtualHost: 3, KindRule: 4, KindAccount: 5, KindListener: 6}

// togetherOf marks the kinds that route requests. Their changes of one commit are
// applied together: a part of them would route some requests as neither the commit
// before nor this one does.
var togetherOf = map[string]bool{KindVirtualHost: true, KindRule: true, KindAccount: true}

// Native is a body that is one Envoy message. The other bodies are packed into
// virtual hosts.
type Native interface {
	Message(name string) proto.Message
}

// Unit lowers one unit of the IR to resources; a unit that Envoys have no use for
// makes none.
func Unit(ir *policies.IR, n policies.Name) []*reconciler.Resource {
	switch unit := ir.Get(n).(type) {
	case *requests.Service:
		return service(unit)
	case *requests.AccountRoute:
		body := newAccount(unit.Service+"/"+unit.Account, unit.Rules, unit.Instead)
		return []*reconciler.Resource{resource(KindAccount, body.name, body, unit.Origin)}
	case *requests.Rule:
		body := &Rule{unit.Priority, unit.Version, unit.Match}
		return []*reconciler.Resource{resource(KindRule, n.Name+"/"+unit.Policy, body, unit.Origin)}
	case *policies.Node:
		return []*reconciler.Resource{resource(KindListener, unit.Name, &Listener{unit.Bind, unit.Port}, unit.Origin)}
	}
	return nil
}

func service(svc *requests.Service) []*reconciler.Resource {
	var all []*reconciler.Resource
	for _, v := range svc.Versions {
		name := svc.Name + "/" + v.Name
		all = append(all,
			resource(KindCluster, name, &Cluster{svc.Protocol, checkOf(svc)}, v.Origin),
			resource(KindEndpoints, name, &Endpoints{v.Endpoints, v.Etcd, checkPort(svc.Health), v.Unknown}, v.Origin))
	}
	body := &VirtualHost{svc.Hosts, svc.Default, svc.Timeout, svc.Retries, svc.RouteBy}
	return append(all, resource(KindVirtualHost, svc.Name, body, svc.Origin))
}

// Key is the key of a resource.
func Key(kind, name string) reconciler.Key {
	return reconciler.Key{Target: Target, Kind: kind, Name: name}
}

func resource(kind, name string, body reconciler.Body, origin schema.Position) *reconciler.Resource {
	return &reconciler.Resource{Key: Key(kind, name), Rank: rankOf[kind], Refs: refsOf(name, body), Body: body, Origin: origin, Together: togetherOf[kind]}
}

// refsOf lists the resources that must be live before this one.
func refsOf(name string, body reconciler.Body) []reconciler.Key {
	switch b := body.(type) {
	case *Endpoints:
		return []reconciler.Key{Key(KindCluster, name)}
	case *VirtualHost:
		return []reconciler.Key{Key(KindCluster, name+"/"+b.Default), Key(KindEndpoints, name+"/"+b.Default)}
	case *Rule:
		service, _, _ := strings.Cut(name, "/")
		return versionRefs(service, b.Version)
	case *Account:
		return accountRefs(b)
	}
	return nil
}

// sharedRefs has the references to versions by "service/version". The accounts of a
// version share them: they would be half of an account's memory.
var sharedRefs = memo.New[string, []reconciler.Key](16384)

// versionRefs is what a rule of a service refers to.
func versionRefs(service, version string) []reconciler.Key {
	return sharedRefs.Get(service+"/"+version, func(name string) []reconciler.Key {
		service, _, _ := strings.Cut(name, "/")
		return []reconciler.Key{Key(KindCluster, name), Key(KindEndpoints, name), Key(KindVirtualHost, service)}
	})
}

// accountRefs is versionRefs for all versions that the rules of an account name.
func accountRefs(b *Account) []reconciler.Key {
	service, _ := b.split()
	rules := b.Decision.read().Rules
	if len(rules) == 1 {
		return versionRefs(service, rules[0].Version)
	}
	refs := []reconciler.Key{Key(KindVirtualHost, service)}
	for _, r := range rules {
		for _, ref := range versionRefs(service, r.Version) {
			if !slices.Contains(refs, ref) {
				refs = append(refs, ref)
			}
		}
	}
	return refs
}

// deltaOf says what differs of triples of a word, an old and a new value.
func deltaOf(triples ...string) string {
	var words []string
	for t := range slices.Chunk(triples, 3) {
		if t[1] != t[2] {
			words = append(words, t[0]+t[1]+" -> "+t[2])
		}
	}
	return strings.Join(words, ", ")
}

// CheckName refuses names with characters that Envoy, or the way in which names are
// joined, does not allow.
func CheckName(name string) error {
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '/' {
			return fmt.Errorf("the name %q holds %q; want lower-case letters, digits, dots and dashes", name, c)
		}
	}
	return nil
}

// CheckLabel is CheckName for one part of a joined name.
func CheckLabel(s string) error {
	if s == "" || strings.Contains(s, "/") {
		return fmt.Errorf("%q is not a name; want lower-case letters, digits, dots and dashes", s)
	}
	return CheckName(s)
}

// record is a resource in its stored form. Rank and references follow from the
// key and the body.
type record struct {
	Body   json.RawMessage `json:"body"`
	Origin schema.Position `json:"origin"`
}

// Encode makes the stored form of a resource, without its key.
func Encode(r *reconciler.Resource) ([]byte, error) {
	body, err := json.Marshal(r.Body)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be encoded: %w", r.Key, err)
	}
	return json.Marshal(record{body, r.Origin})
}

// Decode reads what Encode wrote.
func Decode(k reconciler.Key, b []byte) (*reconciler.Resource, error) {
	body := newBody(k)
	if body == nil {
		return nil, fmt.Errorf("%s is not a resource of target %s", k, Target)
	}
	var rec record
	err := json.Unmarshal(b, &rec)
	if err == nil {
		err = json.Unmarshal(rec.Body, body)
	}
	if err != nil {
		return nil, fmt.Errorf("%s cannot be decoded: %w", k, err)
	}
	rec.Origin.Path = unique.Make(rec.Origin.Path).Value()
	return resource(k.Kind, k.Name, body, rec.Origin), nil
}

// newBody is an empty body for a key, nil where the key is not of this target.
func newBody(k reconciler.Key) reconciler.Body {
	if k.Target != Target {
		return nil
	}
	halves := strings.Contains(k.Name, "/")
	switch {
	case k.Kind == KindCluster && halves:
		return new(Cluster)
	case k.Kind == KindEndpoints && halves:
		return new(Endpoints)
	case k.Kind == KindVirtualHost:
		return new(VirtualHost)
	case k.Kind == KindRule && halves:
		return new(Rule)
	case k.Kind == KindAccount && halves:
		return &Account{name: k.Name}
	case k.Kind == KindListener:
		return new(Listener)
	}
	return nil
}
