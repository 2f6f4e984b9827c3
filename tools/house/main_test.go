package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRun holds all bounds, and that tests are not counted.
func TestRun(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const at = "package p\n\ntype small struct {\n\ta, b, c, d, e, f, g, h, i, j, k, l, m, n int\n\tinner\n}\n\ntype inner struct{ a, b int }\n"
	const over = "package p\n\ntype large struct {\n\ta, b, c, d, e, f, g, h, i, j, k, l, m, n int\n\tinner\n\tlast int\n}\n"
	const three = "package p\n\ntype A interface{ B(); C(); D() }\n\ntype E interface{ A }\n\ntype F interface{}\n\ntype own interface{ a(); b(); c(); d() }\n\nfunc NewA(a, b, c, d int) A { return nil }\n\nfunc (o own) NewB(a, b, c, d, e int) {}\n"
	const four = "package p\n\ntype G interface{ A(); B(); C(); D() }\n\nfunc NewG(a, b int, c, d, e string) G { return nil }\n"
	for i := range 20 {
		write(fmt.Sprintf("full/f%02d.go", i), "package p\n")
	}
	write("full/a_test.go", over)
	write("full/f00.go", at)
	write(".tools/a.go", "not Go")
	write("interfaces/a.go", three)
	if err := run(root); err != nil {
		t.Fatal(err)
	}
	write("full/f20.go", "package p\n")
	write("other/a.go", over)
	write("interfaces/b.go", four)
	err := run(root)
	want := []string{
		"interfaces/b.go:3: an interface of 4 methods, more than 3; split it",
		"interfaces/b.go:5: a constructor of 5 parameters, more than 4; take a struct",
		"other/a.go:3: a struct of 16 fields, more than 15; group those that belong together",
		"full: 21 .go files without tests, more than 20; split the package",
		"interfaces: exports 4 interfaces, more than 3; take functions or structs",
	}
	if err == nil || err.Error() != strings.Join(want, "\n") {
		t.Errorf("got %v, want %q", err, want)
	}
}
