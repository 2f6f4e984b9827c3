// Package git is the source that reads a branch of a Git repository, local or remote,
// with go-git. It makes a snapshot by comparing the tree with the previous one, so that
// a commit costs what it changes. Submodules are not read.
//
//	branch -> newest commit -> a descendant? -> compare with the last tree -> files
//	(a remote is first mirrored to a bare repository on disk)
package git
