// Package bgp is the sink that announces VIPs: targets "bgp/<switch>". Each
// switch whose document has bgp gets a BGP speaker of its own in this process
// (GoBGP, without gRPC and without a listening port: it dials its neighbors). It
// lowers a switch to the speaker and its neighbors, and each VIP on it to one
// path.
//
// A path refers to the VIP's entry on the switch, which is another target: it is
// announced when that is live, and withdrawn before that goes. A VIP without a
// healthy server keeps its path, which is not announced.
//
// Speakers are restarting speakers in the sense of RFC 4724: neighbors keep the
// routes while the daemon is away. After a start no session is opened before the
// first paths are there, so that the End-of-RIB marker tells the truth.
//
// Nothing is learned from neighbors. What they announce takes part in nothing
// and is not passed on.
package bgp
