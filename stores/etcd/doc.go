// Package etcd is the store of several replicas. Replica elects the leader, Lead.Store
// is the leader's store, fenced by the election, and the followers read it with
// Replica.Follow.
package etcd
