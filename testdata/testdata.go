// Package testdata holds the quickstart repository, which the demo starts from
// and tests use.
package testdata

import "embed"

// Quickstart is the repository, below the folder quickstart.
//
//go:embed quickstart
var Quickstart embed.FS
