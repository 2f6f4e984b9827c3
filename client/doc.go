// Package client lets Go programs reach services behind gray, over HTTP and gRPC, on
// behalf of an account.
//
// It is a module of its own, which needs only grpc and imports nothing else of gray.
// Its tests are in the module client/example. A request takes the first of these ways
// that applies:
//
//  1. Config.Proxy is set: through the mesh. The node's Envoy is an explicit
//     proxy, which sends the request to the version that the documents name.
//  2. The service is a domain name: Config.Naming looks up its addresses, and
//     requests take turns among them. Package client/etcd is etcd's gRPC naming.
//  3. The service is IP:port: it is dialled.
//
// If a way fails, the next one is not tried: only the first knows which version an
// account should see.
//
// WithAccount puts the account into a context. Requests carry it in the header by which
// gray's Envoys route.
package client
