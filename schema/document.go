package schema

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Name names a document.
type Name struct{ Kind, Name string }

// String gives "Kind/name".
func (n Name) String() string { return n.Kind + "/" + n.Name }

// Compare orders names by kind, then by name.
func (n Name) Compare(o Name) int {
	return cmp.Or(strings.Compare(n.Kind, o.Kind), strings.Compare(n.Name, o.Name))
}

// Document is one document of a repository, read and checked on its own.
type Document struct {
	Name
	Position // where it starts
	Metadata Metadata
	// Spec is a *PolicySpec, *ServiceSpec, *GatewaySpec, *SwitchSpec,
	// *NetworkSpec or *NodeSpec. It is read-only.
	Spec  any
	start int    // the line at which text begins
	text  []byte // its YAML; the lines of fields are looked up in it when an error needs them
}

// At returns the place of a field such as "spec.match[2].flow.vni"; where the
// field is absent, that of the nearest field around it.
func (d *Document) At(field string) Position {
	p := d.Position
	var node yaml.Node
	if yaml.Unmarshal(d.text, &node) == nil && len(node.Content) == 1 {
		p.Line = d.start + lineOf(node.Content[0], field) - 1
	}
	return p
}

// Errorf makes an error at a field.
func (d *Document) Errorf(field, format string, args ...any) *Error {
	return &Error{Position: d.At(field), Field: field, Err: fmt.Errorf(format, args...)}
}

// lineOf walks from a document's root to a field and returns the line of the
// last key or item that is there.
func lineOf(node *yaml.Node, field string) int {
	line := node.Line
	for step := range strings.FieldsFuncSeq(field, func(r rune) bool { return r == '.' || r == '[' || r == ']' }) {
		node = resolve(node)
		switch node.Kind {
		case yaml.MappingNode:
			i := 0
			for i < len(node.Content) && node.Content[i].Value != step {
				i += 2
			}
			if i >= len(node.Content) {
				return line
			}
			line, node = node.Content[i].Line, node.Content[i+1]
		case yaml.SequenceNode:
			var n int
			if _, err := fmt.Sscanf(step, "%d", &n); err != nil || n >= len(node.Content) {
				return line
			}
			node = node.Content[n]
			line = node.Line
		default:
			return line
		}
	}
	return line
}

// resolve follows aliases.
func resolve(node *yaml.Node) *yaml.Node {
	for node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	return node
}

// Error is something wrong at a place in the repository.
type Error struct {
	Position
	Field string // such as "spec.match[2].flow.vni"; empty where it is the whole file or document
	Err   error
}

// Error gives "path:line: field: what is wrong".
func (e *Error) Error() string {
	if e.Field == "" {
		return fmt.Sprintf("%s: %v", e.Position, e.Err)
	}
	return fmt.Sprintf("%s: %s: %v", e.Position, e.Field, e.Err)
}

// Unwrap returns what is wrong without its place.
func (e *Error) Unwrap() error { return e.Err }

// Errors is all that is wrong with a commit, sorted by place.
type Errors []*Error

// Error gives one line an error.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the errors one by one.
func (es Errors) Unwrap() []error {
	errs := make([]error, len(es))
	for i, e := range es {
		errs[i] = e
	}
	return errs
}

// Sort sorts by place and text and drops what is said twice.
func (es Errors) Sort() Errors {
	es = slices.SortedFunc(slices.Values(es), func(a, b *Error) int {
		return cmp.Or(a.Compare(b.Position), strings.Compare(a.Field, b.Field), strings.Compare(a.Err.Error(), b.Err.Error()))
	})
	return slices.CompactFunc(es, func(a, b *Error) bool { return a.Error() == b.Error() })
}

// chunk is the text of one document in a file.
type chunk struct {
	line int // of its first byte, from 1
	text []byte
}

// splitDocuments cuts a file at its "---" lines. In YAML such a line always
// separates documents, inside a block scalar too.
func splitDocuments(data []byte) []chunk {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	var chunks []chunk
	start, startLine, line := 0, 1, 0
	for pos := 0; pos < len(data); {
		line++
		end := len(data)
		if n := bytes.IndexByte(data[pos:], '\n'); n >= 0 {
			end = pos + n + 1
		}
		if isSeparator(data[pos:end]) && pos > start {
			chunks = append(chunks, chunk{startLine, data[start:pos]})
			start, startLine = pos, line
		}
		pos = end
	}
	return append(chunks, chunk{startLine, data[start:]})
}

func isSeparator(line []byte) bool {
	rest, ok := bytes.CutPrefix(line, []byte("---"))
	return ok && (len(rest) == 0 || strings.IndexByte(" \t\r\n", rest[0]) >= 0)
}
