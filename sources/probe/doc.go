// Package probe is the source that runs a rollout's regression test: it takes one
// verification as a plain value, probes, and hands back what it saw with a verdict.
// It knows nothing of batches and of what follows from a verdict; that is for the
// state machine in policies and the loop.
//
// An overlay ping is a VXLAN packet from the monitor's VTEP to the VIP, so that it
// takes the way of a tenant's traffic over the switch and a gateway server to the
// VM; the reply comes back the same way to the VTEP. Everything else goes out from
// the daemon's host.
//
// A check that could not be made never passes and is never blamed on the release:
// its verdict is Unknown.
package probe
