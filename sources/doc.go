// Package sources holds what the sources of documents share: which files are read, how
// large they may be, and how symbolic links are followed. Its packages git and dir turn
// a repository or a folder into a schema.Snapshot; they do not know what documents
// mean. etcd, health and probe are the sources of facts.
package sources

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/gray-release/gray/schema"
)

// MaxFiles bounds the files of a snapshot.
const MaxFiles = 500_000

// MaxBytes bounds the total size of a snapshot's files, in bytes. They are held in
// memory.
const MaxBytes = 1 << 30

// ErrTooMany is the error of a snapshot with more than MaxFiles files.
var ErrTooMany = fmt.Errorf("more than %d files; give a folder with fewer by --path", MaxFiles)

// ErrTooLarge is the error of a snapshot with more than MaxBytes bytes.
var ErrTooLarge = fmt.Errorf("files with more than %d bytes together; give a folder with fewer by --path", MaxBytes)

// ErrNotRegular is the error of a folder, pipe or device with the name of a document.
var ErrNotRegular = errors.New("is not a regular file")

// Wanted reports whether gray reads a file: YAML, CSV and pipeline files outside
// dot-folders, and the .grayignore at the root.
func Wanted(p string) bool {
	if p == schema.IgnoreFile {
		return true
	}
	for part := range strings.SplitSeq(p, "/") {
		if strings.HasPrefix(part, ".") {
			return false
		}
	}
	switch path.Ext(p) {
	case ".yaml", ".yml", ".csv":
		return true
	}
	return schema.IsPipelineFile(p)
}

// MaxFile is the largest size that Refuse accepts for any file, in bytes.
const MaxFile = max(schema.MaxYAML, schema.MaxCSV, schema.MaxP4Info, schema.MaxDeviceConfig)

// ErrLFS is the error of a file whose content Git LFS keeps elsewhere.
var ErrLFS = errors.New("is a Git LFS pointer, not the file itself; gray does not fetch from LFS, so put the file into Git (git lfs untrack)")

// IsPointer tells whether the content of a file is a pointer of Git LFS, by the first
// line that its specification asks for, or that of its predecessor.
func IsPointer(data []byte) bool {
	first, _, _ := bytes.Cut(data[:min(len(data), 1024)], []byte("\n"))
	switch string(bytes.TrimRight(first, "\r")) {
	case "version https://git-lfs.github.com/spec/v1", "version https://hawser.github.com/spec/v1":
		return true
	}
	return false
}

// Refuse returns why a file is too large to be read, or nil.
func Refuse(p string, size int64) error {
	limit, remedy := int64(schema.MaxYAML), "; split it"
	switch {
	case path.Base(p) == schema.P4InfoFile:
		limit, remedy = schema.MaxP4Info, ""
	case schema.IsPipelineFile(p):
		limit, remedy = schema.MaxDeviceConfig, ""
	case path.Ext(p) == ".csv":
		limit = schema.MaxCSV
	}
	if size > limit {
		return fmt.Errorf("the file has %d bytes, the most is %d%s", size, limit, remedy)
	}
	return nil
}
