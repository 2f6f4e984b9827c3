// Package compose is the sink of what runs on hosts: a docker-compose file a node,
// with the node's Envoy and the services that its document names, kept in a folder.
//
// It stands at the end of the straight line from documents to live state: Lower
// makes the text of a node's file, through compose-go, so that what it says is what
// the Compose Specification means; Observe reads the folder; Apply writes and
// removes files. Carrying the files to their hosts, and running docker compose
// there, is left to what a team has for that. Files of others in the folder are not
// touched: gray's have a name and a first line of their own (see Folder).
//
// Documents come in by pull requests, so nothing that they name (env_file,
// label_file) is opened where gray runs.
//
// The package also has the text of a systemd unit, for hosts without containers.
package compose
