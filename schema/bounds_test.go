package schema

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const node = "kind: Node\nmetadata: {name: n}\nspec: {address: 10.0.0.1}\n"

// TestBytes holds what is said of files that are no text, or odd text.
func TestBytes(t *testing.T) {
	routes := "vm,prefix,mac,vtep\na,10.0.0.1/32,02:00:00:00:00:01,192.0.2.1\n"
	network := "kind: Network\nmetadata: {name: n}\nspec: {vni: 1, routesFrom: r.csv}\n"
	for name, test := range map[string]struct {
		file *File
		want string // "" where the file is fine
	}{
		"fine":               {file("a.yaml", node), ""},
		"CRLF":               {file("a.yaml", strings.ReplaceAll(node+"---\n"+strings.ReplaceAll(node, "n}", "m}"), "\n", "\r\n")), ""},
		"CRLF line":          {file("a.yaml", strings.ReplaceAll(node+"---\n"+strings.Replace(node, "name: n", "name: m", 1)+"x: 1\n", "\n", "\r\n")), "a.yaml:8: x: unknown field; a document has apiVersion, kind, metadata and spec"},
		"byte order mark":    {file("a.yaml", byteOrderMark+"---\n"+node), ""},
		"BOM and error":      {file("a.yaml", byteOrderMark+node+"x: 1\n"), "a.yaml:4: x: unknown field; a document has apiVersion, kind, metadata and spec"},
		"no end of line":     {file("a.yaml", strings.TrimSpace(node)), ""},
		"NUL":                {file("a.yaml", node+"#\x00"), "a.yaml:4: holds a NUL byte; want UTF-8 text"},
		"Latin-1":            {file("a.yaml", node+"#\n# caf\xe9\n"), "a.yaml:5: is not UTF-8; save the file as UTF-8"},
		"UTF-16":             {file("a.yaml", "\xff\xfek\x00"), "a.yaml:1: is not UTF-8; save the file as UTF-8"},
		"replaced character": {file("a.yaml", node+"# \ufffd\n"), ""},
		"escape":             {file("a.yaml", node+"# \x1b[2J"), "a.yaml:4: holds the character U+001B; remove it"},
		"delete":             {file("a.yaml", "#\x7f"), "a.yaml:1: holds the character U+007F; remove it"},
		"old Mac":            {file("a.yaml", strings.ReplaceAll(node, "\n", "\r")), "a.yaml:1: holds a carriage return without a line feed; save the file with LF or CRLF line ends"},
		"next line":          {file("a.yaml", node+"#\u0085---\n"), "a.yaml:4: holds the character U+0085; remove it"},
		"line separator":     {file("a.yaml", node+"#\u2028x"), "a.yaml:4: holds the character U+2028; remove it"},
		"second mark":        {file("a.yaml", node+byteOrderMark+"---\n"), "a.yaml:4: holds the character U+FEFF; remove it"},
		"no character":       {file("a.yaml", node+"#\uffff"), "a.yaml:4: holds the character U+FFFF; remove it"},
		"1 MiB":              {file("a.yaml", node+"#"+strings.Repeat("x", MaxYAML-len(node)-1)), ""},
		"more than 1 MiB":    {file("a.yaml", node+"#"+strings.Repeat("x", MaxYAML-len(node))), "a.yaml:1: the file has 1048577 bytes, the most is 1048576; split it, or move routes to a routesFrom file"},
		"refused by source":  {&File{Path: "a.yaml", ID: "x", Err: errors.New("is a symbolic link that leaves the repository")}, "a.yaml:1: is a symbolic link that leaves the repository"},
		"CSV":                {file("r.csv", byteOrderMark+strings.ReplaceAll(routes, "\n", "\r\n")), ""},
		"CSV with NUL":       {file("r.csv", routes+"\x00"), "r.csv:3: holds a NUL byte; want UTF-8 text"},
		"CSV in Latin-1":     {file("r.csv", routes+"caf\xe9"), "r.csv:3: is not UTF-8; save the file as UTF-8"},
		"large CSV":          {file("r.csv", routes+strings.Repeat("x", MaxCSV)), "r.csv:1: the file has 16777277 bytes, the most is 16777216; split the network"},
		"refused CSV":        {&File{Path: "r.csv", ID: "x", Err: errors.New("is no regular file")}, "r.csv:1: is no regular file"},
		"ignore with NUL":    {file(IgnoreFile, "a\n\x00"), ".grayignore:2: holds a NUL byte; want UTF-8 text"},
		"large ignore":       {file(IgnoreFile, strings.Repeat("#", maxIgnore+1)), ".grayignore:1: the file has 16385 bytes, the most is 16384; ignore whole folders"},
		"refused ignore":     {&File{Path: IgnoreFile, ID: "x", Err: errors.New("is no regular file")}, ".grayignore:1: is no regular file"},
		"many ignores":       {file(IgnoreFile, strings.Repeat("a\n", maxPatterns+1)), ".grayignore:257: is pattern 257, the most is 256; ignore whole folders"},
		"line in path":       {file("a\nb\xff.yaml", "kind: Node"), `a\nb\xff.yaml:1: metadata: is missing` + "\n" + `a\nb\xff.yaml:1: spec: is missing`},
	} {
		t.Run(name, func(t *testing.T) {
			files := []*File{test.file, file("network.yaml", network)}
			if test.file.Path != "r.csv" {
				files = append(files, file("r.csv", routes))
			}
			wantProblems(t, &Snapshot{Files: NewFiles(files...)}, test.want)
		})
	}
}

// TestEmpty holds that nothing at all is an error: it would take down all that
// is live.
func TestEmpty(t *testing.T) {
	const want = ".: holds no gray document; is this the right folder and branch?"
	wantProblems(t, &Snapshot{}, want)
	wantProblems(t, snapshot("README.md", "x", "a.yaml", "# nothing\n---\n"), want)
	wantProblems(t, snapshot("a.yaml", "kind: ConfigMap", IgnoreFile, "*.yaml"), want)
}

// TestCut holds that quoted words and the number of errors are bounded.
func TestCut(t *testing.T) {
	long := strings.Repeat("é", 200_000)
	for name, text := range map[string]string{
		"key":        "? " + long + "\n: 1\n",
		"apiVersion": "apiVersion: " + long + "\n" + node,
		"kind":       "kind: " + long,
		"scalar":     long,
		"name":       "kind: Node\nmetadata: {name: " + long + "}\nspec: {}",
		"number":     "kind: Node\nmetadata: {name: " + strings.Repeat("9", 500_000) + "}\nspec: {}",
		"integer":    "kind: Node\nmetadata: {name: n}\nspec: {address: 10.0.0.1, proxy: {port: " + strings.Repeat("9", 500_000) + "}}",
		"address":    "kind: Node\nmetadata: {name: n}\nspec: {address: " + long + "}",
		"host":       "kind: Service\nmetadata: {name: n}\nspec: {hosts: [" + long + "], default: v, versions: [{name: v}]}",
		"switch":     "kind: Switch\nmetadata: {name: n}\nspec: {address: " + long + "}",
		"anchor":     "a: *" + strings.Repeat("x", 500_000),
		"tag":        "kind: !" + strings.Repeat("x", 1000) + " Node",
	} {
		t.Run(name, func(t *testing.T) {
			got := problems(first(Parse(snapshot("a.yaml", text))))
			if got == "" {
				t.Fatal("nothing is wrong")
			}
			for line := range strings.SplitSeq(got, "\n") {
				if len(line) > 1000 {
					t.Errorf("an error of %d bytes: %.200s", len(line), line)
				}
			}
		})
	}
}

func first[A, B any](a A, _ B) A { return a }

// gatewayHead is a Gateway that lacks nothing but its VIPs.
const gatewayHead = "kind: Gateway\nmetadata: {name: n}\nspec:\n  switches: [a]\n  default: v\n  versions: [{name: v, backends: [{name: b, address: 10.0.0.1, mac: '02:00:00:00:00:01', port: 1}]}]\n"

// TestManyErrors holds that a run reports the first errors whole and counts the
// rest, at a cost that does not grow with their square.
func TestManyErrors(t *testing.T) {
	t.Run("in a document", func(t *testing.T) {
		// Duplicate addresses are found after decoding, unknown fields while at it.
		for kind, text := range map[string]string{
			KindNode:    "kind: Node\nmetadata: {name: n}\nspec:\n  address: 10.0.0.1\n" + repeat(10_000, func(i int) string { return fmt.Sprintf("  f%d: 1\n", i) }),
			KindGateway: gatewayHead + "  vips:\n  - 10.0.0.1\n" + strings.Repeat("  - 10.0.0.1\n", 10_000),
			KindSwitch:  "kind: Switch\nmetadata: {name: n}\nspec:\n  address: localhost:1\n" + strings.Repeat("  1: x\n", 10_000),
		} {
			before := allocs()
			set, err := Parse(snapshot("a.yaml", text))
			errs, _ := errors.AsType[Errors](err)
			if len(errs) != maxFileErrors+1 || errs[maxFileErrors].Error() != "and 9900 more errors" {
				t.Fatalf("%s: %d errors, the last: %v", kind, len(errs), errs[len(errs)-1])
			}
			if !set.Broken(Name{kind, "n"}) {
				t.Errorf("the %s is not known to be broken", kind)
			}
			if mib := (allocs() - before) >> 20; mib > 100 {
				t.Errorf("%s: allocated %d MiB", kind, mib)
			}
		}
	})
	t.Run("before the checks", func(t *testing.T) {
		// The error of buckets is beyond what is kept: no check may take its
		// place for a value.
		set, _ := Parse(snapshot("a.yaml", gatewayHead+"  vips: [10.0.0.1]\n"+repeat(maxFileErrors, func(i int) string { return fmt.Sprintf("  f%d: 1\n", i) })+"  hash: {buckets: many}\n"))
		if lines := strings.Split(problems(set), "\n"); lines[len(lines)-1] != "and 1 more error" {
			t.Errorf("the last of %d errors: %s", len(lines), lines[len(lines)-1])
		}
	})
	t.Run("in a CSV", func(t *testing.T) {
		set, _ := Parse(snapshot("a.yaml", "kind: Network\nmetadata: {name: n}\nspec: {vni: 1, routesFrom: r.csv}",
			"r.csv", "vm,prefix,mac,vtep\n"+strings.Repeat("a,b,c,d\n", 100_000)))
		if lines := strings.Split(problems(set), "\n"); len(lines) != maxFileErrors+1 || lines[maxFileErrors] != "and 299900 more errors" {
			t.Errorf("%d errors, the last: %s", len(lines), lines[len(lines)-1])
		}
	})
	t.Run("in all", func(t *testing.T) {
		var files []*File
		for i := range 1500 {
			files = append(files, file(fmt.Sprintf("%04d.yaml", i), fmt.Sprintf("x: 1\nkind: Node\nmetadata: {name: same%d}\nspec: {address: 10.0.0.1}", i)))
			files = append(files, file(fmt.Sprintf("b/%04d.yaml", i), node))
		}
		lines := strings.Split(problems(first(Parse(&Snapshot{Files: NewFiles(files...)}))), "\n")
		if len(lines) != maxErrors+1 {
			t.Fatalf("%d errors", len(lines))
		}
		for i, line := range lines[:maxErrors] {
			if want := fmt.Sprintf("%04d.yaml:1: x: unknown field; a document has apiVersion, kind, metadata and spec", i); line != want {
				t.Fatalf("got %s, want %s", line, want)
			}
		}
		// 500 unknown fields and 1499 duplicates are left.
		if lines[maxErrors] != "and 1999 more errors" {
			t.Errorf("the last is %q", lines[maxErrors])
		}
	})
}

func repeat(n int, f func(int) string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(f(i))
	}
	return b.String()
}

// TestSortErrors holds that lists that were cut can be joined and cut again.
func TestSortErrors(t *testing.T) {
	e := func(path string, line int, field string) *Error {
		return newError(Position{path, line}, field, "is wrong")
	}
	got := Errors{{more: 3, Err: errors.New("")}, e("b", 1, "x"), e("a", 2, "y"), {more: 4, Err: errors.New("")}, e("a", 10, "x"), e("a", 2, "x"), e("b", 1, "x"), e("a", 0, "")}.Sort()
	want := "a: is wrong\na:2: x: is wrong\na:2: y: is wrong\na:10: x: is wrong\nb:1: x: is wrong\nand 7 more errors"
	if diff := cmp.Diff(want, got.Error()); diff != "" {
		t.Errorf("errors (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, got.Sort().Error()); diff != "" {
		t.Errorf("sorted again (-want +got):\n%s", diff)
	}
	wrapped := errors.New("cause")
	if !errors.Is(Errors{newError(Position{"a", 1}, "", "because: %w", wrapped)}, wrapped) {
		t.Error("an error hides its cause")
	}
}
