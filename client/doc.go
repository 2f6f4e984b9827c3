// Package client reaches services behind gray from Go programs, by HTTP and by
// gRPC, on behalf of an account.
//
// It stands outside the straight line from documents to live state, as a module of
// its own that needs grpc alone: a service imports it, and it imports nothing else
// of gray. Its tests are in the module of client/example. A request goes one of three
// ways, the first that applies:
//
//  1. Config.Proxy is set: through the mesh. The node's Envoy is an explicit
//     proxy; it sends the request to the version that the documents name.
//  2. The service is named by a domain name: Config.Naming turns it into
//     addresses, and requests take turns among them. Package client/etcd is
//     etcd's gRPC naming.
//  3. The service is IP:port: it is dialled.
//
// A way that fails is no reason to try the next one: only the first knows which
// version an account is to see.
//
// WithAccount puts the account into a context; it travels in the header that
// gray's Envoys route by.
package client
