// Package xds is the sink that configures Envoys: the target "xds". It lowers
// services, rules, accounts and nodes to resources, packs those into what Envoy
// reads, and serves that by ADS; what Envoys acknowledge or refuse goes back to
// the loop by key.
//
//	IR -> Lower -> resources -> packer -> wire -> one stream per Envoy
//
// On the wire an account is one domain of a virtual host: a Lua filter makes
// the header x-gray-key, at first of the host, then of the service that has it and
// the account. RouteConfiguration.vhost_header has Envoy look the virtual host up
// by it (a hash look-up, however long the list), and VHDS delivers the virtual
// hosts in small shards, so that one more account resends one shard. Rules by
// header and share of accounts are routes within the virtual hosts.
//
// What is served is kept in the store: a restarted daemon serves the last good
// state at once, and as versions are content hashes, Envoys that are up to date
// are sent nothing.
//
// With TLS, an Envoy is known by its certificate, which names its Node. Clients that
// speak state of the world only, such as gRPC's own, are served a part of the same
// (see grpc.go).
package xds
