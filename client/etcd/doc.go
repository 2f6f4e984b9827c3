// Package etcd lets clients of package client find services that are registered
// by etcd's gRPC naming. It is a package of its own so that programs which go
// through the mesh do not carry etcd's client.
package etcd
