// Package policies is what the documents mean: the IR in gray's own words and the
// compiler that makes it, with precedence, conflicts and the sizes of tables.
//
// It is the second step of the straight line, between the documents of package
// schema and the native resources that each sink lowers the IR to. It is pure: no
// YAML, no protobuf, no vendor type, no I/O and no clock. Equal documents, facts and
// IDs give an equal IR, whatever was compiled before.
//
// Below it are three packages that are pure too and do not import the compiler:
// packets (sets of packets, flow rules, hashing, what a switch does with a packet),
// requests (sets of requests, routes, what an Envoy does with a request) and rollout
// (the state machine of rollouts).
package policies
