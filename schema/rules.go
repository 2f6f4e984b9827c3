package schema

import (
	"math"
	"math/big"
	"reflect"
	"strconv"
	"strings"
	"sync"
)

// rules is the content of a field's gray tag.
type rules struct {
	required, nonempty, label bool

	min, max *int64
	def      string
	enum     []string
}

// parseRules reads a tag. A wrong tag is a bug in this package and panics at first use.
func parseRules(tag string) rules {
	var r rules
	for word := range strings.SplitSeq(tag, ",") {
		key, val, _ := strings.Cut(word, "=")
		switch key {
		case "":
		case "required":
			r.required = true
		case "nonempty":
			r.nonempty = true
		case "label":
			r.label = true
		case "min":
			r.min = mustInt(val)
		case "max":
			r.max = mustInt(val)
		case "default":
			r.def = val
		case "enum":
			r.enum = strings.Split(val, "|")
		default:
			panic("schema: unknown rule " + word)
		}
	}
	return r
}

func mustInt(s string) *int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		panic("schema: " + err.Error())
	}
	return &n
}

// bounds is the range of an integer field of a kind.
func (r rules) bounds(kind reflect.Kind) (low, high *big.Int) {
	low, high = big.NewInt(math.MinInt64), big.NewInt(math.MaxInt64)
	switch kind {
	case reflect.Uint64:
		low, high = big.NewInt(0), new(big.Int).SetUint64(math.MaxUint64)
	case reflect.Uint32:
		low, high = big.NewInt(0), big.NewInt(math.MaxUint32)
	}
	if r.min != nil {
		low = big.NewInt(*r.min)
	}
	if r.max != nil {
		high = big.NewInt(*r.max)
	}
	return low, high
}

// setDefault fills an absent field with its default or the first value of its enum.
func (r rules) setDefault(v reflect.Value) {
	switch {
	case v.Kind() == reflect.Int && r.def != "":
		v.SetInt(*mustInt(r.def))
	case v.Kind() == reflect.Uint64 && r.def != "":
		v.SetUint(uint64(*mustInt(r.def)))
	case v.Kind() == reflect.String && r.def != "":
		v.SetString(r.def)
	case v.Kind() == reflect.String && r.enum != nil:
		v.SetString(r.enum[0])
	}
}

// structField is a field that documents may set.
type structField struct {
	name, doc string
	index     int
	rules     rules
}

// structFields is the fields of one struct type.
type structFields struct {
	list   []structField
	byName map[string]structField
	line   int // the index of the field Line, which gets the line of the value, or -1
}

var fieldCache sync.Map // reflect.Type -> *structFields

// fieldsOf returns the fields of a struct type of this package.
func fieldsOf(t reflect.Type) *structFields {
	if c, ok := fieldCache.Load(t); ok {
		return c.(*structFields)
	}
	fields := &structFields{byName: map[string]structField{}, line: -1}
	for i := range t.NumField() {
		sf := t.Field(i)
		name := sf.Tag.Get("json")
		if sf.Name == "Line" {
			fields.line = i
		}
		if name == "" || name == "-" {
			continue
		}
		f := structField{name: name, doc: sf.Tag.Get("doc"), index: i, rules: parseRules(sf.Tag.Get("gray"))}
		fields.list = append(fields.list, f)
		fields.byName[name] = f
	}
	c, _ := fieldCache.LoadOrStore(t, fields)
	return c.(*structFields)
}

// suggestion names the field that an unknown key probably means. It is worked out only
// if an error is printed.
type suggestion struct {
	fields *structFields
	key    string
}

// String returns "; did you mean <field>?", or "".
func (s suggestion) String() string {
	best, bestDistance := "", min(3, len(s.key)/2+1)
	for _, f := range s.fields.list {
		if d := distance(strings.ToLower(s.key), strings.ToLower(f.name)); d < bestDistance {
			best, bestDistance = f.name, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// distance is the Levenshtein distance, or a large number if the lengths differ by more
// than 3.
func distance(a, b string) int {
	if len(a) > len(b)+3 || len(b) > len(a)+3 {
		return math.MaxInt
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost++
			}
			diag = row[j+1]
			row[j+1] = min(cost, row[j]+1, diag+1)
		}
	}
	return row[len(b)]
}

// withDefaults returns a struct of documents with the defaults of all its fields.
func withDefaults[T any]() *T {
	p := new(T)
	for _, f := range fieldsOf(reflect.TypeFor[T]()).list {
		f.rules.setDefault(reflect.ValueOf(p).Elem().Field(f.index))
	}
	return p
}
