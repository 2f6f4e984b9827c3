// Package schema is what users write: the documents of a repository, read
// strictly and with their places.
//
// It is the first step of the straight line
//
//	Snapshot -> documents -> IR -> desired State -> Plan -> Apply -> observed State
//
// A Source hands over a Snapshot (one commit, or one state of a folder); a Set
// reads the files that differ from the ones it read last and holds the typed
// documents, or every error with its file, line and field. What the documents
// mean is the business of package policies. Nothing here touches a network, a
// clock or a file system.
package schema
