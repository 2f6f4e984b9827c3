// Package etcd is where several daemons meet: Replica elects the one that leads, and
// Lead.Store is the store of that one, fenced by the election. The others read it by
// Replica.Follow.
package etcd
