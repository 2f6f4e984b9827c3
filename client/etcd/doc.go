// Package etcd lets package client find services that are registered with etcd's gRPC
// naming. It is a module of its own, so that programs that go through the mesh do not
// depend on etcd's client.
package etcd
