package main

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
)

// unseen are the fields that may change without a plan that says so, and why.
var unseen = map[string]string{
	"Gateway metadata.labels.*":     onlyNetworks,
	"GrayPolicy metadata.labels.*":  onlyNetworks,
	"Node metadata.labels.*":        onlyNetworks,
	"Service metadata.labels.*":     onlyNetworks,
	"Switch metadata.labels.*":      onlyNetworks,
	"Service spec.healthCheck.icmp": "a Service has none",
}

const onlyNetworks = "only networkSelector looks at labels, at those of Networks"

// specs are the types that documents are read into.
var specs = map[string]reflect.Type{
	schema.KindPolicy:  reflect.TypeFor[schema.PolicySpec](),
	schema.KindService: reflect.TypeFor[schema.ServiceSpec](),
	schema.KindGateway: reflect.TypeFor[schema.GatewaySpec](),
	schema.KindSwitch:  reflect.TypeFor[schema.SwitchSpec](),
	schema.KindNetwork: reflect.TypeFor[schema.NetworkSpec](),
	schema.KindNode:    reflect.TypeFor[schema.NodeSpec](),
}

// TestEveryFieldIsCompared changes each field of each kind of document, one at a time,
// but for what is its identity: apiVersion, kind and metadata.name.
// and holds that the plan from one to the other is not empty.
func TestEveryFieldIsCompared(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector finds nothing in it: one goroutine does all")
	}
	if !slices.Equal(slices.Sorted(maps.Keys(specs)), schema.Kinds()) {
		t.Fatalf("the kinds are %v; give each its type here", schema.Kinds())
	}
	f := newFields(t)
	left := maps.Clone(unseen)
	for _, kind := range schema.Kinds() {
		labels := leavesAt(reflect.TypeFor[map[string]string](), []string{"metadata", "labels"}, "")
		for _, l := range append(labels, leavesOf(specs[kind], []string{"spec"})...) {
			name := kind + " " + strings.Join(l.path, ".")
			delete(left, name)
			switch seen, err := f.change(kind, l); {
			case err != nil && unseen[name] == "":
				t.Errorf("%s cannot be changed: %v", name, err)
			case !seen && unseen[name] == "":
				t.Errorf("%s changes, and the plan is empty; compare it, or say in unseen why nothing acts on it", name)
			case seen && unseen[name] != "":
				t.Errorf("%s is in unseen, and a plan shows it", name)
			}
		}
	}
	for name := range left {
		t.Errorf("%s is in unseen and is no field", name)
	}
}

// leaf is a field that holds no other ones: its path, with "*" for what comes more
// than once.
type leaf struct {
	path []string
	typ  reflect.Type
	tag  string
}

func leavesOf(t reflect.Type, at []string) (all []leaf) {
	for i := range t.NumField() {
		f := t.Field(i)
		if name := f.Tag.Get("json"); name != "-" {
			all = append(all, leavesAt(f.Type, append(slices.Clone(at), name), f.Tag.Get("gray"))...)
		}
	}
	return all
}

func leavesAt(t reflect.Type, at []string, tag string) []leaf {
	text := reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
	switch {
	case t.Kind() == reflect.Pointer:
		return leavesAt(t.Elem(), at, tag)
	case !text && (t.Kind() == reflect.Slice || t.Kind() == reflect.Map):
		return leavesAt(t.Elem(), append(slices.Clone(at), "*"), tag)
	case !text && t.Kind() == reflect.Struct && t.NumField() > 0:
		return leavesOf(t, at)
	}
	return []leaf{{at, t, tag}}
}

// fields is documents that set all fields.
type fields struct {
	files    []*schema.File // beside the documents
	texts    [][]byte       // the documents
	labels   []any          // every name in them
	offline  reconciler.Offline
	compiled *reconciler.Compiled
}

func newFields(t *testing.T) *fields {
	t.Helper()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	f := &fields{}
	file := func(path, from string) []byte {
		b, err := os.ReadFile(filepath.FromSlash(from))
		ok(err)
		f.files = append(f.files, &schema.File{Path: path, ID: path, Data: b})
		return b
	}
	file("csv/one.csv", "testdata/fields/csv/one.csv")
	file("csv/two.csv", "testdata/fields/csv/two.csv")
	file("pipe/p4info.txtpb", "../../sinks/p4rt/pipeline/gray_v1model.p4info.txtpb")
	f.files = append(f.files, &schema.File{Path: "pipe/device_config.bin", ID: "pipe", Data: []byte("one")})
	b, err := os.ReadFile(filepath.FromSlash("testdata/fields/documents.yaml"))
	ok(err)
	names := map[string]bool{}
	for d := yaml.NewDecoder(bytes.NewReader(b)); ; {
		var doc map[string]any
		err := d.Decode(&doc)
		if errors.Is(err, io.EOF) {
			break
		}
		ok(err)
		for _, path := range []string{"metadata.name", "spec.versions.*.name"} {
			for _, p := range placesAt(doc, strings.Split(path, ".")) {
				names[p.value.(string)] = true
			}
		}
		text, err := yaml.Marshal(doc)
		ok(err)
		f.texts = append(f.texts, text)
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		f.labels = append(f.labels, name)
	}
	f.offline, err = newOffline()
	ok(err)
	f.compiled, err = f.compile(f.texts, reconciler.Nothing())
	ok(err)
	return f
}

func (f *fields) compile(texts [][]byte, was *reconciler.Compiled) (*reconciler.Compiled, error) {
	files := slices.Clone(f.files)
	for i, text := range texts {
		files = append(files, &schema.File{Path: fmt.Sprintf("%02d.yaml", i), ID: string(text), Data: text})
	}
	return f.offline.Compile(&schema.Snapshot{Revision: "x", Files: schema.NewFiles(files...)}, was)
}

// change gives a field other values where it stands, and tells whether a plan shows
// any. The error says why no value is valid.
func (f *fields) change(kind string, l leaf) (seen bool, err error) {
	err, valid := errors.New("no document sets it"), false
	for i, text := range f.texts {
		places := func() (doc map[string]any, all []place) {
			_ = yaml.Unmarshal(text, &doc)
			if doc["kind"] == kind {
				all = placesAt(doc, l.path)
			}
			return doc, all
		}
		_, all := places()
		for n, p := range all {
			for _, value := range f.others(l, p.value) {
				if fmt.Sprint(value) == fmt.Sprint(p.value) {
					continue
				}
				doc, again := places()
				again[n].set(value)
				texts := slices.Clone(f.texts)
				texts[i], _ = yaml.Marshal(doc)
				is, wrong := f.compile(texts, f.compiled)
				if wrong != nil {
					err = wrong
					continue
				}
				valid = true
				if p := is.Plan(f.compiled, "x"); len(p.Changes)+len(p.Rollouts) > 0 {
					return true, nil
				}
			}
		}
	}
	if valid {
		err = nil
	}
	return false, err
}

// place is where a field stands in a document.
type place struct {
	value any
	set   func(any)
}

// instead is a value of another field, in place of one that has a single value.
type instead struct {
	field string
	value any
}

func placesAt(v any, path []string) (all []place) {
	found := func(value any, set func(any)) {
		if len(path) == 1 {
			all = append(all, place{value, set})
			return
		}
		all = append(all, placesAt(value, path[1:])...)
	}
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			if path[0] == "*" || path[0] == k {
				found(v[k], func(value any) {
					if other, is := value.(instead); is {
						delete(v, k)
						k, value = other.field, other.value
					}
					v[k] = value
				})
			}
		}
	case []any:
		for i := range v {
			found(v[i], func(value any) { v[i] = value })
		}
	}
	return all
}

// others are other values of a field, of which some may be wrong.
func (f *fields) others(l leaf, was any) []any {
	text := fmt.Sprint(was)
	parts := strings.Split(l.tag, ",")
	for _, rule := range parts {
		if values, is := strings.CutPrefix(rule, "enum="); is {
			all := []any{}
			for value := range strings.SplitSeq(values, "|") {
				if value != text {
					all = append(all, value)
				}
			}
			return all
		}
	}
	number, _ := strconv.Atoi(text)
	switch l.typ {
	case reflect.TypeFor[schema.Addr]():
		return []any{netip.MustParseAddr(text).Next().String()}
	case reflect.TypeFor[schema.Prefix]():
		p := netip.MustParsePrefix(text)
		a := p.Addr().As4()
		a[2]++
		return []any{netip.PrefixFrom(netip.AddrFrom4(a), p.Bits()).String()}
	case reflect.TypeFor[schema.MAC]():
		return []any{text[:len(text)-2] + "77"}
	case reflect.TypeFor[schema.Duration]():
		d, _ := time.ParseDuration(text)
		return []any{(2 * d).String(), (d / 2).String()}
	case reflect.TypeFor[schema.Percent](), reflect.TypeFor[schema.Batch]():
		return []any{"7%", "2"}
	case reflect.TypeFor[schema.Protocol]():
		return []any{"udp"}
	case reflect.TypeFor[schema.PortRange]():
		return []any{"2000-2001"}
	case reflect.TypeFor[schema.Community]():
		return []any{"64512:101"}
	}
	switch l.typ.Kind() {
	case reflect.Bool:
		return []any{was != true}
	case reflect.String:
		all := []any{text + "1", "1" + text, "csv/two.csv", "192.0.2.9:9559", "v1model"}
		if slices.Contains(parts, "label") {
			return append(slices.Clone(f.labels), all...)
		}
		return all
	case reflect.Struct: // icmp: {}
		return []any{instead{"tcp", map[string]any{"port": 80}}}
	case reflect.Interface: // what is free
		return []any{map[string]any{"MODE": "two"}}
	}
	return []any{number + 1, number - 1, 2 * number}
}
