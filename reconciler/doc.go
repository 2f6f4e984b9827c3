// Package reconciler keeps the live state at what the last good commit means.
//
// It stands between the IR of package policies and the sinks: sinks lower the
// IR to Resources (the desired State), Observe tells what is live, Diff and
// Plan say what differs, Apply does it. The planner is pure; all I/O is in
// sources and sinks; one loop owns all state. What a Plan prints is the value
// that is applied.
package reconciler
