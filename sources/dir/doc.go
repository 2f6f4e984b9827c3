// Package dir is the source that reads a plain folder or the working tree of a
// repository. Its watcher gives a hint when a folder changes.
package dir
