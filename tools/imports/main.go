// Command imports checks the imports of all packages below a folder against the tables
// in rules.go: the order of the folders, and who may import which library. It reads the
// files of all modules and systems, tests included, and prints all findings.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"slices"
	"strconv"
	"strings"
)

func main() {
	if err := run("."); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(root string) error {
	var wrong []error
	folders, required := map[string]bool{}, map[string]bool{}
	err := fs.WalkDir(os.DirFS(root), ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && p != "." && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		case d.Name() == "go.mod":
			libraries, err := direct(path.Join(root, p))
			wrong = append(wrong, checkModule(p, libraries)...)
			for _, l := range libraries {
				required[libraryOf(l)] = true
			}
			return err
		case path.Ext(p) == ".go":
			all, err := read(root, p)
			folders[folderOf(p)] = true
			for _, i := range all {
				if err := i.check(); err != nil {
					wrong = append(wrong, fmt.Errorf("%s: %w", i.at, err))
				}
			}
			return err
		}
		return nil
	})
	for _, folder := range slices.Sorted(maps.Keys(folders)) {
		wrong = append(wrong, checkFolder(folder))
	}
	for _, library := range slices.Sorted(maps.Keys(owners)) {
		if !required[library] {
			wrong = append(wrong, fmt.Errorf("no go.mod requires %s; take it out of tools/imports/rules.go", library))
		}
	}
	return errors.Join(append(wrong, err)...)
}

// folderOf is the folder of a file, empty for the root.
func folderOf(file string) string { return strings.TrimPrefix(path.Dir(file), ".") }

// direct returns the modules that a go.mod requires directly.
func direct(file string) ([]string, error) {
	out, err := exec.Command("go", "mod", "edit", "-json", file).Output()
	if err != nil {
		return nil, fmt.Errorf("go mod edit -json %s: %w", file, err)
	}
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		return nil, err
	}
	var all []string
	for _, r := range mod.Require {
		if !r.Indirect {
			all = append(all, r.Path)
		}
	}
	return all, nil
}

// read returns the imports of a file.
func read(root, file string) ([]imported, error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, path.Join(root, file), nil, 0)
	if err != nil {
		return nil, err
	}
	from := folderOf(file)
	test := strings.HasSuffix(file, "_test.go") || slices.Contains(helpers, from)
	var all []imported
	for _, spec := range f.Imports {
		to, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, err
		}
		i := imported{at: fmt.Sprintf("%s:%d", file, fset.Position(spec.Pos()).Line), from: from, to: to, test: test}
		if to == module+"/schema" {
			i.names = namesOf(f, "schema")
		}
		all = append(all, i)
	}
	return all, nil
}

// namesOf returns the names of a package that a file uses.
func namesOf(f *ast.File, of string) []string {
	var all []string
	ast.Inspect(f, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && x.Name == of {
				all = append(all, s.Sel.Name)
			}
		}
		return true
	})
	return all
}
