// Package xds is the sink that configures Envoys: the target "xds". It lowers
// services, accounts and nodes to resources, packs those into what Envoy reads,
// and serves that by delta ADS; what Envoys acknowledge or refuse goes back to
// the loop by key.
//
//	IR -> Lower -> resources -> packer -> wire -> one stream per Envoy
//
// On the wire an account is one domain of a virtual host: a Lua filter makes
// the header x-gray-key of host and account, RouteConfiguration.vhost_header
// has Envoy look the virtual host up by it (one hash lookup, however long the
// list), and VHDS delivers the virtual hosts in small shards, so that one more
// account resends one shard.
//
// Clients with a state-of-the-world stream, which is gRPC's own, get what they
// can use of the same: sotw.go translates their stream, grpc.go makes listeners
// and routes for them.
//
// What is served is kept in the store: a restarted daemon serves the last good
// state at once, and as versions are content hashes, Envoys that are up to date
// are sent nothing.
package xds
