// Package policies is what the documents mean: the IR in gray's own words, the
// compiler that makes it, precedence and conflicts, the fewest rules that say it,
// consistent hashing, the state machine of rollouts, and the flow model that follows
// a packet through it.
//
// It is the second step of the straight line, between the documents of package
// schema and the native resources that each sink lowers the IR to. It is pure:
// no YAML, no protobuf, no vendor type, no I/O and no clock. Equal documents
// and equal numbers (IDs) and progress give an equal IR, whatever was compiled
// before. A Rollout is moved on by Step, which is told what time it is.
package policies
