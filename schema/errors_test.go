package schema

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// TestErrors reads the repositories of testdata/errors. Each holds the exact
// text of all that is wrong with it, in the file "want".
func TestErrors(t *testing.T) {
	archives, err := filepath.Glob("testdata/errors/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("there are no archives: %v", err)
	}
	for _, path := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			if strings.HasSuffix(path, "lifted.txtar") {
				supported(t)
			}
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var files []*File
			want := ""
			for _, f := range archive.Files {
				if f.Name == "want" {
					want = strings.TrimSuffix(string(f.Data), "\n")
					continue
				}
				files = append(files, file(f.Name, string(f.Data)))
			}
			wantProblems(t, &Snapshot{Files: NewFiles(files...)}, strings.Split(want, "\n")...)
		})
	}
}
