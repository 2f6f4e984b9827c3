// Package probe is the source that runs the probes of rollouts. A probe is one
// regression test of a batch: a Request with the tests to make, and a Result with what
// they found and a verdict. The package does not know what follows from a verdict; that
// is up to the state machine in policies/rollout and to the loop, with which it talks
// through a board.Probes.
//
// An overlay ping is a VXLAN packet from the monitor's VTEP to the VIP. It takes the
// same path as a tenant's traffic: through the switch and a gateway server to the VM.
// The reply comes back to the VTEP. All other tests start at the daemon's host.
//
// A test that could not be made never passes and is never blamed on the release: its
// verdict is Unknown.
package probe
