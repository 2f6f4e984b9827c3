// Package compose is the sink for what runs on hosts. It keeps one docker-compose
// file per node in a folder, with the node's Envoy and the services that its
// document names.
//
// Lower makes the text of a node's file through compose-go, so that fields mean what
// the Compose Specification says. Observe reads the folder. Apply writes and removes
// files. Copying the files to their hosts and running docker compose there is up to
// the team's own tools. Other files in the folder are not touched: gray's have a name
// and a first line of their own (see Folder).
//
// Documents come from pull requests, so no file that they name (env_file, label_file)
// is opened where gray runs.
//
// The package also makes a systemd unit, for hosts without containers.
package compose
