// Package schema is what users write: the documents of a repository. It reads them
// strictly, and knows the file and line of each field.
//
// It is the first step of the straight line
//
//	Snapshot -> documents -> IR -> desired State -> Plan -> Apply -> observed State
//
// A Source delivers a Snapshot (one commit, or one state of a folder). A Set reads the
// files that changed since the last one and holds the typed documents, or every error
// with its file, line and field. What the documents mean is up to package policies.
// Nothing here touches a network, a clock or a file system.
package schema
