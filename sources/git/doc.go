// Package git is the source that reads a branch of a Git repository, local or
// remote, by go-git. A snapshot is made from the one before it by comparing
// trees, so that a commit costs what it changes.
package git
