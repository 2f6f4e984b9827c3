// Package sinktest is the conformance suite that every sink passes: what package
// reconciler may expect of a Sink, tried against a live target.
//
// A sink's own test describes, in a Rig, how its target is made, disturbed and
// killed; the suite lowers documents for it, applies plans as the reconciler
// does and compares what is read back.
package sinktest
