package schema

import (
	"bytes"
	"encoding"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// MaxYAML is the largest YAML file that is read, in bytes.
const MaxYAML = 1 << 20

const byteOrderMark = "\ufeff"

// parsed is the content of one file. A document with errors is in broken if its name
// could be read, so that references to it are not reported. One with unknown fields only
// is in docs all the same, so that one run reports what else is wrong with it.
type parsed struct {
	docs   []*Document // by line
	broken []Name
	errs   errorList
}

// parseFile reads the documents of a YAML file. It reuses old documents with the same
// place and text.
func parseFile(f *File, old []*Document) parsed {
	if err := checkText(f, MaxYAML, "split it, or move routes to a routesFrom file"); err != nil {
		return parsed{errs: errorList{errs: Errors{err}}}
	}
	var p parsed
	for _, c := range splitDocuments(f.Data) {
		i := sort.Search(len(old), func(i int) bool { return old[i].start >= c.line })
		if i < len(old) && old[i].start == c.line && !old[i].flawed && bytes.Equal(old[i].text, c.text) {
			p.docs = append(p.docs, old[i])
			continue
		}
		p.parseDocument(f.Path, c)
	}
	return p
}

// checkText refuses a file that is too large or not text. It also refuses characters
// that end a line in YAML but not in editors, so that line numbers are right.
func checkText(f *File, limit int, remedy string) *Error {
	line := 1
	refuse := func(format string, args ...any) *Error {
		return newError(Position{f.Path, line}, "", format, args...)
	}
	switch {
	case f.Err != nil:
		return refuse("%w", f.Err)
	case len(f.Data) > limit:
		return refuse("the file has %d bytes, the most is %d; %s", len(f.Data), limit, remedy)
	}
	for rest := bytes.TrimPrefix(f.Data, []byte(byteOrderMark)); len(rest) > 0; {
		r, size := utf8.DecodeRune(rest)
		rest = rest[size:]
		switch {
		case r == '\n':
			line++
		case r == 0:
			return refuse("holds a NUL byte; want UTF-8 text")
		case r == utf8.RuneError && size == 1:
			return refuse("is not UTF-8; save the file as UTF-8")
		case r == '\r' && !bytes.HasPrefix(rest, []byte("\n")):
			return refuse("holds a carriage return without a line feed; save the file with LF or CRLF line ends")
		case !isText(r):
			return refuse("holds the character %U; remove it", r)
		}
	}
	return nil
}

// isText tells whether a character is allowed in a file. Control characters, line ends
// other than LF and CRLF, byte order marks and noncharacters are not.
func isText(r rune) bool {
	switch r {
	case '\t', '\r':
		return true
	case 0x2028, 0x2029, 0xfeff, 0xfffe, 0xffff:
		return false
	}
	return r >= ' ' && r < 0x7f || r >= 0xa0
}

// parseDocument reads one document and adds it or its errors.
func (p *parsed) parseDocument(path string, c chunk) {
	root, err := yamlRoot(c)
	if err != nil {
		p.errs.errorf(Position{path, err.line}, "", "%w", err.error)
		return
	}
	if root == nil {
		return
	}
	d := &decoder{path: path, line: c.line, list: &p.errs, first: p.errs.count()}
	doc := &Document{Position: Position{path, c.line + root.Line - 1}, start: c.line, text: c.text}
	if !d.envelope(root, doc) {
		return
	}
	doc.named = c.line + lineOf(root, "metadata.name") - 1
	d.validate(doc, root)
	switch {
	case p.errs.count() == d.first:
		p.docs = append(p.docs, doc)
	case len(d.unknown) == p.errs.count()-d.first && p.errs.more == 0:
		doc.flawed = true
		doc.withoutUnknown(d.unknown)
		p.docs = append(p.docs, doc)
	case isLabel(doc.Name.Name):
		p.broken = append(p.broken, doc.Name)
	}
}

// withoutUnknown has the entries of a policy match nothing that have unknown fields, as
// nobody knows what was meant; all of them, if that is what is to be excluded.
func (d *Document) withoutUnknown(fields []string) {
	spec, is := d.Spec.(*PolicySpec)
	if !is {
		return
	}
	nothing := 0
	for i := range spec.Match {
		if slices.ContainsFunc(fields, func(f string) bool {
			return strings.HasPrefix(f, "spec.exclude[") || strings.HasPrefix(f, fmt.Sprintf("spec.match[%d].", i))
		}) {
			spec.Match[i].Percent = &nothing
		}
	}
}

// lineError is an error at a line of a file.
type lineError struct {
	line int
	error
}

// yamlRoot returns the root node of a document, or nil if it is empty.
func yamlRoot(c chunk) (*yaml.Node, *lineError) {
	dec := yaml.NewDecoder(bytes.NewReader(c.text))
	var node, more yaml.Node
	err := dec.Decode(&node)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err == nil {
		err = dec.Decode(&more) // nothing must follow
	}
	if err == nil {
		return nil, &lineError{c.line + more.Line - 1, errNoSeparator}
	}
	if !errors.Is(err, io.EOF) {
		line, err := errYAML(err, c.text)
		return nil, &lineError{c.line + line - 1, err}
	}
	if len(node.Content) == 0 || isNull(node.Content[0]) {
		return nil, nil
	}
	return node.Content[0], nil
}

var errNoSeparator = errors.New("not YAML: a document begins without a line ---; add one")

// parserErrors are the errors of the YAML library whose line counts from 0, unlike those
// of its scanner.
var parserErrors = []string{
	"did not find expected <document start>", "did not find expected node content", "did not find expected '-' indicator",
	"did not find expected key", "did not find expected ',' or ']'", "did not find expected ',' or '}'",
	"found undefined tag handle", "found duplicate %YAML directive", "found incompatible YAML document", "found duplicate %TAG directive",
}

// errYAML splits an error of the YAML library into the line in the text, from 1, and the
// error without its line.
func errYAML(err error, text []byte) (int, error) {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	var line int
	if _, scanErr := fmt.Sscanf(msg, "line %d:", &line); scanErr == nil {
		_, msg, _ = strings.Cut(msg, ": ")
	}
	if slices.Contains(parserErrors, msg) {
		line++
	}
	// The library counts the end of the text as a line.
	line = max(min(line, bytes.Count(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))+1), 1)
	if msg == "did not find expected <document start>" {
		return line, errNoSeparator
	}
	return line, errors.New("not YAML: " + msg)
}

// envelope decodes apiVersion, kind, metadata and spec. It returns false if the document
// is not gray's, so that nothing else is checked.
func (d *decoder) envelope(root *yaml.Node, doc *Document) bool {
	if root.Kind != yaml.MappingNode {
		d.errorf(root, "", "want a mapping with kind, metadata and spec, got %s", describe(root))
		return false
	}
	at, version := root, APIVersion
	if i := indexOf(root, "apiVersion"); i >= 0 {
		at = root.Content[i+1]
		if !d.required(root, "apiVersion", reflect.ValueOf(&version)) {
			return false
		}
	}
	if version != APIVersion {
		d.errorf(at, "apiVersion", "%q is not supported; want %s, or list the file in %s", clip(version), APIVersion, IgnoreFile)
		return false
	}
	if indexOf(root, "kind") < 0 {
		d.errorf(root, "kind", "is missing; a file that is not for gray belongs in %s", IgnoreFile)
		return false
	}
	if !d.required(root, "kind", reflect.ValueOf(&doc.Kind)) {
		return false
	}
	doc.Spec = newSpec(doc.Kind)
	if doc.Spec == nil {
		d.errorf(root.Content[indexOf(root, "kind")+1], "kind", "%q is not known; want %s", clip(doc.Kind), orList(Kinds()))
		return false
	}
	d.untagged(root, "")
	for key := range d.pairs(root, "") {
		if !slices.Contains([]string{"apiVersion", "kind", "metadata", "spec"}, key.Value) {
			d.unknown = append(d.unknown, fieldName("", key.Value))
			d.errorf(key, fieldName("", key.Value), "unknown field; a document has apiVersion, kind, metadata and spec")
		}
	}
	d.required(root, "metadata", reflect.ValueOf(&doc.Metadata))
	doc.Name.Name = doc.Metadata.Name
	d.required(root, "spec", reflect.ValueOf(doc.Spec))
	return true
}

// required decodes a required field of the envelope into a pointer. It returns false if
// the field has an error.
func (d *decoder) required(root *yaml.Node, field string, into reflect.Value) bool {
	before := d.list.count()
	if i := indexOf(root, field); i < 0 {
		d.errorf(root, field, "is missing")
	} else {
		d.field(root.Content[i], root.Content[i+1], into.Elem(), field, rules{required: true})
	}
	return d.list.count() == before
}

// indexOf is the index of a key in a mapping's content, or -1.
func indexOf(node *yaml.Node, key string) int {
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == key {
			return i
		}
	}
	return -1
}

// MaxCSV is the largest routesFrom file, in bytes.
const MaxCSV = 16 << 20

var routesHeader = []string{"vm", "prefix", "mac", "vtep"}

// parseRoutes reads a routesFrom file.
func parseRoutes(f *File) ([]Route, Errors) {
	if err := checkText(f, MaxCSV, "split the network"); err != nil {
		return nil, Errors{err}
	}
	var errs errorList
	r := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(f.Data, []byte(byteOrderMark))))
	r.FieldsPerRecord = len(routesHeader)
	r.ReuseRecord = true
	header, err := r.Read()
	if err != nil || !slices.Equal(header, routesHeader) {
		errs.errorf(Position{f.Path, 1}, "", "the first line is not %s; write it there", strings.Join(routesHeader, ","))
		return nil, errs.list()
	}
	var routes []Route
	seen := map[Prefix]int{}
	for {
		record, err := r.Read()
		if errors.Is(err, io.EOF) {
			return routes, errs.list()
		}
		if syntax, ok := errors.AsType[*csv.ParseError](err); ok {
			errs.errorf(Position{f.Path, syntax.Line}, "", "not CSV: %w", syntax.Err)
			if !errors.Is(err, csv.ErrFieldCount) {
				return routes, errs.list() // after a wrong quote, more errors would be noise
			}
			continue
		}
		line, _ := r.FieldPos(0)
		before := errs.count()
		route := parseRoute(record, Position{f.Path, line}, &errs)
		if first, twice := seen[route.Prefix]; twice && errs.count() == before {
			errs.errorf(Position{f.Path, line}, "prefix", "%s is routed already, at line %d", route.Prefix, first)
		}
		if errs.count() == before {
			seen[route.Prefix] = line
			routes = append(routes, route)
		}
	}
}

func parseRoute(record []string, at Position, errs *errorList) Route {
	// The fields are slices of the record's string; a clone lets it be freed.
	route := Route{VM: strings.Clone(record[0])}
	if route.VM == "" {
		errs.errorf(at, "vm", "is empty; fill it in")
	}
	for i, s := range []encoding.TextUnmarshaler{&route.Prefix, &route.MAC, &route.VTEP} {
		if err := s.UnmarshalText([]byte(record[i+1])); err != nil {
			errs.errorf(at, routesHeader[i+1], "%w", err)
		}
	}
	return route
}
