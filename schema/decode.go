package schema

import (
	"encoding"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxNodes bounds how many YAML nodes a document may hold once its aliases are
// expanded, so that a few lines of aliases cannot grow without end.
const maxNodes = 200_000

// decoder fills typed values from YAML nodes. It goes on after an error, so
// that one run reports all of them.
type decoder struct {
	path  string // of the file
	line  int    // of the document's first line; node lines count from 1 within it
	nodes int    // visited so far
	errs  Errors
}

func (d *decoder) errorf(node *yaml.Node, field, format string, args ...any) {
	pos := Position{d.path, d.line + node.Line - 1}
	d.errs = append(d.errs, &Error{Position: pos, Field: field, Err: fmt.Errorf(format, args...)})
}

// textUnmarshaler is implemented by the scalar types of this package.
var textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()

// value decodes a node into v, which is addressable.
func (d *decoder) value(node *yaml.Node, v reflect.Value, field string, rules rules) {
	node = resolve(node)
	if d.nodes++; d.nodes > maxNodes {
		if d.nodes == maxNodes+1 {
			d.errorf(node, field, "the document expands to more than %d values; write out its aliases or split it", maxNodes)
		}
		return
	}
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
			v.SetBool(node.Value == "true" || node.Value == "True" || node.Value == "TRUE")
		}
	case reflect.Interface:
		d.free(node, v, field)
	default:
		if d.scalar(node, field, "!!int", "a whole number") {
			d.integer(node, v, field, rules)
		}
	}
}

// scalar checks that a node is a scalar of a tag.
func (d *decoder) scalar(node *yaml.Node, field, tag, want string) bool {
	if node.Kind == yaml.ScalarNode && node.ShortTag() == tag {
		return true
	}
	hint := ""
	if tag == "!!str" && node.Kind == yaml.ScalarNode {
		hint = fmt.Sprintf("; write %q", node.Value)
	}
	d.errorf(node, field, "want %s, got %s%s", want, describe(node), hint)
	return false
}

// describe names what a node holds, for an error.
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

// clip keeps a value that is quoted in an error short.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}

// text decodes a scalar by its own parser.
func (d *decoder) text(node *yaml.Node, v reflect.Value, field string) {
	tag := node.ShortTag()
	if node.Kind != yaml.ScalarNode || tag != "!!str" && tag != "!!int" && tag != "!!float" {
		d.errorf(node, field, "want a single value, got %s", describe(node))
		return
	}
	if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(node.Value)); err != nil {
		d.errorf(node, field, "%s", clipError(err))
	}
}

func clipError(err error) string {
	s := err.Error()
	if len(s) > 300 {
		return strings.ToValidUTF8(s[:300], "") + "..."
	}
	return s
}

func (d *decoder) str(node *yaml.Node, v reflect.Value, field string, rules rules) {
	s := node.Value
	v.SetString(s)
	switch {
	case rules.enum != nil && !slices.Contains(rules.enum, s):
		d.errorf(node, field, "%q is not known; want %s", clip(s), orList(rules.enum))
	case rules.label && !isLabel(s):
		d.errorf(node, field, "%q is not a name; want an RFC 1123 label: up to 63 of a-z, 0-9 and -, with a letter or digit at both ends", clip(s))
	case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
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

func (d *decoder) integer(node *yaml.Node, v reflect.Value, field string, rules rules) {
	n, ok := new(big.Int).SetString(strings.ReplaceAll(node.Value, "_", ""), 0)
	if !ok {
		d.errorf(node, field, "want a whole number, got %s", describe(node))
		return
	}
	low, high := rules.bounds(v.Kind())
	if n.Cmp(low) < 0 || n.Cmp(high) > 0 {
		d.errorf(node, field, "%s is out of range; want %s to %s", clip(node.Value), low, high)
		return
	}
	if v.CanUint() {
		v.SetUint(n.Uint64())
		return
	}
	v.SetInt(n.Int64())
}

// structure decodes a mapping into a struct: every key must be a field, once.
func (d *decoder) structure(node *yaml.Node, v reflect.Value, field string) {
	if f := v.FieldByName("Line"); f.IsValid() {
		f.SetInt(int64(d.line + node.Line - 1))
	}
	if node.Kind != yaml.MappingNode {
		d.errorf(node, field, "want a mapping, got %s", describe(node))
		return
	}
	fields := fieldsOf(v.Type())
	seen := map[string]bool{}
	for key, val := range d.pairs(node, field) {
		name := join(field, key.Value)
		f, known := fields.byName[key.Value]
		if !known {
			d.errorf(key, name, "unknown field%s", fields.suggest(key.Value))
			continue
		}
		if resolve(val).ShortTag() == "!!null" {
			continue // as absent
		}
		seen[key.Value] = true
		before := len(d.errs)
		if f.rules.unsupported && !isZeroNode(resolve(val)) {
			d.errorf(key, name, "not supported yet; remove it")
			continue
		}
		d.value(val, v.Field(f.index), name, f.rules)
		if len(d.errs) == before && f.rules.required && isEmpty(v.Field(f.index)) {
			d.errorf(key, name, "is empty; fill it in")
		}
	}
	for _, f := range fields.list {
		switch {
		case seen[f.name]:
		case f.rules.required:
			d.errorf(node, join(field, f.name), "is missing")
		default:
			f.rules.setDefault(v.Field(f.index))
		}
	}
}

// isEmpty tells whether a value that is there holds nothing.
func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		return v.Len() == 0
	case reflect.String:
		return v.Len() == 0
	}
	return false
}

// isZeroNode tells whether a node says what its absence says: "suspend: false"
// asks for nothing, so a field that is not supported yet may say it.
func isZeroNode(node *yaml.Node) bool {
	return node.Kind == yaml.ScalarNode && node.ShortTag() == "!!bool" && strings.EqualFold(node.Value, "false")
}

// pairs yields a mapping's keys and values; a key that is no string or comes
// twice is an error, and so are merge keys.
func (d *decoder) pairs(node *yaml.Node, field string) func(yield func(k, v *yaml.Node) bool) {
	return func(yield func(k, v *yaml.Node) bool) {
		seen := make(map[string]int, len(node.Content)/2)
		for i := 0; i+1 < len(node.Content); i += 2 {
			key := node.Content[i]
			switch first, twice := seen[key.Value]; {
			case key.Kind == yaml.ScalarNode && key.ShortTag() == "!!merge":
				d.errorf(key, field, "merge keys (<<) are not read; write the fields out")
			case key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str":
				d.errorf(key, field, "want a string as key, got %s", describe(resolve(key)))
			case twice:
				d.errorf(key, join(field, key.Value), "stands here twice, first at line %d", first)
			default:
				seen[key.Value] = d.line + key.Line - 1
				if !yield(key, node.Content[i+1]) {
					return
				}
			}
		}
	}
}

func join(field, name string) string {
	if len(name) > 80 {
		name = clip(name)
	}
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
		if resolve(item).ShortTag() == "!!null" {
			d.errorf(item, name, "is empty")
			continue
		}
		d.value(item, v.Index(i), name, rules)
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
		d.value(val, item, join(field, key.Value), rules)
		v.SetMapIndex(reflect.ValueOf(key.Value), item)
	}
}

// free decodes a value of no fixed type.
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
		if err := node.Decode(&x); err != nil {
			d.errorf(node, field, "%s", clipError(err))
			return
		}
		v.Set(reflect.ValueOf(&x).Elem())
	}
}

// errYAML turns a parser's message into one without its prefix and with the
// line it names, 0 where it names none.
func errYAML(err error) (int, error) {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	var line int
	if _, scanErr := fmt.Sscanf(msg, "line %d:", &line); scanErr == nil {
		_, msg, _ = strings.Cut(msg, ": ")
	}
	return line, errors.New("not YAML: " + msg)
}
