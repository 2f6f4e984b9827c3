// Package demo shows gray on one machine. Everything except Envoy and git runs in this
// process, and the verbs that it shows are the real ones.
package demo
