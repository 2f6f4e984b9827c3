package xds

import (
	"slices"
	"strings"
	"sync"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
)

// Lower implements reconciler.Sink.
func (s *Sink) Lower(ir *policies.IR, n policies.Name) ([]*reconciler.Resource, error) {
	switch unit := ir.Get(n).(type) {
	case *requests.Service:
		return lowerService(unit), nil
	case *requests.AccountRoute:
		body := newAccount(unit.Service+"/"+unit.Account, unit.Rules, unit.Instead)
		return []*reconciler.Resource{resource(kindAccount, body.name, body, unit.Origin)}, nil
	case *requests.Rule:
		body := &ruleBody{unit.Priority, unit.Version, unit.Match}
		return []*reconciler.Resource{resource(kindRule, n.Name+"/"+unit.Policy, body, unit.Origin)}, nil
	case *policies.Node:
		return []*reconciler.Resource{resource(kindListener, unit.Name, &listenerBody{unit.Bind, unit.Port}, unit.Origin)}, nil
	}
	return nil, nil
}

func lowerService(svc *requests.Service) []*reconciler.Resource {
	var all []*reconciler.Resource
	for _, v := range svc.Versions {
		name := svc.Name + "/" + v.Name
		all = append(all,
			resource(kindCluster, name, &clusterBody{svc.Protocol, checkOf(svc)}, v.Origin),
			resource(kindEndpoints, name, &endpointsBody{v.Endpoints, v.Etcd, checkPort(svc.Health), v.Unknown}, v.Origin))
	}
	body := &virtualHostBody{svc.Hosts, svc.Default, svc.Timeout, svc.Retries, svc.RouteBy}
	return append(all, resource(kindVirtualHost, svc.Name, body, svc.Origin))
}

func key(kind, name string) reconciler.Key {
	return reconciler.Key{Target: Target, Kind: kind, Name: name}
}

func resource(kind, name string, body reconciler.Body, origin schema.Position) *reconciler.Resource {
	return &reconciler.Resource{Key: key(kind, name), Rank: rankOf[kind], Refs: refsOf(name, body), Body: body, Origin: origin, Together: togetherOf[kind]}
}

// refsOf is what has to be live before a resource.
func refsOf(name string, body reconciler.Body) []reconciler.Key {
	switch b := body.(type) {
	case *endpointsBody:
		return []reconciler.Key{key(kindCluster, name)}
	case *virtualHostBody:
		return []reconciler.Key{key(kindCluster, name+"/"+b.Default), key(kindEndpoints, name+"/"+b.Default)}
	case *ruleBody:
		service, _, _ := strings.Cut(name, "/")
		return versionRefs(service, b.Version)
	case *accountBody:
		return accountRefs(b)
	}
	return nil
}

// sharedRefs holds the references to versions by "service/version". All accounts
// of one version share them, which is half of what an account would weigh.
var sharedRefs sync.Map

// versionRefs is what a rule of a service needs to send to a version.
func versionRefs(service, version string) []reconciler.Key {
	name := service + "/" + version
	if refs, ok := sharedRefs.Load(name); ok {
		return refs.([]reconciler.Key)
	}
	refs, _ := sharedRefs.LoadOrStore(name, []reconciler.Key{
		key(kindCluster, name), key(kindEndpoints, name), key(kindVirtualHost, service),
	})
	return refs.([]reconciler.Key)
}

// accountRefs is versionRefs for all versions that the rules of an account name.
func accountRefs(b *accountBody) []reconciler.Key {
	service, _ := b.split()
	rules := b.decision().Rules
	if len(rules) == 1 {
		return versionRefs(service, rules[0].Version)
	}
	refs := []reconciler.Key{key(kindVirtualHost, service)}
	for _, r := range rules {
		for _, ref := range versionRefs(service, r.Version) {
			if !slices.Contains(refs, ref) {
				refs = append(refs, ref)
			}
		}
	}
	return refs
}
