package pipeline

import (
	"strings"
	"testing"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/schema"
)

// The sizes of a P4Info as p4c writes it are read, of all tables.
func TestTableSizes(t *testing.T) {
	sizes, err := TableSizes(v1modelInfo)
	if err != nil {
		t.Fatal(err)
	}
	for table, want := range policies.TableSizes {
		if sizes[table] != want {
			t.Errorf("table %s: %d, want %d", table, sizes[table], want)
		}
	}
	for text, want := range map[string]string{
		"tables { preamble { name: 1 } }":               "(line 1:27): invalid value for string",
		"pkg_info {\n arch: \"v1model\" }\n} ":          "(line 3:1)",
		"tables { size: 99999999999999999999 }":         "(line 1:16): invalid value for int64",
		"tables { preamble { name: \"pool\" } size: 1 ": "unexpected EOF",
	} {
		if got, err := TableSizes([]byte(text)); err == nil || !strings.Contains(err.Error(), want) || strings.HasPrefix(err.Error(), "proto") {
			t.Errorf("%s: %v, error %v, want %s", text, got, err, want)
		}
	}
}

// A text that is nested too deep is refused without parsing it.
func TestDeepP4Info(t *testing.T) {
	const want = "it is nested more than 100 levels deep"
	for _, level := range []string{"a{", "tables{", "a<", "a:[{", "a{ #}\n", `b:"}" a{`, `b:'\'}' a{`, "b:\"\\\\\" a{"} {
		if _, err := TableSizes([]byte(strings.Repeat(level, schema.MaxP4Info/len(level)))); err == nil || err.Error() != want {
			t.Errorf("%q: %v", level, err)
		}
	}
	for _, flat := range []string{`b:"{" `, `b:'{' `, "#{\n", `b:"\"{" `, "a{} "} {
		if _, err := TableSizes([]byte(strings.Repeat(flat, 1000))); err != nil {
			t.Errorf("%q: %v", flat, err)
		}
	}
	if _, err := TableSizes([]byte("b:\"\n" + strings.Repeat("a{", schema.MaxP4Info/2))); err == nil {
		t.Error("a string that does not end is read")
	}
}

// FuzzTableSizes checks that no text makes it crash.
func FuzzTableSizes(f *testing.F) {
	f.Add([]byte("tables { preamble { name: \"pool\" } size: 256 } x: [{ y: 1 }]"))
	f.Fuzz(func(_ *testing.T, text []byte) {
		_, _ = TableSizes(text)
	})
}
