// Package etcd is the source that looks endpoints up in etcd, where services have
// registered them in the format of gRPC naming: what it finds is a fact beside the
// documents, from which policies compiles where a version runs. It takes the targets
// that the documents name from the loop's board and reports to it.
//
// A target is believed as it is, also an empty one, as long as etcd has its history:
// it is the same cluster, at the same revision or a later one. Where etcd has lost
// its data or is another one, what was found before stays beside what is registered
// now, until that is at least half as much.
package etcd
