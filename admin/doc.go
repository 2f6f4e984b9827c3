// Package admin is the daemon's HTTP API on loopback, and its client: status,
// and the dry run behind `gray diff`.
package admin
