// Package etcd lets clients of package client find services that are registered
// by etcd's gRPC naming. It is a module of its own, and needs nothing of client's,
// so that programs which go through the mesh do not carry etcd's client.
package etcd
