// Package gray embeds the quickstart repository, which gray demo starts from. It is at
// the root because a program can embed only files below its own folder.
package gray

import (
	"embed"
	"io/fs"
)

//go:embed testdata/quickstart
var embedded embed.FS

// Quickstart returns the files below testdata/quickstart.
func Quickstart() fs.FS {
	quickstart, err := fs.Sub(embedded, "testdata/quickstart")
	if err != nil {
		panic(err) // only if the path is invalid
	}
	return quickstart
}
