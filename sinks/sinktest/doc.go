// Package sinktest is the conformance suite that every sink passes. It tests against a
// live target what package reconciler expects of a Sink.
//
// A sink's own test describes in a Rig how its target is started, disturbed and killed.
// The suite lowers documents, applies plans as the reconciler does, and compares what it
// reads back.
package sinktest
