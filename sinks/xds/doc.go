// Package xds is the sink of the target "xds": it serves Envoys, and gRPC's own
// client, by ADS. In the order in which a resource passes:
//
//	lower/        the IR to resources, and the Envoy message of each (pure)
//	sink.go       Lower, Observe, Apply: the state, and its copy in the store
//	packer.go     resources to messages: which share one, and which cannot be served
//	shard.go      the accounts of a service as virtual hosts
//	wire.go       the messages that are served, in the order of their last change
//	server.go     the gRPC server: one stream for each client
//	admission.go  the open streams and their bounds
//	tls.go        certificates: who a client is
//	stream.go     what a stream knows of its client: subscriptions, ACKs, NACKs
//	send.go       the next response of a stream
//	sotw.go       a SotW stream translated to a delta stream and back
//	proxies.go    the status of clients, and what they refuse by key
//
// Beside that path, render.go prints the messages, and bootstrap.go makes the
// bootstrap of a node's Envoy. Package lower imports nothing of this one.
//
// An account is a domain of a virtual host (ADR 2). A Lua filter sets the header
// x-gray-key, first to the host, then to service and account, and
// RouteConfiguration.vhost_header has Envoy find the virtual host by it: one hash
// look-up, however many accounts there are. VHDS delivers the accounts in small
// shards, so that one more account resends one shard. Rules by header and by share
// of accounts are routes within the virtual hosts.
//
// What is served is also in the store: a restarted daemon serves the last good state
// at once. Versions are hashes of the content, so an Envoy that is up to date is sent
// nothing. ADR 4 says why go-control-plane's own server and cache are not used.
package xds
