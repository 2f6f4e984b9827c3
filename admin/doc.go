// Package admin is what people see of the daemon: the HTTP API on loopback and its
// client (status, traces, rollouts and their verbs, and the dry run behind `gray
// diff`), and webhooks for events.
package admin
