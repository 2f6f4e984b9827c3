package schema

import (
	"path/filepath"
	"reflect"
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

// TestSuggestion holds which field a wrong key is taken for: the shorter the key
// the closer it must be.
func TestSuggestion(t *testing.T) {
	fields := fieldsOf(reflect.TypeFor[Route]()) // vm, prefix, mac, vtep
	for key, want := range map[string]string{
		"prefx": "prefix", "PREFIX": "prefix", "prefixes": "prefix", "perfix": "prefix", "prefixlist": "",
		"vms": "vm", "v": "", "xx": "", "MAC": "mac", "vtap": "vtep", "vvtepp": "vtep", "": "", "address": "",
	} {
		if want != "" {
			want = "; did you mean " + want + "?"
		}
		if got := (suggestion{fields, key}).String(); got != want {
			t.Errorf("%q: got %q, want %q", key, got, want)
		}
	}
}
