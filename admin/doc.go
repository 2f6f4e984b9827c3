// Package admin is the daemon's face to people: its HTTP API on loopback and the
// client of that (status, traces, rollouts and what people say about them, and the
// dry run behind `gray diff`), and webhooks that are told of events.
package admin
