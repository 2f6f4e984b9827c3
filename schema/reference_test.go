package schema

import (
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the generated part of docs/format.md")

const (
	referenceFile  = "../docs/format.md"
	referenceBegin = "<!-- what follows is made by: go test ./schema -run TestReference -update -->\n"
)

// TestReference holds the field tables of docs/format.md against the types that
// documents are read into.
func TestReference(t *testing.T) {
	b, err := os.ReadFile(referenceFile)
	if err != nil {
		t.Fatal(err)
	}
	head, have, ok := strings.Cut(string(b), referenceBegin)
	if !ok {
		t.Fatalf("%s has no line %s", referenceFile, referenceBegin)
	}
	want := reference()
	if *update {
		if err := os.WriteFile(referenceFile, []byte(head+referenceBegin+want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if have != want {
		t.Errorf("%s is out of date; run go test ./schema -run TestReference -update", referenceFile)
	}
}

// reference is a table of fields for each kind.
func reference() string {
	var b strings.Builder
	for _, kind := range Kinds() {
		fmt.Fprintf(&b, "\n## %s\n\n| field | value | meaning |\n|---|---|---|\n", kind)
		referenceFields(&b, reflect.TypeOf(newSpec(kind)).Elem(), "spec")
	}
	return b.String()
}

func referenceFields(b *strings.Builder, t reflect.Type, at string) {
	for _, f := range fieldsOf(t).list {
		name, inner := at+"."+f.name, t.Field(f.index).Type
		for done := false; !done; {
			switch inner.Kind() {
			case reflect.Pointer:
				inner = inner.Elem()
			case reflect.Slice:
				name, inner = name+"[]", inner.Elem()
			case reflect.Map:
				name, inner = name+".*", inner.Elem()
			default:
				done = true
			}
		}
		var words []string
		value := referenceType(inner, f.rules)
		if f.rules.required {
			words = append(words, "required")
		}
		if f.rules.def != "" {
			words = append(words, "default "+f.rules.def)
		} else if f.rules.enum != nil && !f.rules.required && t.Field(f.index).Type.Kind() == reflect.String {
			words = append(words, "default "+f.rules.enum[0])
		}
		doc := f.doc
		if len(words) > 0 {
			doc += " (" + strings.Join(words, ", ") + ")"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", name, value, strings.ReplaceAll(doc, "|", "\\|"))
		if _, scalar := scalarSchemas[inner]; !scalar && inner.Kind() == reflect.Struct {
			referenceFields(b, inner, name)
		}
	}
}

// referenceType says in words what a field holds.
func referenceType(t reflect.Type, r rules) string {
	if r.enum != nil {
		return strings.Join(r.enum, ", ")
	}
	if _, scalar := scalarSchemas[t]; scalar {
		return strings.ToLower(strings.TrimPrefix(t.String(), "schema."))
	}
	switch t.Kind() {
	case reflect.Struct:
		return ""
	case reflect.String:
		if r.label {
			return "name"
		}
		return "string"
	case reflect.Bool:
		return "true or false"
	case reflect.Interface:
		return "anything"
	}
	low, high := r.bounds(t.Kind())
	if high.BitLen() >= 63 {
		return fmt.Sprintf("number from %s", low)
	}
	return fmt.Sprintf("%s to %s", low, high)
}
