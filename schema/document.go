package schema

import (
	"bytes"
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"weak"

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
	Position // of its start
	Metadata Metadata
	// Spec is a *PolicySpec, *ServiceSpec, *GatewaySpec, *SwitchSpec,
	// *NetworkSpec or *NodeSpec. It is read-only.
	Spec   any
	start  int    // the line at which text begins
	named  int    // the line of metadata.name
	flawed bool   // it has unknown fields, which the set reports
	text   []byte // its YAML, to look up the lines of fields for errors
	root   weak.Pointer[yaml.Node]
}

// Excerpt is one document to be stored: its YAML and its place.
type Excerpt struct {
	Path string `json:"path"`
	Line int    `json:"line"`
	Text string `json:"text"`
}

// Excerpt returns the document as an Excerpt.
func (d *Document) Excerpt() Excerpt { return Excerpt{d.Path, d.start, string(d.text)} }

// Document reads an excerpt. The document has its old place.
func (e Excerpt) Document() (*Document, error) {
	text := strings.Repeat("\n", max(e.Line-1, 0)) + e.Text
	set, err := Parse(&Snapshot{Files: NewFiles(&File{Path: e.Path, Data: []byte(text)})})
	if err != nil {
		return nil, err
	}
	names := set.Names()
	if len(names) != 1 {
		return nil, fmt.Errorf("%s:%d holds %d documents, want one", e.Path, e.Line, len(names))
	}
	return set.Get(names[0]), nil
}

// Compare orders documents by place.
func (d *Document) Compare(e *Document) int { return d.Position.Compare(e.Position) }

// roots guards the root of every document.
var roots sync.Mutex

// node returns the root of the document's YAML, or nil. It is parsed when an error
// needs a line, and kept by a weak pointer only, as nodes are many times the size of
// their text.
func (d *Document) node() *yaml.Node {
	roots.Lock()
	defer roots.Unlock()
	if root := d.root.Value(); root != nil {
		return root
	}
	var doc yaml.Node
	if yaml.Unmarshal(d.text, &doc) != nil || len(doc.Content) != 1 {
		return nil
	}
	d.root = weak.Make(doc.Content[0])
	return doc.Content[0]
}

// At returns the place of a field, such as "spec.match[2].flow.vni", or of the nearest
// field around it if it is absent.
func (d *Document) At(field string) Position {
	p := d.Position
	if root := d.node(); root != nil {
		p.Line = d.start + lineOf(root, field) - 1
	}
	return p
}

// Errorf makes an error at a field. A very long text is cut.
func (d *Document) Errorf(field, format string, args ...any) *Error {
	return newError(d.At(field), field, format, args...)
}

// lineOf walks from a document's root to a field and returns the line of the last key
// or item that exists.
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
			n, err := strconv.Atoi(step)
			if err != nil || n < 0 || n >= len(node.Content) {
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

// chunk is the text of one document in a file.
type chunk struct {
	line int // of its first byte, from 1
	text []byte
}

// splitDocuments splits a file at its "---" lines. In YAML such a line always separates
// documents, even in a block scalar. Comments and directives before the first one are
// part of the document that it starts.
func splitDocuments(data []byte) []chunk {
	data = bytes.TrimPrefix(data, []byte(byteOrderMark))
	var chunks []chunk
	start, startLine, line, prologue := 0, 1, 0, true
	for pos := 0; pos < len(data); {
		line++
		end := len(data)
		if n := bytes.IndexByte(data[pos:], '\n'); n >= 0 {
			end = pos + n + 1
		}
		separator := isSeparator(data[pos:end])
		if separator && !prologue {
			chunks = append(chunks, chunk{startLine, data[start:pos]})
			start, startLine = pos, line
		}
		prologue = prologue && !separator && isPrologue(data[pos:end])
		pos = end
	}
	return append(chunks, chunk{startLine, data[start:]})
}

func isSeparator(line []byte) bool {
	rest, ok := bytes.CutPrefix(line, []byte("---"))
	return ok && (len(rest) == 0 || strings.IndexByte(" \t\r\n", rest[0]) >= 0)
}

// isPrologue tells whether a line can be before the start of a document: it is blank, a
// comment or a directive.
func isPrologue(line []byte) bool {
	rest := bytes.TrimLeft(line, " \t\r\n")
	return len(rest) == 0 || rest[0] == '#' || line[0] == '%'
}
