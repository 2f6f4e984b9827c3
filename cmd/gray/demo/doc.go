// Package demo shows gray on one machine: every part of it runs in this process but for
// Envoy and git, and the verbs that it shows are the real ones.
package demo
