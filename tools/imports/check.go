package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// imported is one import of a file.
type imported struct {
	at       string   // file:line
	from, to string   // a folder of the repository, and an import path
	test     bool     // the file is a test or belongs to a helper
	names    []string // the names of package schema that the file uses
}

// check returns what is wrong with an import, or nil.
func (i imported) check() error {
	to, ours := strings.CutPrefix(i.to, module)
	if !ours {
		return i.checkLibrary()
	}
	to = strings.TrimPrefix(to, "/")
	if !i.allowed(to) {
		return fmt.Errorf("%s imports %s, against the order of the folders", name(i.from), name(to))
	}
	for _, n := range i.names {
		if slices.Contains(algebras, i.from) && !slices.Contains(ofSchema, n) {
			return fmt.Errorf("%s uses schema.%s; it may know %s of schema, no kinds of documents", i.from, n, strings.Join(ofSchema, ", "))
		}
	}
	return nil
}

func (i imported) allowed(to string) bool {
	a, known := ranks[top(i.from)]
	b, alsoKnown := ranks[top(to)]
	switch {
	case !known || !alsoKnown:
		return false
	case slices.Contains(helpers, to):
		return i.test
	case top(i.from) == "policies" && top(to) == "policies":
		return i.from == to || slices.Contains(inner[i.from], to)
	case unit(i.from) == unit(to):
		return true
	case to == top(i.from): // what all sources share, for example
		return true
	case a != apart && b != apart && b < a:
		return true
	}
	// Tests of the reconciler, of parts and of what is apart may use the real parts.
	return i.test && b != apart && b <= parts && (a == apart || a >= ranks["reconciler"])
}

func (i imported) checkLibrary() error {
	if first, _, _ := strings.Cut(i.to, "/"); !strings.Contains(first, ".") {
		return nil // Go's own
	}
	library := libraryOf(i.to)
	if library == "" {
		return fmt.Errorf("%s imports %s, which has no owner; give it one in tools/imports/rules.go", name(i.from), i.to)
	}
	o := owners[library]
	if has(o.product, i.from) || i.test && has(o.tests, i.from) {
		return nil
	}
	return fmt.Errorf("%s imports %s, which only these may: %s; and tests of these: %s", name(i.from), i.to, list(o.product), list(o.tests))
}

// checkModule returns the direct requirements of a go.mod that have no owner.
func checkModule(file string, requires []string) []error {
	var wrong []error
	for _, r := range requires {
		if !within(r, module) && libraryOf(r) == "" {
			wrong = append(wrong, fmt.Errorf("%s: %s has no owner; give it one in tools/imports/rules.go", file, r))
		}
	}
	return wrong
}

// checkFolder checks that the tables have a folder with Go files.
func checkFolder(folder string) error {
	_, known := ranks[top(folder)]
	if top(folder) == "policies" {
		_, known = inner[folder]
	}
	if !known {
		return fmt.Errorf("%s: the folder has no rank; give it one in tools/imports/rules.go", folder)
	}
	return nil
}

// libraryOf is the library of an import path or a module, empty if none is known.
func libraryOf(p string) string {
	for library := range owners {
		if within(p, library) {
			return library
		}
	}
	return ""
}

// unit is the folder within which packages import each other freely.
func unit(folder string) string {
	if first, rest, below := strings.Cut(folder, "/"); below && ranks[first] == parts {
		second, _, _ := strings.Cut(rest, "/")
		return first + "/" + second
	}
	return top(folder)
}

func top(folder string) string {
	first, _, _ := strings.Cut(folder, "/")
	return first
}

func within(p, folder string) bool { return p == folder || strings.HasPrefix(p, folder+"/") }

func has(folders []string, folder string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return f == everywhere || within(folder, f) })
}

func name(folder string) string { return cmp.Or(folder, "the root") }

func list(folders []string) string { return cmp.Or(strings.Join(folders, ", "), "none") }
