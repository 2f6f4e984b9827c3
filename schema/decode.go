package schema

import (
	"encoding"
	"fmt"
	"iter"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// maxNodes bounds the YAML nodes of a document with its aliases expanded, as a few
// lines of aliases can expand to very many.
const maxNodes = 200_000

// maxDepth bounds how deep values nest, as aliases can make them endless.
const maxDepth = 32

// decoder decodes YAML nodes into typed values. It continues after an error, so that
// one run reports all of them.
type decoder struct {
	path    string // of the file
	line    int    // of the document's first line; node lines count from 1 within it
	nodes   int    // visited so far
	depth   int
	list    *errorList // of the file
	first   int        // how many errors the file had before this document
	unknown []string   // the unknown fields of the document
}

func (d *decoder) errorf(node *yaml.Node, field, format string, args ...any) {
	d.list.errorf(Position{d.path, d.line + node.Line - 1}, field, format, args...)
}

// visit counts a node. It returns false if there are too many.
func (d *decoder) visit(node *yaml.Node, field string) bool {
	if d.nodes == maxNodes {
		d.errorf(node, field, "the document expands to more than %d values; write out its aliases or split it", maxNodes)
	}
	d.nodes++
	return !d.exhausted()
}

// exhausted tells whether the document has too many nodes.
func (d *decoder) exhausted() bool { return d.nodes > maxNodes }

// textUnmarshaler is implemented by the scalar types of this package.
var textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()

// value decodes a node into v, which is addressable.
func (d *decoder) value(node *yaml.Node, v reflect.Value, field string, rules rules) {
	node = resolve(node)
	if !d.visit(node, field) || !d.untagged(node, field) {
		return
	}
	if d.depth == maxDepth {
		d.errorf(node, field, "is nested more than %d deep; make it flatter", maxDepth)
		return
	}
	d.depth++
	defer func() { d.depth-- }()
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		v = v.Elem()
	}
	if reflect.PointerTo(v.Type()).Implements(textUnmarshaler) {
		d.text(node, v, field)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.structure(node, v, field)
	case reflect.Slice:
		d.slice(node, v, field, rules)
	case reflect.Map:
		d.mapping(node, v, field, rules)
	case reflect.String:
		if d.scalar(node, field, "!!str", "a string") {
			d.str(node, v, field, rules)
		}
	case reflect.Bool:
		if d.scalar(node, field, "!!bool", "true or false") {
			v.SetBool(strings.EqualFold(node.Value, "true"))
		}
	case reflect.Interface:
		d.free(node, v, field)
	default:
		d.integer(node, v, field, rules)
	}
}

// untagged refuses tags, which could give a value another type than it appears to
// have.
func (d *decoder) untagged(node *yaml.Node, field string) bool {
	if node.Style&yaml.TaggedStyle == 0 {
		return true
	}
	d.errorf(node, field, "has the tag %s; remove it", clip(node.Tag))
	return false
}

// isNull tells whether a node is null.
func isNull(node *yaml.Node) bool {
	node = resolve(node)
	return node.Kind == yaml.ScalarNode && node.Style&yaml.TaggedStyle == 0 && node.ShortTag() == "!!null"
}

// scalar checks that a node is a scalar with a tag.
func (d *decoder) scalar(node *yaml.Node, field, tag, want string) bool {
	if node.Kind == yaml.ScalarNode && node.ShortTag() == tag {
		return true
	}
	hint := ""
	if tag == "!!str" && node.Kind == yaml.ScalarNode {
		hint = fmt.Sprintf("; write %q", clip(node.Value))
	}
	d.errorf(node, field, "want %s, got %s%s", want, describe(node), hint)
	return false
}

// describe describes a node for an error.
func describe(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch node.ShortTag() {
	case "!!str":
		return "the string " + strconv.Quote(clip(node.Value))
	case "!!int", "!!float":
		return "the number " + clip(node.Value)
	case "!!null":
		return "nothing"
	}
	return clip(node.Value)
}

// text decodes a scalar by its UnmarshalText.
func (d *decoder) text(node *yaml.Node, v reflect.Value, field string) {
	tag := node.ShortTag()
	if node.Kind != yaml.ScalarNode || tag != "!!str" && tag != "!!int" && tag != "!!float" {
		d.errorf(node, field, "want a single value, got %s", describe(node))
		return
	}
	if tag == "!!str" && scalarSchemas[v.Type()]["type"] == "integer" {
		d.errorf(node, field, "want a whole number, got %s", describe(node))
		return
	}
	if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(node.Value)); err != nil {
		d.errorf(node, field, "%w", err)
	}
}

func (d *decoder) str(node *yaml.Node, v reflect.Value, field string, rules rules) {
	s := node.Value
	v.SetString(s)
	switch {
	case rules.enum != nil && !slices.Contains(rules.enum, s):
		d.errorf(node, field, "%q is not known; want %s", clip(s), orList(rules.enum))
	case rules.label && !isLabel(s):
		d.errorf(node, field, "%q is not a name; want an RFC 1123 label: up to 63 of a-z, 0-9 and -, with a letter or digit at both ends", clip(s))
	case strings.ContainsFunc(s, unicode.IsControl):
		d.errorf(node, field, "holds a control character; remove it")
	}
}

func orList(words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

// isLabel tells whether a string is an RFC 1123 label.
func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r != '-' && (r < 'a' || r > 'z') && (r < '0' || r > '9')
	})
}

// integer decodes a whole number in decimal digits. Other notations are refused, as
// YAML parsers do not agree on them.
func (d *decoder) integer(node *yaml.Node, v reflect.Value, field string, rules rules) {
	digits := strings.TrimPrefix(node.Value, "-")
	switch {
	case node.Kind != yaml.ScalarNode || node.Style != 0 || strings.Trim(digits, "0123456789") != "" || digits == "":
		d.errorf(node, field, "want a whole number, got %s", describe(node))
		return
	case digits[0] == '0' && len(digits) > 1:
		d.errorf(node, field, "%s has a leading zero; remove it", clip(node.Value))
		return
	}
	low, high := rules.bounds(v.Kind())
	// A number of 24 digits is out of range, whatever follows.
	n, _ := new(big.Int).SetString(node.Value[:min(len(node.Value), 24)], 10)
	switch {
	case n.Cmp(low) < 0 || n.Cmp(high) > 0:
		d.errorf(node, field, "%s is out of range; want %s to %s", clip(node.Value), low, high)
	case v.CanUint():
		v.SetUint(n.Uint64())
	default:
		v.SetInt(n.Int64())
	}
}

// structure decodes a mapping into a struct: every key must be a field, once.
func (d *decoder) structure(node *yaml.Node, v reflect.Value, field string) {
	fields := fieldsOf(v.Type())
	if fields.line >= 0 {
		v.Field(fields.line).SetInt(int64(d.line + node.Line - 1))
	}
	if node.Kind != yaml.MappingNode {
		d.errorf(node, field, "want a mapping, got %s", describe(node))
		return
	}
	seen := map[string]bool{}
	for key, val := range d.pairs(node, field) {
		name := fieldName(field, key.Value)
		f, known := fields.byName[key.Value]
		if !known {
			d.unknown = append(d.unknown, name)
			d.errorf(key, name, "unknown field%v", suggestion{fields, key.Value})
			continue
		}
		seen[key.Value] = d.field(key, val, v.Field(f.index), name, f.rules)
	}
	if d.exhausted() {
		return
	}
	for _, f := range fields.list {
		switch {
		case seen[f.name]:
		case f.rules.required:
			d.errorf(node, fieldName(field, f.name), "is missing")
		default:
			f.rules.setDefault(v.Field(f.index))
		}
	}
}

// field decodes the value of a key. It returns false if the value is null and the field
// counts as absent.
func (d *decoder) field(key, val *yaml.Node, v reflect.Value, name string, rules rules) bool {
	before := d.list.count()
	switch {
	case isNull(val) && !rules.required:
		return false
	case isNull(val):
		d.errorf(key, name, "is empty; fill it in")
	default:
		d.value(val, v, name, rules)
		if !isEmpty(v) || d.list.count() > before {
			return true
		}
		if rules.required {
			d.errorf(key, name, "is empty; fill it in")
		} else if rules.nonempty {
			d.errorf(key, name, "is empty; fill it in or remove it")
		}
	}
	return true
}

// isEmpty tells whether a list, mapping or string is empty.
func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map, reflect.String:
		return v.Len() == 0
	}
	return false
}

// pairs yields a mapping's keys and values. It reports keys that are not strings or
// come twice, and merge keys.
func (d *decoder) pairs(node *yaml.Node, field string) iter.Seq2[*yaml.Node, *yaml.Node] {
	return func(yield func(k, v *yaml.Node) bool) {
		seen := make(map[string]int, len(node.Content)/2)
		for i := 0; i+1 < len(node.Content) && d.visit(node.Content[i], field); i += 2 {
			key := node.Content[i]
			switch first, twice := seen[key.Value]; {
			case key.Kind == yaml.ScalarNode && key.ShortTag() == "!!merge":
				d.errorf(key, field, "merge keys (<<) are not read; write the fields out")
			case key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str":
				d.errorf(key, field, "want a string as key, got %s", describe(resolve(key)))
			case strings.ContainsFunc(key.Value, unicode.IsControl):
				d.errorf(key, field, "the key %q holds a control character; remove it", clip(key.Value))
			case twice:
				d.errorf(key, fieldName(field, key.Value), "is given twice, first at line %d", first)
			default:
				seen[key.Value] = d.line + key.Line - 1
				if !yield(key, node.Content[i+1]) {
					return
				}
			}
		}
	}
}

// fieldName is the name of a field within another, for an error.
func fieldName(field, name string) string {
	name = plain(name, 80)
	if field == "" {
		return name
	}
	return field + "." + name
}

func (d *decoder) slice(node *yaml.Node, v reflect.Value, field string, rules rules) {
	if node.Kind != yaml.SequenceNode {
		d.errorf(node, field, "want a list, got %s", describe(node))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(node.Content), len(node.Content)))
	for i, item := range node.Content {
		name := field + "[" + strconv.Itoa(i) + "]"
		switch {
		case d.exhausted():
			return
		case isNull(item) && v.Type().Elem().Kind() != reflect.Interface:
			d.visit(item, name)
			d.errorf(item, name, "is empty; fill it in or remove it")
		default:
			d.value(item, v.Index(i), name, rules)
		}
	}
}

func (d *decoder) mapping(node *yaml.Node, v reflect.Value, field string, rules rules) {
	if node.Kind != yaml.MappingNode {
		d.errorf(node, field, "want a mapping, got %s", describe(node))
		return
	}
	v.Set(reflect.MakeMapWithSize(v.Type(), len(node.Content)/2))
	for key, val := range d.pairs(node, field) {
		item := reflect.New(v.Type().Elem()).Elem()
		d.value(val, item, fieldName(field, key.Value), rules)
		v.SetMapIndex(reflect.ValueOf(key.Value), item)
	}
}

// free decodes a value of any type.
func (d *decoder) free(node *yaml.Node, v reflect.Value, field string) {
	switch node.Kind {
	case yaml.MappingNode:
		m := reflect.New(reflect.TypeFor[map[string]any]()).Elem()
		d.mapping(node, m, field, rules{})
		v.Set(m)
	case yaml.SequenceNode:
		l := reflect.New(reflect.TypeFor[[]any]()).Elem()
		d.slice(node, l, field, rules{})
		v.Set(l)
	default:
		var x any
		if node.ShortTag() == "!!timestamp" {
			x = node.Value // dates are strings
		} else if err := node.Decode(&x); err != nil {
			d.errorf(node, field, "%w", err)
			return
		}
		v.Set(reflect.ValueOf(&x).Elem())
	}
}
