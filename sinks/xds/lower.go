package xds

import (
	"fmt"
	"strings"
	"sync"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
)

// The header and key that account.lua reads.
const (
	routeHeader = "x-ucloud-routeby"
	routeKey    = "account_id"
)

// Lower implements reconciler.Sink.
func (s *Sink) Lower(ir *policies.IR, n policies.Name) ([]*reconciler.Resource, error) {
	switch unit := ir.Get(n).(type) {
	case *policies.Service:
		if r := unit.RouteBy; r != (policies.RouteBy{}) && r != (policies.RouteBy{Header: routeHeader, Key: routeKey}) {
			return nil, fmt.Errorf("%s: accounts are read from key %s of header %s only; leave routeBy out", unit.Origin, routeKey, routeHeader)
		}
		return lowerService(unit), nil
	case *policies.AccountRoute:
		name := unit.Service + "/" + unit.Account
		return []*reconciler.Resource{resource(kindAccount, name, &accountBody{name, unit.Version}, unit.Origin)}, nil
	case *policies.Node:
		return []*reconciler.Resource{resource(kindListener, unit.Name, &listenerBody{unit.Bind, unit.Port}, unit.Origin)}, nil
	}
	return nil, nil
}

func lowerService(svc *policies.Service) []*reconciler.Resource {
	var all []*reconciler.Resource
	for _, v := range svc.Versions {
		name := svc.Name + "/" + v.Name
		all = append(all,
			resource(kindCluster, name, &clusterBody{svc.Protocol, checkOf(svc)}, v.Origin),
			resource(kindEndpoints, name, &endpointsBody{v.Endpoints, v.Etcd, checkPort(svc.Health), v.Unknown}, v.Origin))
	}
	body := &virtualHostBody{svc.Hosts, svc.Default, svc.Timeout, svc.Retries}
	return append(all, resource(kindVirtualHost, svc.Name, body, svc.Origin))
}

func key(kind, name string) reconciler.Key {
	return reconciler.Key{Target: Target, Kind: kind, Name: name}
}

func resource(kind, name string, body reconciler.Body, origin schema.Position) *reconciler.Resource {
	return &reconciler.Resource{Key: key(kind, name), Rank: rankOf[kind], Refs: refsOf(name, body), Body: body, Origin: origin}
}

// refsOf is what has to be live before a resource.
func refsOf(name string, body reconciler.Body) []reconciler.Key {
	switch b := body.(type) {
	case *endpointsBody:
		return []reconciler.Key{key(kindCluster, name)}
	case *virtualHostBody:
		return []reconciler.Key{key(kindCluster, name+"/"+b.Default), key(kindEndpoints, name+"/"+b.Default)}
	case *accountBody:
		return accountRefs(b)
	}
	return nil
}

// sharedRefs holds the references of accounts by "service/version". All accounts
// of one version share them, which is half of what an account would weigh.
var sharedRefs sync.Map

func accountRefs(b *accountBody) []reconciler.Key {
	service, _, _ := strings.Cut(b.name, "/")
	version := service + "/" + b.Version
	if refs, ok := sharedRefs.Load(version); ok {
		return refs.([]reconciler.Key)
	}
	refs, _ := sharedRefs.LoadOrStore(version, []reconciler.Key{
		key(kindCluster, version), key(kindEndpoints, version), key(kindVirtualHost, service),
	})
	return refs.([]reconciler.Key)
}
