// Command house checks sizes that golangci-lint does not check: how many files a folder
// has, how many fields a struct, how many interfaces a package exports and how many
// methods they have, how many parameters an exported constructor. It ignores tests, and
// prints all findings.
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

	mostInterfaces = 3 // that a package exports
	mostMethods    = 3 // of one
	mostParameters = 4 // of an exported function New...
)

func main() {
	if err := run("."); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(root string) error {
	var wrong []error
	files, interfaces := map[string]int{}, map[string]int{}
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
		found, err := check(root, p)
		wrong = append(wrong, found.wrong...)
		interfaces[path.Dir(p)] += found.interfaces
		return err
	})
	for _, folder := range slices.Sorted(maps.Keys(files)) {
		if n := files[folder]; n > mostFiles {
			wrong = append(wrong, fmt.Errorf("%s: %d .go files without tests, more than %d; split the package", folder, n, mostFiles))
		}
		if n := interfaces[folder]; n > mostInterfaces {
			wrong = append(wrong, fmt.Errorf("%s: exports %d interfaces, more than %d; take functions or structs", folder, n, mostInterfaces))
		}
	}
	return errors.Join(append(wrong, err)...)
}

// findings are what is wrong in a file, and how many interfaces it exports.
type findings struct {
	wrong      []error
	interfaces int
}

// check looks at the declarations of a file.
func check(root, file string) (found findings, err error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, path.Join(root, file), nil, parser.SkipObjectResolution)
	if err != nil {
		return found, err
	}
	wrong := func(n ast.Node, format string, args ...any) {
		at := fmt.Sprintf("%s:%d: ", file, fset.Position(n.Pos()).Line)
		found.wrong = append(found.wrong, fmt.Errorf(at+format, args...))
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.StructType:
			if fields := count(n.Fields); fields > mostFields {
				wrong(n, "a struct of %d fields, more than %d; group those that belong together", fields, mostFields)
			}
		case *ast.TypeSpec:
			if i, ok := n.Type.(*ast.InterfaceType); ok && n.Name.IsExported() {
				found.interfaces++
				if methods := count(i.Methods); methods > mostMethods {
					wrong(n, "an interface of %d methods, more than %d; split it", methods, mostMethods)
				}
			}
		case *ast.FuncDecl:
			if parameters := count(n.Type.Params); n.Recv == nil && strings.HasPrefix(n.Name.Name, "New") && parameters > mostParameters {
				wrong(n, "a constructor of %d parameters, more than %d; take a struct", parameters, mostParameters)
			}
		}
		return true
	})
	return found, nil
}

// count is how many names a list declares; what is embedded counts as one.
func count(list *ast.FieldList) (n int) {
	for _, field := range list.List {
		n += max(1, len(field.Names))
	}
	return n
}
