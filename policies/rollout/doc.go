// Package rollout is the state machine of rollouts: Networks move to a version batch
// by batch, each batch is tested, and a failure pauses the rollout or rolls it back.
//
// It is pure: (spec, state, observation, now) gives a new state and the probes to run.
// The compiler makes the Spec from the documents and applies the Progress; package
// rollout imports neither the compiler nor anything that does I/O or reads a clock.
package rollout
