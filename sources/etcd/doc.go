// Package etcd is the source that looks up endpoints in etcd, where services register
// them in the format of gRPC naming. They are facts, from which policies compiles where
// a version runs. The loop leaves the targets that documents name on a
// board.Discovery, and the source reports to it.
//
// A target counts as it is, even if it is empty, as long as etcd has its history: the
// same cluster, at the same revision or a later one. If etcd has lost its data or is
// another one, the endpoints found before stay in addition to those registered now,
// until the latter are at least half as many.
package etcd
