package schema

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// MaxYAML is the largest YAML file that is read, in bytes.
const MaxYAML = 1 << 20

// parsed is what one file holds. A document that has errors of its own is in
// broken if its name could be read, so that references to it do not dangle.
type parsed struct {
	docs   []*Document
	broken []Name
	errs   Errors
}

// parseFile reads every document of a YAML file. Documents of old that stand
// at the same place with the same text are taken over.
func parseFile(f *File, old []*Document) parsed {
	if err := checkFile(f); err != nil {
		return parsed{errs: Errors{err}}
	}
	var p parsed
	for _, c := range splitDocuments(f.Data) {
		i := slices.IndexFunc(old, func(d *Document) bool {
			return d.start == c.line && bytes.Equal(d.text, c.text)
		})
		if i >= 0 {
			p.docs = append(p.docs, old[i])
			continue
		}
		p.parseDocument(f.Path, c)
	}
	return p
}

// checkFile refuses what is no YAML text at all.
func checkFile(f *File) *Error {
	at := Position{Path: f.Path, Line: 1}
	switch {
	case f.Err != nil:
		return &Error{Position: at, Err: f.Err}
	case len(f.Data) > MaxYAML:
		return &Error{Position: at, Err: fmt.Errorf("the file has %d bytes, the most is %d; split it, or move routes to a routesFrom file", len(f.Data), MaxYAML)}
	}
	if i := bytes.IndexByte(f.Data, 0); i >= 0 {
		at.Line += bytes.Count(f.Data[:i], []byte("\n"))
		return &Error{Position: at, Err: fmt.Errorf("holds a NUL byte; want UTF-8 text")}
	}
	if !utf8.Valid(f.Data) {
		for line := range bytes.Lines(f.Data) {
			if !utf8.Valid(line) {
				break
			}
			at.Line++
		}
		return &Error{Position: at, Err: fmt.Errorf("is not UTF-8; save the file as UTF-8")}
	}
	return nil
}

// parseDocument reads one document and appends it or what is wrong with it.
func (p *parsed) parseDocument(path string, c chunk) {
	root, err := yamlRoot(path, c)
	if err != nil {
		p.errs = append(p.errs, err)
		return
	}
	if root == nil {
		return
	}
	d := &decoder{path: path, line: c.line}
	doc := &Document{Position: Position{path, c.line + root.Line - 1}, start: c.line, text: c.text}
	spec := d.envelope(root, doc)
	if len(d.errs) == 0 {
		d.errs = validate(doc)
	}
	if len(d.errs) == 0 && spec {
		p.docs = append(p.docs, doc)
		return
	}
	p.errs = append(p.errs, d.errs...)
	if doc.Kind != "" && doc.Name.Name != "" {
		p.broken = append(p.broken, doc.Name)
	}
}

// yamlRoot returns the root node of a document's text, nil where it is empty.
func yamlRoot(path string, c chunk) (*yaml.Node, *Error) {
	dec := yaml.NewDecoder(bytes.NewReader(c.text))
	var node, more yaml.Node
	if err := dec.Decode(&node); err != nil {
		if len(bytes.TrimSpace(c.text)) == 0 || err.Error() == "EOF" {
			return nil, nil
		}
		line, err := errYAML(err)
		return nil, &Error{Position: Position{path, c.line + max(line, 1) - 1}, Err: err}
	}
	if dec.Decode(&more) == nil {
		return nil, &Error{Position: Position{path, c.line + more.Line - 1}, Err: fmt.Errorf("a second document begins without a line ---; add one")}
	}
	if len(node.Content) == 0 || node.Content[0].ShortTag() == "!!null" {
		return nil, nil
	}
	return node.Content[0], nil
}

// envelope decodes apiVersion, kind, metadata and spec; false where the kind is
// not known, which leaves no spec to look at.
func (d *decoder) envelope(root *yaml.Node, doc *Document) bool {
	if root.Kind != yaml.MappingNode {
		d.errorf(root, "", "want a mapping with apiVersion, kind, metadata and spec, got %s", describe(root))
		return false
	}
	fields := map[string]*yaml.Node{}
	for key, val := range d.pairs(root, "") {
		fields[key.Value] = val
		if !slices.Contains([]string{"apiVersion", "kind", "metadata", "spec"}, key.Value) {
			d.errorf(key, key.Value, "unknown field; a document has apiVersion, kind, metadata and spec")
		}
	}
	var version string
	if d.required(root, fields["apiVersion"], &version, "apiVersion") && version != APIVersion {
		d.errorf(fields["apiVersion"], "apiVersion", "%q is not read here; want %s, or list the file in .grayignore", clip(version), APIVersion)
		return false
	}
	if !d.required(root, fields["kind"], &doc.Kind, "kind") {
		return false
	}
	doc.Spec = newSpec(doc.Kind)
	if doc.Spec == nil {
		d.errorf(fields["kind"], "kind", "%q is not known; want %s", clip(doc.Kind), orList(Kinds()))
		return false
	}
	if d.required(root, fields["metadata"], &doc.Metadata, "metadata") {
		doc.Name.Name = doc.Metadata.Name
	}
	return d.required(root, fields["spec"], doc.Spec, "spec")
}

// required decodes a field of the envelope that must be there into *into.
func (d *decoder) required(root, node *yaml.Node, into any, field string) bool {
	if node == nil || resolve(node).ShortTag() == "!!null" {
		d.errorf(root, field, "is missing")
		return false
	}
	before := len(d.errs)
	d.value(node, reflect.ValueOf(into).Elem(), field, rules{required: true})
	if s, ok := into.(*string); ok && *s == "" && len(d.errs) == before {
		d.errorf(node, field, "is empty; fill it in")
	}
	return len(d.errs) == before || strings.HasPrefix(field, "spec")
}
