// Package p4rt is the sink that programs switches by P4Runtime: targets
// "p4rt/<switch>". It lowers gateways and their rules to entries of the gray
// pipeline (package pipeline), reads back what is on a switch and writes what
// differs.
//
// gray owns the whole pipeline of a switch: an entry that no document asks for is
// foreign, shows as drift and is deleted. A pool and its hash buckets are one
// resource, as they have a meaning only together. Only the buckets that differ are
// written, or, where many do, the other of the pool's two generations.
package p4rt
