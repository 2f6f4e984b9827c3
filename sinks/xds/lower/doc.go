// Package lower makes Envoy configuration of gray's IR: first resources, which the
// loop compares, prints and stores, then their Envoy messages.
// It is pure and holds no state but small caches.
//
// In the order in which a resource passes:
//
//	lower.go        a unit of the IR to resources: kinds, keys, names, ranks, references,
//	                and their stored form
//	cluster.go      the bodies: a version of a service,
//	endpoints.go    its endpoints,
//	virtualhost.go  a service with its hosts and its default version,
//	rule.go         a rule for all requests of a service, and the rules of one account,
//	listener.go     the listener of a node
//	route.go        rules to routes, for Envoys and for gRPC's own client
//	message.go      the parts that messages share
//
// Clusters, endpoints and listeners are one message each. Virtual hosts, rules and
// accounts are packed into messages by package xds, as which of them share one
// depends on all of them.
package lower
