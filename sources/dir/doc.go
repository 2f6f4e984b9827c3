// Package dir is the source that reads a plain folder or the working tree of a
// repository, and the watcher that tells when a folder changes.
package dir
