// Package health is the source that checks the servers behind gateways. Which servers
// are down is a fact, from which policies compiles the hash buckets. The loop leaves
// the servers to check on a board.Health, and the source reports to it.
package health
