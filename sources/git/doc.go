// Package git is the source that reads a branch of a Git repository, local or
// remote, by go-git. A snapshot is made from the one before it by comparing
// trees, so that a commit costs what it changes. Submodules are not read.
//
//	branch -> newest commit -> goes it forward? -> tree against the last tree -> files
//	(a remote is first mirrored to a bare repository on disk)
package git
