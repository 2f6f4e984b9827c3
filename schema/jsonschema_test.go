package schema

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/gray-release/gray"
)

// compileSchema compiles a JSON Schema as an editor does, formats included.
func compileSchema(t testing.TB, text []byte) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("gray.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("gray.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func schemaOf(t testing.TB, kind string) *jsonschema.Schema {
	t.Helper()
	text, err := JSONSchema(kind)
	if err != nil {
		t.Fatal(err)
	}
	return compileSchema(t, text)
}

// instance turns a YAML document into what a JSON Schema is held against.
func instance(t testing.TB, text []byte) any {
	t.Helper()
	var v any
	if err := yaml.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	out, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestJSONSchemaAccepts holds the schemas to the documents that are right: those
// of the format's page and of the quickstart.
func TestJSONSchemaAccepts(t *testing.T) {
	all := schemaOf(t, "")
	byKind := map[string]*jsonschema.Schema{}
	for _, kind := range Kinds() {
		byKind[kind] = schemaOf(t, kind)
	}
	docs := map[string][]byte{}
	for _, kind := range Kinds() {
		docs[kind] = []byte(formatDoc(t, kind))
	}
	quickstart := gray.Quickstart()
	err := fs.WalkDir(quickstart, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || !isDocuments(p) {
			return err
		}
		data, err := fs.ReadFile(quickstart, p)
		for i, c := range splitDocuments(data) {
			docs[p+"#"+string(rune('0'+i))] = c.text
		}
		return err
	})
	if err != nil || len(docs) < 12 {
		t.Fatalf("%d documents, %v", len(docs), err)
	}
	for name, text := range docs {
		doc := instance(t, text)
		if err := all.Validate(doc); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		own := doc.(map[string]any)["kind"]
		for kind, s := range byKind {
			if err := s.Validate(doc); (err == nil) != (kind == own) {
				t.Errorf("%s against the schema of %s: %v", name, kind, err)
			}
		}
	}
	if _, err := JSONSchema("Pod"); err == nil || err.Error() != `kind "Pod" is not known; want Gateway, GrayPolicy, Network, Node, Service or Switch` {
		t.Errorf("schema of a Pod: %v", err)
	}
}

// TestJSONSchemaRefuses holds that the schema refuses what the reader refuses,
// so that an editor shows it first. It starts from the documents of the page,
// each wrong in one place.
func TestJSONSchemaRefuses(t *testing.T) {
	s := schemaOf(t, "")
	for _, test := range []struct{ kind, old, new string }{
		{KindPolicy, "kind: GrayPolicy", "kind: GreyPolicy"},
		{KindPolicy, "gray.dev/v1alpha1", "gray.dev/v1"},
		{KindPolicy, "name: gw-v2", "name: GW_v2"},
		{KindPolicy, "name: gw-v2", "nam: gw-v2"},
		{KindPolicy, "name: gw-v2", "name: 5"},
		{KindPolicy, "spec:", "spec:\n  colour: gray"},
		{KindPolicy, "spec:", "status: {}\nspec:"},
		{KindPolicy, "kind: Gateway", "kind: Network"},
		{KindPolicy, "version: v2", "version: 2"},
		{KindPolicy, "version: v2", ""},
		{KindPolicy, "priority: 100", "priority: 0"},
		{KindPolicy, "priority: 100", "priority: 1001"},
		{KindPolicy, "priority: 100", "priority: high"},
		{KindPolicy, "suspend: false", "suspend: no"},
		{KindPolicy, `accounts: ["50002001"]`, `accounts: []`},
		{KindPolicy, `accounts: ["50002001"]`, `accounts: [50002001]`},
		{KindPolicy, "networks: [vpc-1001]", "networks: vpc-1001"},
		{KindPolicy, "10.0.0.5, 10.0.0.6", "10.0.0.5, 10.0.0.256"},
		{KindPolicy, "vni: 1001", "vni: 16777216"},
		{KindPolicy, "vni: 1001", "vni: -1"},
		{KindPolicy, "src: 10.0.0.0/24", "src: web"},
		{KindPolicy, "protocol: tcp", "protocol: gre"},
		{KindPolicy, "protocol: tcp", "protocol: 256"},
		{KindPolicy, "srcPort: 40000-40999", "srcPort: http"},
		{KindPolicy, "dstPort: 443", "dstPort: 65536"},
		{KindPolicy, "percent: 5 ", "percent: 101 "},
		{KindPolicy, "batches: [1, 5, 25%, 100%]", "batches: [0]"},
		{KindPolicy, "batches: [1, 5, 25%, 100%]", "batches: [half]"},
		{KindPolicy, "bake: 30s", "bake: 30"},
		{KindPolicy, "bake: 30s", "bake: long"},
		{KindPolicy, "approval: none", "approval: maybe"},
		{KindPolicy, "maxLoss: 0%", "maxLoss: 5"},
		{KindPolicy, `command: [check-vpc, "--quick"]`, "command: []"},
		{KindPolicy, "networkSelector: {shard: s1} #", "networkSelector: {} #"},
		{KindService, "hosts: [vpc-api.internal]", "hosts: []"},
		{KindService, "protocol: http ", "protocol: http3 "},
		{KindService, "port: 8080}", "port: 0}"},
		{KindService, "weight: 2", "weight: 1001"},
		{KindService, "retries: 1", "retries: 1.5"},
		{KindGateway, "buckets: 16384", "buckets: 255"},
		{KindGateway, "fields: [vni,", "fields: [vlan,"},
		{KindGateway, "fields: [vni, src, dst, protocol, srcPort, dstPort]", "fields: []"},
		{KindGateway, `mac: "02:00:00:00:00:11"`, `mac: "02:00:00:00:00"`},
		{KindGateway, "port: 1,", "port: 512,"},
		{KindGateway, "ports: {gw-a: 2, gw-b: 7}", "ports: {gw-a: 2, gw-b: -1}"},
		{KindGateway, "switches: [gw-a, gw-b]", "switches: [GW]"},
		{KindSwitch, "deviceID: 1", "deviceID: 0"},
		{KindSwitch, "deviceID: 1", "deviceID: 18446744073709551616"},
		{KindSwitch, "asn: 64512", "asn: 4294967296"},
		{KindSwitch, `communities: ["64512:100"]`, `communities: ["64512"]`},
		{KindNetwork, "vni: 1001", `vni: "1001"`},
		{KindNetwork, "labels: {shard: s1}", "labels: {shard: 1}"},
		{KindNetwork, "vm: web-1", `vm: ""`},
		{KindNode, "port: 15001", "port: 65536"},
	} {
		right := formatDoc(t, test.kind)
		wrong := strings.Replace(right, test.old, test.new, 1)
		if wrong == right {
			t.Errorf("%s: there is no %q", test.kind, test.old)
			continue
		}
		if err := s.Validate(instance(t, []byte(wrong))); err == nil {
			t.Errorf("%s with %q: the schema accepts it", test.kind, test.new)
		}
		if _, err := Parse(snapshot("a.yaml", wrong)); err == nil {
			t.Errorf("%s with %q: the reader accepts it", test.kind, test.new)
		}
	}
}

// scalarValidators compiles the schemas of the scalar types, by name.
func scalarValidators(t testing.TB) map[string]*jsonschema.Schema {
	all := map[string]*jsonschema.Schema{}
	for typ, schema := range scalarSchemas {
		text, err := json.Marshal(schema)
		if err != nil {
			t.Fatal(err)
		}
		all[typ.Name()] = compileSchema(t, text)
	}
	return all
}

// acceptsScalar tells whether a schema accepts a text, as a string or as the
// number that it is without quotes.
func acceptsScalar(s *jsonschema.Schema, text string) bool {
	if s.Validate(text) == nil {
		return true
	}
	number, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	return err == nil && s.Validate(number) == nil
}
