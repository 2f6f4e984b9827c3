// Package sources holds what all sources of documents share: which files are
// read, how large they may be, and how symbolic links are followed. The sources
// themselves, git and dir, turn a repository or a folder into a schema.Snapshot,
// the first step of the straight line; they know nothing of what documents mean.
package sources

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/gray-release/gray/schema"
)

// MaxFiles bounds the files of a snapshot.
const MaxFiles = 500_000

// MaxBytes bounds the content of all files of a snapshot together, in bytes:
// it is held in memory.
const MaxBytes = 1 << 30

// ErrTooMany is why a snapshot with more than MaxFiles files is not read.
var ErrTooMany = fmt.Errorf("more than %d files; give a folder with fewer by --path", MaxFiles)

// ErrTooLarge is why a snapshot with more than MaxBytes bytes is not read.
var ErrTooLarge = fmt.Errorf("files with more than %d bytes together; give a folder with fewer by --path", MaxBytes)

// ErrNotRegular is why a folder, pipe or device with the name of a document is
// not read.
var ErrNotRegular = errors.New("is no regular file")

// Wanted tells whether gray reads a file: YAML and CSV files and those of
// pipelines that lie in no dot-folder, and the .grayignore at the root.
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

// MaxFile is the largest of all sizes that Refuse lets pass, in bytes.
const MaxFile = max(schema.MaxYAML, schema.MaxCSV, schema.MaxP4Info, schema.MaxDeviceConfig)

// Refuse returns why a file of that size is not read, or nil.
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
