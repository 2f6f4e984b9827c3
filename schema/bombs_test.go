package schema

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// bomb is a document that costs much more to read than its size, if anything
// does, and what is said of it.
type bomb struct{ text, want string }

func bombs() map[string]bomb {
	laughs := "a: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n"
	for i := range 12 {
		laughs += fmt.Sprintf("a%d: &a%d [%s]\n", i, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i), 10), ", "))
	}
	gateway := "kind: Gateway\nmetadata: {name: n}\nspec:\n"
	policy := "kind: GrayPolicy\nmetadata: {name: n}\nspec:\n  targets: [{kind: Gateway, name: g}]\n  version: v2\n"
	service := "kind: Service\nmetadata: {name: n}\nspec:\n  hosts: [a]\n  default: v\n  versions:\n"
	return map[string]bomb{
		"laughs":         {laughs, "kind: is missing"},
		"laughs in spec": {policy + "  match: [" + strings.Repeat("*m, ", 50_000) + "*m]\n  exclude: [&m {accounts: [a, b, c, d, e, f, g, h, i, j]}]\n", "unknown anchor 'm' referenced"},
		"aliases":        {policy + "  exclude: [&m {accounts: [a, b, c, d, e, f, g, h, i, j]}]\n  match: [" + strings.Repeat("*m, ", 50_000) + "*m]\n", "the document expands to more than 200000 values"},
		"unknown keys":   {policy + "  exclude:\n  - &m\n" + repeat(1000, func(i int) string { return fmt.Sprintf("    k%d: 1\n", i) }) + "  match: [" + strings.Repeat("*m, ", 100_000) + "*m]\n", "more errors"},
		"nulls":          {policy + "  exclude:\n  - {accounts: &m [" + strings.Repeat("~, ", 50_000) + "~]}\n  match: [" + strings.Repeat("{accounts: *m}, ", 20_000) + "]\n", "more errors"},
		"lists":          {service + "  - &v {name: v, endpoints: [" + strings.Repeat("{}, ", 50_000) + "]}\n" + strings.Repeat("  - *v\n", 20_000), "more errors"},
		"compose":        {service + "  - name: v\n    compose: &c\n      a: *c\n      b: *c\n      c: *c\n      d: *c\n", "is nested more than 32 deep"},
		"endless":        {"&a [*a]", "want a mapping"},
		"endless match":  {policy + "  match: &m [*m, *m]\n", "want a mapping, got a list"},
		"brackets":       {strings.Repeat("[", 10_000), "not YAML: did not find expected node content"},
		"more brackets":  {strings.Repeat("[", 500_000), "not YAML: exceeded max depth of 10000"},
		"braces":         {strings.Repeat("{a: ", 10_000), "not YAML: "},
		"closed":         {strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000), "want a mapping with kind, metadata and spec, got a list"},
		"dashes":         {strings.Repeat("- ", 500_000), "not YAML: exceeded max depth of 10000"},
		"questions":      {strings.Repeat("? ", 500_000), "not YAML: exceeded max depth of 10000"},
		"deep in spec":   {gateway + "  vips: " + strings.Repeat("[", 9_000) + strings.Repeat("]", 9_000), "want a single value, got a list"},
		"separators":     {strings.Repeat("---\n", 50_000), "holds no gray document"},
		"documents":      {strings.Repeat("--- a\n", 50_000), "more errors"},
		"comments":       {strings.Repeat("#\n", 500_000), "holds no gray document"},
		"anchors":        {strings.Repeat("&a ", 300_000), "not YAML: "},
		"hosts":          {"kind: Service\nmetadata: {name: n}\nspec: {default: v, versions: [{name: v}], hosts: [" + repeat(100_000, func(i int) string { return fmt.Sprintf("h%d, ", i) }) + "h5]}", `"h5" is listed twice`},
		"switches":       {gateway + "  switches: [" + repeat(50_000, func(i int) string { return fmt.Sprintf("s%d, ", i) }) + "]\n  vips: [10.0.0.1]\n  default: v\n  versions:\n  - name: v\n    backends:\n" + repeat(8_000, func(i int) string { return fmt.Sprintf("    - {name: b%d, address: 10.0.0.1, ports: {s1: 1}}\n", i) }), "more errors"},
	}
}

// TestBombs holds that no document of 1 MiB takes long or much memory, and that
// all of them are refused.
func TestBombs(t *testing.T) {
	for name, b := range bombs() {
		t.Run(name, func(t *testing.T) {
			if len(b.text) > MaxYAML {
				t.Fatalf("the text has %d bytes: it is refused before it is read", len(b.text))
			}
			before, started := allocs(), time.Now()
			_, err := Parse(snapshot("a.yaml", b.text))
			took, mib := time.Since(started), (allocs()-before)>>20
			if err == nil || !strings.Contains(err.Error(), b.want) {
				t.Errorf("got %.300v, want %s", err, b.want)
			}
			if mib > 1024 {
				t.Errorf("allocated %d MiB", mib)
			}
			if took > time.Minute { // under the race detector on a busy machine
				t.Errorf("took %v", took)
			}
			t.Logf("%v, %d MiB", took, mib)
		})
	}
}

// TestAt holds where fields stand, in the document and in its file.
func TestAt(t *testing.T) {
	const text = `# comment
---
kind: GrayPolicy
metadata: {name: n}
spec:
  targets: [{kind: Gateway, name: g}, {kind: Gateway,
    name: h}]
  version: v2

  match:
  # which ones
  - accounts:
    - a
    - b
  - flow: &f
      vni: 5
  exclude:
  - flow: *f
`
	set, err := Parse(snapshot("a.yaml", "# first\n---\n"+text))
	if err != nil {
		t.Fatal(err)
	}
	d := set.Get(Name{KindPolicy, "n"})
	if want := (Position{"a.yaml", 5}); d.Position != want {
		t.Errorf("the document stands at %v, want %v", d.Position, want)
	}
	for field, want := range map[string]int{
		"": 5, "kind": 5, "metadata.name": 6, "spec": 7, "spec.targets": 8, "spec.targets[1].kind": 8, "spec.targets[1].name": 9,
		"spec.targets[2]": 8, "spec.targets[-1]": 8, "spec.targets[x]": 8, "spec.version": 10, "spec.version.x": 10, "spec.priority": 7,
		"spec.match[0].accounts[1]": 16, "spec.match[1].flow.vni": 18, "spec.match[1].flow.src": 17, "spec.exclude[0].flow": 20, "spec.exclude[0].flow.vni": 18,
	} {
		if got := d.At(field); got != (Position{"a.yaml", want}) {
			t.Errorf("%s stands at %v, want line %d", field, got, want)
		}
	}
	if got := d.Errorf("spec.match[1].flow", "%d is %s", 5, "odd\n").Error(); got != `a.yaml:17: spec.match[1].flow: 5 is odd\n` {
		t.Errorf("got %s", got)
	}
}

// TestAtCost holds that a large document with thousands of errors is not parsed
// for each of them, also while others ask.
func TestAtCost(t *testing.T) {
	text := "kind: GrayPolicy\nmetadata: {name: n}\nspec:\n  targets: [{kind: Gateway, name: g}]\n  version: v2\n  match:\n  - networks:\n" +
		repeat(60_000, func(i int) string { return fmt.Sprintf("    - n%d\n", i) })
	set, err := Parse(snapshot("a.yaml", text))
	if err != nil {
		t.Fatal(err)
	}
	d := set.Get(Name{KindPolicy, "n"})
	before := allocs()
	done := make(chan struct{})
	for range 2 {
		go func() {
			defer func() { done <- struct{}{} }()
			for i := range 10_000 {
				if got := d.At(fmt.Sprintf("spec.match[0].networks[%d]", i)); got.Line != 8+i {
					t.Errorf("network %d stands at %v", i, got)
					return
				}
			}
		}()
	}
	<-done
	<-done
	// Some 50 MiB for each time that the document is parsed.
	if mib := (allocs() - before) >> 20; mib > 2048 {
		t.Errorf("allocated %d MiB for 20000 errors", mib)
	}
}
