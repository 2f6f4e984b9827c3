// Command house checks sizes that golangci-lint does not check: how many files a folder
// has, and how many fields a struct has. It ignores tests, and prints all findings.
package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
)

const (
	mostFiles  = 20 // .go files of a folder
	mostFields = 15 // of a struct; an embedded one counts as one
)

func main() {
	if err := run("."); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(root string) error {
	var wrong []error
	files := map[string]int{}
	err := fs.WalkDir(os.DirFS(root), ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && p != "." && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		case d.IsDir() || path.Ext(p) != ".go" || strings.HasSuffix(p, "_test.go"):
			return nil
		}
		files[path.Dir(p)]++
		large, err := structs(root, p)
		wrong = append(wrong, large...)
		return err
	})
	for _, folder := range slices.Sorted(maps.Keys(files)) {
		if n := files[folder]; n > mostFiles {
			wrong = append(wrong, fmt.Errorf("%s: %d .go files without tests, more than %d; split the package", folder, n, mostFiles))
		}
	}
	return errors.Join(append(wrong, err)...)
}

// structs finds the structs of a file that have too many fields.
func structs(root, file string) ([]error, error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, path.Join(root, file), nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var wrong []error
	ast.Inspect(f, func(n ast.Node) bool {
		s, ok := n.(*ast.StructType)
		if !ok {
			return true
		}
		fields := 0
		for _, field := range s.Fields.List {
			fields += max(1, len(field.Names))
		}
		if fields > mostFields {
			wrong = append(wrong, fmt.Errorf("%s:%d: a struct of %d fields, more than %d; group those that belong together", file, fset.Position(s.Pos()).Line, fields, mostFields))
		}
		return true
	})
	return wrong, nil
}
