// Package gray holds the quickstart repository, which gray demo starts from. It
// lies at the root because a program can embed only what lies below its folder.
package gray

import (
	"embed"
	"io/fs"
)

//go:embed testdata/quickstart
var embedded embed.FS

// Quickstart returns the files of testdata/quickstart, named from there.
func Quickstart() fs.FS {
	quickstart, err := fs.Sub(embedded, "testdata/quickstart")
	if err != nil {
		panic(err) // the name is no path
	}
	return quickstart
}
