// Package p4rt is the sink that programs switches by P4Runtime: targets
// "p4rt/<switch>". It lowers gateways and their rules to entries of the gray
// pipeline (package pipeline), reads back what is on a switch and writes what
// differs.
//
// gray owns the whole pipeline of a switch: an entry that nothing in Git asks
// for is foreign, shows as drift and is deleted. A pool and its hash buckets are
// one resource, as only together they mean something; of its buckets only those
// that differ are written, or, where many do, the other of its two generations.
package p4rt
