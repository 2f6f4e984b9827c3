// Package sources holds what all sources of documents share: which files are
// read, and how large they may be. The sources themselves, git and dir, turn a
// repository or a folder into a schema.Snapshot, the first step of the straight
// line; they know nothing of what documents mean.
package sources

import (
	"fmt"
	"path"
	"strings"

	"github.com/gray-release/gray/schema"
)

// MaxFiles bounds the files of a snapshot.
const MaxFiles = 500_000

// Wanted tells whether gray reads a file: YAML and CSV files that lie in no
// dot-folder, and the .grayignore at the root.
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
	return false
}

// Refuse returns why a file of that size is not read, or nil.
func Refuse(p string, size int64) error {
	limit := int64(schema.MaxYAML)
	if path.Ext(p) == ".csv" {
		limit = schema.MaxCSV
	}
	if size > limit {
		return fmt.Errorf("the file has %d bytes, the most is %d; split it", size, limit)
	}
	return nil
}

// ErrLeaves is why a symbolic link out of the repository is not read.
var ErrLeaves = fmt.Errorf("is a symbolic link that leaves the repository; put the file itself here")
